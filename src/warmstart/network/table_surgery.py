"""A network for one table adapted to another: columns keep their weights by name.

The first layer is a sum over columns, so that each can be kept, begin at zero or be dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from warmstart.errors import ModelError
from warmstart.network.finished_run import FinishedRunModel
from warmstart.network.surgery import MultiLayerHead
from warmstart.network.table_network import BIAS, MIX, SHIFT, SPREAD, WIDTH, TableNet, set_spans
from warmstart.network.tensors import input_change, n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import ColumnRecord, TableInputs
from warmstart.records.network import InputChange


def match_columns(old: TableInputs, new: TableInputs, name: str) -> TableInputs:
    """The columns of new data for a network trained on `old` ones; `name` is the base model's.

    Numbers keep the base model's spans, on the scale of the new rows: what was high there is high
    here, whatever the unit, the instrument or the place (Li et al. 2016, "Revisiting Batch
    Normalization For Practical Domain Adaptation", §3). Categories keep their slots; new ones
    are added.
    Raises: ModelError where no column has the name of one of the base model's.
    """
    by_name = {column.name: column for column in old.columns}
    shared = [c for c in new.columns if c.name in by_name and by_name[c.name].kind == c.kind]
    if not shared:
        has, wants = (_first_names([c.name for c in one.columns], 5) for one in (new, old))
        raise ModelError(
            f"{name} was trained on other columns ({wants}) than the data has ({has}); rename "
            "those that mean the same, or omit --base."
        )
    columns = (_merge(by_name[c.name], c) if c in shared else c for c in new.columns)
    return TableInputs(columns=tuple(columns))


def _merge(old: ColumnRecord, new: ColumnRecord) -> ColumnRecord:
    has_missing = old.has_missing or new.has_missing
    if new.kind == "category":
        more = tuple(value for value in new.values if value not in old.values)
        return replace(old, values=old.values + more, has_missing=has_missing)
    return replace(old, mean=new.mean, std=new.std, has_missing=has_missing)


def change_columns(base: FinishedRunModel, inputs: TableInputs) -> FinishedRunModel:
    """Adapt the network and head of a run on a table to other columns.

    Dropped columns count with their mean for good.
    Raises: ModelError where the run was on other data, or no column has the same name.
    """
    if not isinstance(base.module, TableNet):
        raise ModelError(
            f"{base.record.name} takes {base.record.preprocessing.kind}s, not rows of a table."
        )
    old = cast(TableInputs, base.record.preprocessing)
    new = match_columns(old, inputs, base.record.name)
    module, changes = recolumn(base.module, old, new)
    if not changes and new == old:
        return base
    both = f"{tensor_digest(unique_tensors(module))} {base.record.sha256} {new}"
    sha256 = hashlib.sha256(both.encode()).hexdigest()
    parameters = base.record.parameters + n_parameters(module) - n_parameters(base.module)
    return replace(
        base,
        module=module,
        record=replace(base.record, preprocessing=new, sha256=sha256, parameters=parameters),
        changes=(*base.changes, *changes),
        head=_new_head(base, old, new),
        unchanged=base.origin,
    )


def _new_head(base: FinishedRunModel, old: TableInputs, new: TableInputs) -> MultiLayerHead:
    """The run's head, its weights for the columns themselves moved to their new positions."""
    head, n_inputs = base.head, len(old.slots) + len(old.bins)
    widths = [n_inputs if layer.block == 1 else WIDTH for layer in base.feature_layers]
    weights, bias = list(torch.split(head.weight, widths, dim=1)), head.bias.detach()
    for n, layer in enumerate(base.feature_layers):
        if layer.block == 1:
            bias = bias + weights[n] @ _at_mean(old, new)
            weights[n] = _move_columns(weights[n], old, new)
    moved = MultiLayerHead(torch.cat(weights, dim=1), bias, head.temperature, head.class_bias)
    return moved.requires_grad_(False)


def recolumn(
    module: TableNet, old: TableInputs, new: TableInputs
) -> tuple[TableNet, tuple[InputChange, ...]]:
    """A copy of a network that takes the columns of `new`; those not shared begin at zero.

    Returns: the network, and the changed tensors; the others are the old ones.
    """
    clone = TableNet(len(new.slots), len(new.bins), module.output.out_features, len(module.blocks))
    state = module.state_dict()
    same = {n: t for n, t in state.items() if n not in (MIX, SPREAD, SHIFT)}
    bias = state[BIAS] + state[MIX] @ _at_mean(old, new)
    moved = {MIX: _move_columns(state[MIX], old, new), BIAS: bias}
    clone.load_state_dict({**clone.state_dict(), **same, **moved})
    set_spans(clone, new)
    spans = "the spans of numbers move with their columns"
    reasons = {
        MIX: _because(old, new),
        BIAS: "absorbs the dropped columns at their mean",
        SPREAD: spans,
        SHIFT: spans,
    }
    changes = [
        input_change(name, state[name], tensor, because)
        for name, because in reasons.items()
        if not torch.equal(state[name], tensor := clone.state_dict()[name])
    ]
    return clone.eval().requires_grad_(False), tuple(changes)


def _at_mean(old: TableInputs, new: TableInputs) -> Tensor:
    """Values of dropped columns at their mean, else 0: (F + S,)."""
    dropped = {c.name for c in old.columns} - {c.name for c in new.columns}
    values = [0.0] * len(old.slots)
    for column in old.columns:
        for low, high in zip(column.knots, column.knots[1:], strict=False):
            share = min(max(-low / (high - low), 0.0), 1.0)
            values.append(share if column.name in dropped else 0.0)
    return torch.tensor(values)


def _move_columns(weight: Tensor, old: TableInputs, new: TableInputs) -> Tensor:
    """Weights for the inputs of `new`, those without a namesake zero: (W, F + S) both."""
    before = {name: n for n, name in enumerate((*old.slots, *old.bins))}
    after = (*new.slots, *new.bins)
    moved = weight.new_zeros(weight.shape[0], len(after))
    shared = [(n, before[name]) for n, name in enumerate(after) if name in before]
    into, out = zip(*shared, strict=True)
    moved[:, list(into)] = weight[:, list(out)]
    return moved


def _because(old: TableInputs, new: TableInputs) -> str:
    before, after = ([column.name for column in inputs.columns] for inputs in (old, new))
    clauses = [f"{len({*before} & {*after}):,} columns keep their weights by name"]
    if added := [name for name in after if name not in before]:
        clauses.append(f"{len(added):,} new begin at zero ({_first_names(added)})")
    if lost := [name for name in before if name not in after]:
        clauses.append(f"{len(lost):,} of the base model's are dropped ({_first_names(lost)})")
    return ", ".join(clauses)


def _first_names(names: Sequence[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (", …" if len(names) > n else "")
