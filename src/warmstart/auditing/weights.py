"""`warmstart audit MODEL --base START`: which tensors of a start moved, although "frozen"."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warmstart.errors import ModelError, UsageError
from warmstart.network.hub_base import is_hub_folder
from warmstart.network.hub_folder import read_folder
from warmstart.network.model_folder import read_bundle
from warmstart.network.tensors import STATISTICS, digest, place
from warmstart.network.weights import SUFFIXES, read_weights
from warmstart.records.network import Audit, AuditGroup, Fate, GroupState, Ledger, LedgerRow, Tally
from warmstart.records.run_folder import read_json

# What wrappers put before every name: data parallel training, Lightning, torch.compile, ours.
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "backbone.")

Weights = Mapping[str, Tensor]


def audit(model: str, base: str) -> Audit:
    """Compare two sets of weights by name, without building the networks.

    Each is a file of weights, a run folder, or the name of a start. Nothing is written.
    Raises: UsageError if both are the same; ModelError or RunFolderError if one of them
    cannot be read.
    """
    where = _place_of(model)
    if model == base or (where is not None and where == _place_of(base)):
        raise UsageError(
            f"MODEL and --base are the same ({model}); --base names what MODEL was made from."
        )
    theirs, ours = unify(read_tensors(model)), unify(read_tensors(base))
    pairs = list(_pairs(theirs, ours))
    rows = tuple(map(_row, pairs))
    return Audit(
        model=model,
        base=base,
        same=_tally(rows, "frozen"),
        moved=_tally(rows, "trained"),
        reshaped=_tally(rows, "reshaped"),
        only_model=_tally(rows, "new"),
        only_base=_tally(rows, "dropped"),
        carried=_carried(pairs, rows),
        rounded=tuple(dict.fromkeys(r for r in map(_rounding, pairs) if r)),
        groups=_groups(pairs, rows),
        rows=rows,
    )


def _place_of(name: str) -> Path | None:
    path = Path(name)
    return path.resolve() if path.exists() else None


def read_tensors(name: str) -> Weights:
    """The tensors behind a name: of a run folder, of a file, or of a start by its name.

    Raises: ModelError or RunFolderError if there are none.
    """
    path = Path(name)
    if is_hub_folder(path):
        return read_folder(path)
    if path.is_dir():
        return _as_listed(read_bundle(path).tensors, path / "weights_ledger.json")
    if path.suffix in SUFFIXES or path.is_file():
        return read_weights(path)
    if os.sep in name:
        raise ModelError(f"{name} does not exist; name a file of weights, a run folder or a start.")
    from warmstart.network.load import load  # a library of architectures, only where needed

    return load(name).module.state_dict()


def _as_listed(weights: Weights, ledger: Path) -> Weights:
    """A run's tensors in the order of its ledger, which is that of the network."""
    if not ledger.is_file():
        return weights
    rows = read_json(ledger, Ledger).rows
    place_of = {row.tensor: number for number, row in enumerate(rows)}
    order = sorted(weights, key=lambda name: place_of.get(_stripped(name), len(rows)))
    return {name: weights[name] for name in order}


def unify(weights: Weights) -> dict[str, Tensor]:
    """Take wrappers' prefixes off each name; a name that would no longer be unique keeps its own.

    >>> list(unify({"module.model.fc.weight": torch.zeros(1), "head.bias": torch.zeros(1)}))
    ['fc.weight', 'head.bias']
    >>> list(unify({"backbone.fc.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}))
    ['backbone.fc.weight', 'fc.weight']
    """
    short = {name: _stripped(name) for name in weights}
    times = Counter(short.values())
    return {
        short[name] if times[short[name]] == 1 else name: tensor for name, tensor in weights.items()
    }


