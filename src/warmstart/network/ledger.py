"""What became of each tensor: rows that add up to the old network and to the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from warmstart.network.edit import WarmModel
from warmstart.network.parts import Network
from warmstart.network.tensors import digest, unique_tensors
from warmstart.records import Fate, FrozenProof, Ledger, LedgerRow


def tensors_of(network: Network) -> dict[str, Tensor]:
    """All tensors of the original network by their original names, tied ones once.

    >>> from warmstart.network import load, parts
    >>> start = load.load("lite0")
    >>> network = parts.cut(start.module, start.record.preprocessing)
    >>> tensors_of(network).keys() == start.module.state_dict().keys()
    True
    """
    found = dict(unique_tensors(network.trunk))
    if network.classifier is not None:
        for name, tensor in unique_tensors(network.classifier).items():
            found[f"{network.steps.classifier}.{name}"] = tensor
    return {name: found[name] for name in network.owners}


def take_digests(network: Network) -> dict[str, str]:
    """sha256 of each tensor of the original network: take them before anything is changed."""
    return {name: digest(tensor) for name, tensor in tensors_of(network).items()}


def write_ledger(
    before: Mapping[str, str], network: Network, model: WarmModel, *, trained: bool
) -> Ledger:
    """One row per tensor of both networks, by comparing bytes with `before`.

    Same bytes: `frozen` where training ran (`trained`), else `kept`. Other bytes:
    `trained`; another shape: `reshaped`. Only in the old network: `dropped`; only in the
    model: `new`.

    >>> from warmstart.network import edit, load, parts
    >>> from warmstart.records import Tap
    >>> import torch
    >>> start = load.load("lite0")
    >>> network = parts.cut(start.module, start.record.preprocessing)
    >>> taken = take_digests(network)
    >>> head = torch.zeros(2, 1280), torch.zeros(2)
    >>> model = edit.assemble(network, [Tap(part=18, pool="neck")], *head)
    >>> ledger = write_ledger(taken, network, model, trained=False)
    >>> sorted({row.fate for row in ledger.rows})
    ['dropped', 'kept', 'new']
    """
    same: Fate = "frozen" if trained else "kept"
    return Ledger(rows=(*_old_rows(before, network, model, same), *_new_rows(network, model)))


def prove_frozen(ledger: Ledger, expected: frozenset[str] | None = None) -> FrozenProof:
    """Count the elements whose bytes are what they were, in parameters and in buffers.

    `expected` names the parts that should be so (None: every part that is still there);
    `identical` says whether each of their tensors is.
    """
    rows = [r for r in ledger.rows if r.before is not None and r.fate != "dropped"]
    rows = [r for r in rows if expected is None or r.part in expected]
    intact = [r for r in rows if r.before == r.after]
    return FrozenProof(
        parameters=sum(r.numel for r in intact if not r.buffer),
        buffers=sum(r.numel for r in intact if r.buffer),
        identical=len(intact) == len(rows),
    )


def _old_rows(
    before: Mapping[str, str], network: Network, model: WarmModel, same: Fate
) -> Iterator[LedgerRow]:
    now = model.trunk.state_dict(keep_vars=True)
    for name, old in tensors_of(network).items():
        tensor = now.get(name)
        after = None if tensor is None else digest(tensor)
        yield LedgerRow(
            tensor=name,
            part=network.owners[name],
            fate=_fate(before[name], after, old, tensor, same),
            shape=tuple(old.shape),
            numel=old.numel(),
            buffer=not isinstance(old, nn.Parameter),
            before=before[name],
            after=after,
        )


def _fate(before: str, after: str | None, old: Tensor, tensor: Tensor | None, same: Fate) -> Fate:
    if tensor is None:
        return "dropped"
    if tensor.shape != old.shape:
        return "reshaped"
    return same if after == before else "trained"


def _new_rows(network: Network, model: WarmModel) -> Iterator[LedgerRow]:
    for name, tensor in unique_tensors(model).items():
        if name.startswith("trunk.") and name.removeprefix("trunk.") in network.owners:
            continue
        yield LedgerRow(
            tensor=name,
            part="head" if name.startswith("head.") else "added",
            fate="new",
            shape=tuple(tensor.shape),
            numel=tensor.numel(),
            buffer=not isinstance(tensor, nn.Parameter),
            before=None,
            after=digest(tensor),
        )
