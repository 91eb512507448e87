"""A network for one table takes another: columns keep their weights by name.

The first layer is a sum over columns, so that each can be kept, begun at zero or dropped alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from warmstart.errors import ModelError
from warmstart.network.finished_run import FinishedRunModel
from warmstart.network.surgery import MultiLayerHead
from warmstart.network.table_network import BIAS, MIX, SHIFT, SPREAD, WIDTH, TableNet, set_spans
from warmstart.network.tensors import digest, tensor_digest, unique_tensors
from warmstart.records.inputs import ColumnRecord, TableInputs
from warmstart.records.network import InputChange

NAMED = 3  # columns that a sentence names


def match_columns(old: TableInputs, fresh: TableInputs, name: str) -> TableInputs:
    """The columns of new data, as a network for `old` ones can take them; `name` is the start's.

    Numbers keep the start's spans, on the scale of the new rows: what was high there is high
    here, whatever the unit, the instrument or the place (Li et al. 2016, "Revisiting Batch
    Normalization For Practical Domain Adaptation", §3). Categories keep their slots; new ones
    are added.
    Raises: ModelError where no column has the name of one that the start knows.
    """
    known = {column.name: column for column in old.columns}
    shared = [c for c in fresh.columns if c.name in known and known[c.name].kind == c.kind]
    if not shared:
        has, wants = (_some([c.name for c in one.columns], 5) for one in (fresh, old))
        raise ModelError(
            f"{name} has learnt from other columns ({wants}) than the data has ({has}); rename "
            "those that mean the same, or leave --base away."
        )
    columns = (_merged(known[c.name], c) if c in shared else c for c in fresh.columns)
    return TableInputs(columns=tuple(columns))


def _merged(old: ColumnRecord, new: ColumnRecord) -> ColumnRecord:
    has_missing = old.has_missing or new.has_missing
    if new.kind == "category":
        more = tuple(value for value in new.values if value not in old.values)
        return replace(old, values=old.values + more, has_missing=has_missing)
    return replace(old, mean=new.mean, std=new.std, has_missing=has_missing)


def change_columns(base: FinishedRunModel, inputs: TableInputs) -> FinishedRunModel:
    """A run for tables as the start for other columns: its network, and its head where that
    listens to the columns themselves. Columns that are dropped stand at their mean for good.
    """
    old = base.record.preprocessing
    if not isinstance(old, TableInputs) or not isinstance(base.module, TableNet):
        raise ModelError(f"{base.record.name} takes {old.kind}s, not rows of a table.")
    wanted = match_columns(old, inputs, base.record.name)
    module, changes = recolumn(base.module, old, wanted)
    if not changes and wanted == old:
        return base
    both = f"{tensor_digest(unique_tensors(module))} {base.record.sha256} {wanted}"
    grown = sum(p.numel() for p in module.parameters()) - sum(
        p.numel() for p in base.module.parameters()
    )
    record = replace(
        base.record,
        preprocessing=wanted,
        sha256=hashlib.sha256(both.encode()).hexdigest(),
        parameters=base.record.parameters + grown,
    )
    return replace(
        base,
        module=module,
        record=record,
        changes=(*base.changes, *changes),
        head=_new_head(base, old, wanted),
        unchanged=base.origin,
    )


def _new_head(base: FinishedRunModel, old: TableInputs, new: TableInputs) -> MultiLayerHead:
    """The run's head, its weights for the columns themselves put where these stand now."""
    names = _inputs(old)
    widths = [len(names) if layer.block == 1 else WIDTH for layer in base.feature_layers]
    weights, bias = list(torch.split(base.head.weight, widths, dim=1)), base.head.bias.detach()
    for place, layer in enumerate(base.feature_layers):
        if layer.block == 1:
            bias = bias + weights[place] @ _at_mean(old, new)
            weights[place] = _columns_of(weights[place], names, _inputs(new))
    head = base.head
    made = MultiLayerHead(torch.cat(weights, dim=1), bias, head.temperature, head.class_bias)
    return made.requires_grad_(False)


def recolumn(
    module: TableNet, old: TableInputs, new: TableInputs
) -> tuple[TableNet, tuple[InputChange, ...]]:
    """A copy of a network that takes the columns of `new`; what is not shared begins at zero.

    Returns: the network, and the tensors that were changed; the others are the old ones.
    """
    clone = TableNet(len(new.slots), len(new.bins), module.output.out_features, len(module.blocks))
    state = module.state_dict()
    kept = {n: t for n, t in state.items() if n not in (MIX, SPREAD, SHIFT)}
    weight = _columns_of(state[MIX], _inputs(old), _inputs(new))
    bias = state[BIAS] + state[MIX] @ _at_mean(old, new)
    clone.load_state_dict({**clone.state_dict(), **kept, MIX: weight, BIAS: bias})
    set_spans(clone, new)
    because = _because(old, new)
    changes = [
        _change(name, state[name], tensor, text)
        for name, text in ((MIX, because), (BIAS, _MEANS), (SPREAD, _SPANS), (SHIFT, _SPANS))
        if not torch.equal(state[name], tensor := clone.state_dict()[name])
    ]
    return clone.eval().requires_grad_(False), tuple(changes)


_MEANS = "takes in what the dropped columns give at their mean"
_SPANS = "the spans of numbers stand where their columns do"


def _at_mean(old: TableInputs, new: TableInputs) -> Tensor:
    """What columns that are dropped give where they stand at their mean, else 0: (F + S,)."""
    lost = {c.name for c in old.columns} - {c.name for c in new.columns}
    found = [0.0] * len(old.slots)
    for column in old.columns:
        for low, high in zip(column.knots, column.knots[1:], strict=False):
            share = min(max(-low / (high - low), 0.0), 1.0)
            found.append(share if column.name in lost else 0.0)
    return torch.tensor(found)


def _inputs(inputs: TableInputs) -> list[str]:
    """What each column of the first layer's weights sees."""
    return [*inputs.slots, *inputs.bins]


def _columns_of(weight: Tensor, before: Sequence[str], after: Sequence[str]) -> Tensor:
    """Shapes: weight (W, len(before)) to (W, len(after))."""
    place = {name: n for n, name in enumerate(before)}
    found = weight.new_zeros(weight.shape[0], len(after))
    shared = [(n, place[name]) for n, name in enumerate(after) if name in place]
    into, out = zip(*shared, strict=True)
    found[:, list(into)] = weight[:, list(out)]
    return found


def _because(old: TableInputs, new: TableInputs) -> str:
    before, after = ({c.name for c in one.columns} for one in (old, new))
    told = [f"{len(before & after):,} columns keep their weights by name"]
    if fresh := [c.name for c in new.columns if c.name not in before]:
        told.append(f"{len(fresh):,} new begin at zero ({_some(fresh)})")
    if lost := [c.name for c in old.columns if c.name not in after]:
        told.append(f"{len(lost):,} of the start's are dropped ({_some(lost)})")
    return ", ".join(told)


def _some(names: Iterable[str], most: int = NAMED) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _change(name: str, before: Tensor, after: Tensor, because: str) -> InputChange:
    return InputChange(
        tensor=name,
        fate="reshaped",
        shape_before=tuple(before.shape),
        shape_after=tuple(after.shape),
        before=digest(before),
        because=because,
    )