def _stripped(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _stripped(name.removeprefix(prefix))
    return name


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tensor as it was in the start and as it is in the model; None where it is not."""

    name: str
    before: Tensor | None
    after: Tensor | None

    @property
    def group(self) -> str:
        """The first two components of the name, without its last one."""
        return ".".join(self.name.split(".")[:-1][:2]) or self.name

    @property
    def is_statistic(self) -> bool:
        """Whether a normalisation layer gathers it from the data it sees."""
        return self.name.rpartition(".")[2] in STATISTICS

    @property
    def fate(self) -> Fate:
        """What became of it; without a network at hand, same bytes mean frozen."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "dropped"
        if self.before.shape != self.after.shape:
            return "reshaped"
        return "frozen" if is_same(self.before, self.after) else "trained"


def _pairs(theirs: Weights, ours: Weights) -> Iterator[_Pair]:
    """Each tensor once, in the order of the network as far as a file tells it."""
    seen: set[tuple[object, object]] = set()
    shared: set[object] = set()
    for name in _in_order(ours, theirs):
        before, after = ours.get(name), theirs.get(name)
        key = tuple(None if t is None else place(t) for t in (before, after))
        if key in seen or (None in key and not shared.isdisjoint(key)):
            continue  # tied: it stands under another name
        seen.add((key[0], key[1]))
        if None not in key:
            shared.update(key)
        yield _Pair(name, before, after)


def _in_order(ours: Weights, theirs: Weights) -> list[str]:
    """Names of both, those in both first, as the side that is not sorted by name has them.

    Files of safetensors have lost the order of the layers: names are then sorted as people do.
    """
    sides = [list(side) for side in (ours, theirs)]
    own = next((side for side in sides if side != sorted(side)), sorted(sides[0], key=_natural))
    known = ours.keys() & theirs.keys()
    rest = [name for side in sides for name in sorted(side, key=_natural) if name not in known]
    return [name for name in own if name in known] + rest


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts `blocks.2` before `blocks.10`."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def is_same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors of one shape hold the same bytes, in the coarser of their kinds.

    >>> third = torch.tensor([1 / 3])
    >>> is_same(third, third.half()), is_same(third, third + 1e-6)
    (True, False)
    """
    kind = _coarser(before.dtype, after.dtype)
    a, b = (t.detach().to(kind).contiguous().reshape(-1).view(torch.uint8) for t in (before, after))
    return torch.equal(a, b)


def _coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The kind of number with fewer digits: what was saved in it was rounded."""
    if a == b or not (a.is_floating_point and b.is_floating_point):
        return torch.promote_types(a, b)
    return max(a, b, key=lambda kind: (torch.finfo(kind).eps, torch.finfo(kind).bits))


def _rounding(pair: _Pair) -> str | None:
    if pair.before is None or pair.after is None or pair.before.shape != pair.after.shape:
        return None
    kinds = {pair.before.dtype, pair.after.dtype}
    if len(kinds) < 2:
        return None
    coarse = _coarser(*kinds)
    (fine,) = kinds - {coarse} or {coarse}
    return f"{_kind(fine)} to {_kind(coarse)}"


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row(pair: _Pair) -> LedgerRow:
    shown = next(t for t in (pair.before, pair.after) if t is not None)
    return LedgerRow(
        tensor=pair.name,
        block=pair.group,
        fate=pair.fate,
        shape=tuple(shown.shape),
        numel=shown.numel(),
        buffer=pair.is_statistic,
        before=None if pair.before is None else digest(pair.before),
        after=None if pair.after is None else digest(pair.after),
    )


def _tally(rows: Iterable[LedgerRow], fate: Fate) -> Tally:
    sizes = [row.numel for row in rows if row.fate == fate]
    return Tally(tensors=len(sizes), numbers=sum(sizes))


def _carried(pairs: Sequence[_Pair], rows: Sequence[LedgerRow]) -> float:
    """Share of the start's weights that were compared; statistics and counts say little."""
    sizes = {True: 0, False: 0}
    for pair, row in zip(pairs, rows, strict=True):
        if pair.before is not None and not row.buffer:
            sizes[row.fate in ("frozen", "trained")] += pair.before.numel()
    return sizes[True] / max(sum(sizes.values()), 1)


def _groups(pairs: Sequence[_Pair], rows: Sequence[LedgerRow]) -> tuple[AuditGroup, ...]:
    by_name: dict[str, list[tuple[_Pair, LedgerRow]]] = {}
    for pair, row in zip(pairs, rows, strict=True):
        by_name.setdefault(row.block, []).append((pair, row))
    return tuple(_group(name, members) for name, members in by_name.items())


def _group(name: str, members: Sequence[tuple[_Pair, LedgerRow]]) -> AuditGroup:
    kinds = Counter((row.fate, row.buffer) for _, row in members)
    fates = Counter(row.fate for _, row in members)
    weights = kinds["frozen", False] + kinds["trained", False]
    statistics = kinds["frozen", True] + kinds["trained", True]
    return AuditGroup(
        name=name,
        state=_state(kinds, fates),
        weights=weights,
        weights_same=kinds["frozen", False],
        statistics=statistics,
        statistics_same=kinds["frozen", True],
        reshaped=fates["reshaped"],
        only_model=fates["new"],
        only_base=fates["dropped"],
        change=_change(members),
    )


def _state(kinds: Mapping[tuple[Fate, bool], int], fates: Mapping[Fate, int]) -> GroupState:
    if kinds.get(("trained", False)):
        return "moved"
    if kinds.get(("trained", True)):
        return "frozen in name only"
    if fates.get("frozen"):
        return "frozen"
    if fates.get("reshaped"):
        return "another shape"
    return "only in MODEL" if fates.get("new") else "only in BASE"


def _change(members: Iterable[tuple[_Pair, LedgerRow]]) -> float | None:
    """Length of the change of a group's weights over their length before."""
    change, length = 0.0, 0.0
    for pair, row in members:
        is_compared = row.fate in ("frozen", "trained") and not row.buffer
        if pair.before is None or pair.after is None or not is_compared:
            continue
        old = pair.before.detach().double()
        length += float(old.square().sum())
        if row.fate == "trained":
            change += float((pair.after.detach().double() - old).square().sum())
    ratio = math.sqrt(change / length) if length > 0 else math.nan
    return ratio if math.isfinite(ratio) else None
