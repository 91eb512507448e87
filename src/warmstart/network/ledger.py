"""The weights ledger: one row per tensor, which add up to the old network and to the new one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from warmstart.network.freeze import behaviour_of
from warmstart.network.lora import base_tensors, has_updates
from warmstart.network.partition import Network
from warmstart.network.surgery import BRANCH, WarmModel
from warmstart.network.weights import digest, unique_tensors
from warmstart.nouns import count
from warmstart.records.block_actions import ADDED, Action, BlockAction
from warmstart.records.network import Fate, InputChange, Ledger, LedgerRow
from warmstart.records.summary import FrozenProof

_MEANINGS: dict[Fate, str] = {
    "frozen": "unchanged bit for bit",
    "unchanged": "the same bit for bit",
    "copied": "the base model's, beside the fine-tuned",
    "trained": "fine-tuned",
    "merged": "low-rank updates added",
    "reshaped": "fitted to the input",
    "new": "not in the base model",
    "dropped": "not in the model",
}


def tensors_of(network: Network) -> dict[str, Tensor]:
    """All tensors of a network by original name, tied ones once, without low-rank updates."""
    tensors = base_tensors(network.backbone)
    if network.classifier is not None:
        for name, tensor in unique_tensors(network.classifier).items():
            tensors[f"{network.steps.classifier}.{name}"] = tensor
    return {name: tensors[name] for name in network.owners}


def take_digests(network: Network) -> dict[str, str]:
    """sha256 of each tensor of the original network; call it before anything is changed."""
    return {name: digest(tensor) for name, tensor in tensors_of(network).items()}


def write_ledger(
    before: Mapping[str, str],
    network: Network,
    model: WarmModel,
    *,
    actions: Mapping[str, Action] | None = None,
    changes: Sequence[InputChange] = (),
) -> Ledger:
    """One row per tensor of both networks, by comparing bytes with `before`.

    `actions`: what training did to each block; None: nothing was trained. Same bytes: `frozen`,
    or `unchanged` where nothing was trained; `copied`, the base model's beside a fine-tuned one.
    Other bytes: `trained`, or `merged` for the weights of low-rank blocks. Only in the old network:
    `dropped`; only in the model: `new`; a fresh block's tensors are both, in two rows. `changes`
    of surgery at the input: their rows have the digest and the shape in the base model besides, so
    that rows with `before` add up to it by `numel_before`. Low-rank updates must be merged.
    """
    remade = {change.tensor: change for change in changes if change.fate != "dropped"}
    builder = _LedgerBuilder(before, network, actions, remade)
    dropped = (
        _row(c.tensor, builder.block_of(c.tensor), None, "dropped", c.shape_before, c.before, None)
        for c in changes  # surgery at the input may make another tensor of the same name
        if c.fate == "dropped" and c.shape_before is not None
    )
    return Ledger(rows=(*builder.old_rows(model), *dropped, *builder.new_rows(model)))


def prove_frozen(ledger: Ledger, expected: frozenset[str] | None = None) -> FrozenProof:
    """Count the elements with unchanged bytes, in parameters and in buffers.

    `expected`: the blocks that should be unchanged (None: every block that still exists);
    `identical`: whether all their tensors are. Tensors reshaped by surgery at the input are not
    counted; `violations` finds those that training moved.
    """
    rows = [
        row
        for row in ledger.rows
        if row.before is not None and row.fate not in ("dropped", "reshaped")
        if expected is None or row.block in expected or row.fate == "copied"
    ]
    intact = [r for r in rows if r.before == r.after]
    once = [r for r in intact if r.fate != "copied"]
    return FrozenProof(
        parameters=sum(r.numel for r in once if not r.buffer),
        buffers=sum(r.numel for r in once if r.buffer),
        identical=len(intact) == len(rows),
    )


def violations(
    before: Mapping[str, str],
    network: Network,
    actions: Mapping[str, Action],
    model: WarmModel | None = None,
) -> tuple[str, ...]:
    """Original names of tensors of frozen and low-rank blocks that moved, buffers included.

    Once updates are merged, weights of low-rank blocks may differ. Checks `network`, or the
    backbone of `model` where it is a copy. `before`: the digests at the beginning of training.
    Raises: PlanError for a block without an action.
    """
    backbone = network.backbone if model is None else model.backbone
    now = tensors_of(network) if model is None else base_tensors(backbone)
    is_merged = not has_updates(backbone)
    moved = []
    for name, tensor in now.items():
        action = behaviour_of(actions, network.owners[name])
        is_free = action.has_updates and is_merged and _may_merge(name, tensor)
        is_frozen = not action.moves(name, False) and name in before and not is_free
        if is_frozen and digest(tensor) != before[name]:
            moved.append(name)
    return tuple(moved)


def summary_lines(ledger: Ledger) -> tuple[str, ...]:
    """The ledger in at most five lines of at most 71 columns, one for each fate.

    Statistics and other buffers count as tensors, not as weights.
    """
    rows = {fate: [row for row in ledger.rows if row.fate == fate] for fate in _MEANINGS}
    lines = [f"{f:<9} {_counted(rows[f])}, {_MEANINGS[f]}" for f in _MEANINGS if rows[f]]
    if len(lines) > 5:  # all but `unchanged`: the last two share a line
        dropped = count(len(rows["dropped"]), "tensor")
        lines[-2:] = [f"{'new':<9} {_counted(rows['new'])}; {dropped} dropped"]
    return tuple(lines)


def _counted(rows: Sequence[LedgerRow]) -> str:
    weights = sum(row.numel for row in rows if not row.buffer)
    return f"{count(len(rows), 'tensor')}, {count(weights, 'weight')}"


@dataclass(frozen=True, slots=True)
class _LedgerBuilder:
    before: Mapping[str, str]
    network: Network
    actions: Mapping[str, Action] | None
    changes: Mapping[str, InputChange]  # of tensors that surgery made

    def old_rows(self, model: WarmModel) -> Iterator[LedgerRow]:
        """Tensors of the network at the beginning of training."""
        now = model.backbone.state_dict(keep_vars=True)
        for name, old in tensors_of(self.network).items():
            if name not in self.before:
                continue
            change, tensor, block = self.changes.get(name), now.get(name), self.block_of(name)
            shape, digest_before = tuple(old.shape), self.before[name]
            if change is not None and change.shape_before is not None:
                shape, digest_before = change.shape_before, change.before or digest_before
            action = self._action(name)
            is_fresh = action is not None and action.is_random
            is_new = change is not None and change.fate == "new"
            if (tensor is None or is_fresh) and not is_new:
                yield _row(name, block, old, "dropped", shape, digest_before, None)
            if tensor is not None and (is_fresh or is_new):
                yield _row(name, block, tensor, "new", tensor.shape, None, digest(tensor))
            elif tensor is not None:
                after, fate = digest(tensor), self._fate(name, old, tensor)
                row = _row(name, block, tensor, fate, tensor.shape, digest_before, after)
                yield row if shape == row.shape else replace(row, shape_before=shape)

    def new_rows(self, model: WarmModel) -> Iterator[LedgerRow]:
        """Tensors that only the model has."""
        steps = model.scan.steps.blocks
        blocks = {f"backbone.{name}": step.name for step in steps for name in step.modules}
        branch = f"backbone.{BRANCH}."
        for name, tensor in unique_tensors(model).items():
            if name.startswith("backbone.") and name.removeprefix("backbone.") in self.before:
                continue
            shape, after = tensor.shape, digest(tensor)
            if model.scan.ensemble is not None and name.startswith(branch):
                before = self.before[name.removeprefix(branch)]
                yield _row(name, BRANCH, tensor, "copied", shape, before, after)
                continue
            outermost = ".".join(name.split(".")[:2])  # blocks are children of the backbone
            block = "head" if name.startswith("head.") else blocks.get(outermost, ADDED.name)
            yield _row(name, block, tensor, "new", shape, None, after)

    def block_of(self, name: str) -> str:
        return self.network.owners.get(name, "unused")

    def _action(self, name: str) -> BlockAction | None:
        if self.actions is None:
            return None
        return behaviour_of(self.actions, self.block_of(name))

    def _fate(self, name: str, old: Tensor, tensor: Tensor) -> Fate:
        change = self.changes.get(name)
        if tensor.shape != old.shape or (change is not None and change.fate == "reshaped"):
            return "reshaped"
        if digest(tensor) == self.before[name]:
            return "unchanged" if self.actions is None else "frozen"
        action = self._action(name)
        has_updates = action is not None and action.has_updates
        return "merged" if has_updates and _may_merge(name, tensor) else "trained"


def _may_merge(name: str, tensor: Tensor) -> bool:
    return name.endswith("weight") and tensor.ndim > 1 and isinstance(tensor, nn.Parameter)


def _row(
    name: str,
    block: str,
    tensor: Tensor | None,  # None: a parameter that is gone
    fate: Fate,
    shape: Sequence[int],
    before: str | None,
    after: str | None,
) -> LedgerRow:
    return LedgerRow(
        tensor=name,
        block=block,
        fate=fate,
        shape=tuple(shape),
        numel=math.prod(shape),
        buffer=tensor is not None and not isinstance(tensor, nn.Parameter),
        before=before,
        after=after,
    )
