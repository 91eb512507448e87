"""`warmstart audit MODEL --base BASE`: which tensors of the base model changed, "frozen" or not."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from warmstart.errors import ModelError, UsageError
from warmstart.network.external_classifier import is_hub_folder
from warmstart.network.hub import read_folder
from warmstart.network.model_folder import read_bundle
from warmstart.network.weights import STATISTICS, SUFFIXES, digest, place, read_weights
from warmstart.records.network import Audit, AuditGroup, Fate, GroupState, Ledger, LedgerRow, Tally
from warmstart.records.run_folder import read_json

# Prefixes of wrappers: data parallel training, Lightning, torch.compile, ours.
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.")

Weights = Mapping[str, Tensor]


def audit(model: str, base: str) -> Audit:
    """Compare two sets of weights by name, without building the networks.

    Each is a file of weights, a run folder, or the name of a base model. Nothing is written.
    Raises: UsageError if both are the same; ModelError or RunFolderError if one of them
    cannot be read.
    """
    is_one_file = os.path.exists(model) and os.path.exists(base) and os.path.samefile(model, base)
    if model == base or is_one_file:
        raise UsageError(
            f"MODEL and --base are the same ({model}); --base names the model that MODEL was "
            "trained from."
        )
    pairs = list(_pairs(unify(_read_tensors(model)), unify(_read_tensors(base))))
    rows = tuple(pair.row for pair in pairs)
    by_group: dict[str, list[_Pair]] = {}
    for pair in pairs:
        by_group.setdefault(pair.row.block, []).append(pair)
    return Audit(
        model=model,
        base=base,
        same=_tally(rows, "frozen"),
        moved=_tally(rows, "trained"),
        reshaped=_tally(rows, "reshaped"),
        only_model=_tally(rows, "new"),
        only_base=_tally(rows, "dropped"),
        carried=_carried(rows),
        rounded=tuple(dict.fromkeys(r for r in map(_rounding, pairs) if r)),
        groups=tuple(_group(name, members) for name, members in by_group.items()),
        rows=rows,
    )


def _read_tensors(name: str) -> Weights:
    """The tensors of a run folder, in the order of its ledger, a file, or a base model."""
    path = Path(name)
    if is_hub_folder(path):
        return read_folder(path)
    if path.is_dir():
        weights: Weights = read_bundle(path).tensors
        ledger = path / "weights_ledger.json"
        if not ledger.is_file():
            return weights
        rows = read_json(ledger, Ledger).rows
        index = {row.tensor: number for number, row in enumerate(rows)}
        order = sorted(weights, key=lambda tensor: index.get(_strip(tensor), len(rows)))
        return {tensor: weights[tensor] for tensor in order}
    if path.suffix in SUFFIXES or path.is_file():
        return read_weights(path)
    if os.sep in name:
        raise ModelError(
            f"{name} does not exist; name a file of weights, a run folder or a base model."
        )
    from warmstart.network.load import load  # a library of architectures, only where needed

    return load(name).module.state_dict()


def unify(weights: Weights) -> dict[str, Tensor]:
    """Remove wrappers' prefixes, unless a name would no longer be unique.

    >>> list(unify({"module.model.fc.weight": torch.zeros(1), "head.bias": torch.zeros(1)}))
    ['fc.weight', 'head.bias']
    >>> list(unify({"backbone.fc.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}))
    ['backbone.fc.weight', 'fc.weight']
    """
    short = {name: _strip(name) for name in weights}
    counts = Counter(short.values())
    return {short[k] if counts[short[k]] == 1 else k: tensor for k, tensor in weights.items()}


def _strip(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _strip(name.removeprefix(prefix))
    return name


class _Pair(NamedTuple):
    """A tensor in the base model and in the model, None where it is missing, and its row."""

    before: Tensor | None
    after: Tensor | None
    row: LedgerRow


def _pairs(model: Weights, base: Weights) -> Iterator[_Pair]:
    """Each tensor once, those in both first, in the order of the network where a file has it.

    Files of safetensors are sorted by name; their names are then sorted naturally.
    """
    sides = [list(side) for side in (base, model)]
    own = next((side for side in sides if side != sorted(side)), sorted(sides[0], key=_natural))
    common = base.keys() & model.keys()
    rest = [name for side in sides for name in sorted(side, key=_natural) if name not in common]
    visited: set[tuple[object, object]] = set()
    shared: set[object] = set()
    for name in [name for name in own if name in common] + rest:
        before, after = base.get(name), model.get(name)
        key = tuple(None if t is None else place(t) for t in (before, after))
        if key in visited or (None in key and not shared.isdisjoint(key)):
            continue  # tied: it has another name too
        visited.add((key[0], key[1]))
        if None not in key:
            shared.update(key)
        yield _pair(name, before, after)


def _pair(name: str, before: Tensor | None, after: Tensor | None) -> _Pair:
    tensor = next(t for t in (before, after) if t is not None)
    row = LedgerRow(
        tensor=name,
        block=".".join(name.split(".")[:-1][:2]) or name,
        fate=_fate(before, after),
        shape=tuple(tensor.shape),
        numel=tensor.numel(),
        buffer=name.rpartition(".")[2] in STATISTICS,
        before=None if before is None else digest(before),
        after=None if after is None else digest(after),
    )
    return _Pair(before, after, row)


def _fate(before: Tensor | None, after: Tensor | None) -> Fate:
    if before is None or after is None:
        return "new" if before is None else "dropped"
    if before.shape != after.shape:
        return "reshaped"
    return "frozen" if is_same(before, after) else "trained"


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts `blocks.2` before `blocks.10`."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def is_same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors of one shape hold the same bytes, in the coarser of their dtypes.

    >>> third = torch.tensor([1 / 3])
    >>> is_same(third, third.half()), is_same(third, third + 1e-6)
    (True, False)
    """
    dtype = _coarser(before.dtype, after.dtype)
    a, b = (t.detach().to(dtype).contiguous().reshape(-1) for t in (before, after))
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def _coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The dtype of lower precision, to which saving rounded."""
    if a == b or not (a.is_floating_point and b.is_floating_point):
        return torch.promote_types(a, b)
    return max(a, b, key=lambda dtype: (torch.finfo(dtype).eps, torch.finfo(dtype).bits))


def _rounding(pair: _Pair) -> str | None:
    if pair.before is None or pair.after is None or pair.row.fate == "reshaped":
        return None
    dtypes = {pair.before.dtype, pair.after.dtype}
    if len(dtypes) < 2:
        return None
    coarse = _coarser(*dtypes)
    (fine,) = dtypes - {coarse} or {coarse}
    return f"{fine} to {coarse}".replace("torch.", "")


def _tally(rows: Sequence[LedgerRow], fate: Fate) -> Tally:
    sizes = [row.numel for row in rows if row.fate == fate]
    return Tally(tensors=len(sizes), numbers=sum(sizes))


def _carried(rows: Sequence[LedgerRow]) -> float:
    """Share of the base model's weights that were compared, without running statistics."""
    own = [row for row in rows if row.fate != "new" and not row.buffer]
    compared = sum(row.numel for row in own if row.fate in ("frozen", "trained"))
    return compared / max(sum(row.numel for row in own), 1)


def _group(name: str, members: Sequence[_Pair]) -> AuditGroup:
    kinds = Counter((pair.row.fate, pair.row.buffer) for pair in members)
    fates = Counter(pair.row.fate for pair in members)
    change, norm = 0.0, 0.0  # squared, of the weights
    for before, after, row in members:
        is_compared = row.fate in ("frozen", "trained") and not row.buffer
        if before is None or after is None or not is_compared:
            continue
        values = before.detach().double()
        norm += float(values.square().sum())
        if row.fate == "trained":
            change += float((after.detach().double() - values).square().sum())
    ratio = math.sqrt(change / norm) if norm > 0 else math.nan
    state: GroupState = "only in MODEL" if fates["new"] else "only in BASE"
    if kinds["trained", False]:
        state = "moved"
    elif kinds["trained", True]:
        state = "frozen in name only"
    elif fates["frozen"]:
        state = "frozen"
    elif fates["reshaped"]:
        state = "another shape"
    return AuditGroup(
        name=name,
        state=state,
        weights=kinds["frozen", False] + kinds["trained", False],
        weights_same=kinds["frozen", False],
        statistics=kinds["frozen", True] + kinds["trained", True],
        statistics_same=kinds["frozen", True],
        reshaped=fates["reshaped"],
        only_model=fates["new"],
        only_base=fates["dropped"],
        change=ratio if math.isfinite(ratio) else None,
    )
