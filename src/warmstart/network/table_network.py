"""A network for rows of a table: columns, a linear mix of them, residual blocks, an output.

Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", §3.2 (ResNet), with
LayerNorm for small tables, and piecewise linear encoding: Gorishniy et al. 2022, "On Embeddings
for Numerical Features in Tabular Deep Learning", §3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.weights import input_change, n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import ColumnRecord, TableInputs
from warmstart.records.network import BaseModelRecord, InputChange

ARCH = "tabular:resnet"
WIDTH, BLOCKS, DROPOUT = 64, 2, 0.2
MIX, BIAS, SPREAD, SHIFT = "mix.weight", "mix.bias", "columns", "offsets"


class ResidualBlock(nn.Module):
    """x + second(relu(first(norm(x)))): (B, W) to (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(DROPOUT)
        self.second = nn.Linear(2 * width, width)

    def forward(self, state: Tensor) -> Tensor:
        update: Tensor = self.second(self.dropout(self.first(self.norm(state)).relu()))
        return state + update


class TableNet(nn.Module):
    """Rows (B, F) to logits (B, K), in blocks: columns, mix, one for each residual block.

    The first block appends the position of numbers in each span, 0 to 1: (B, F + S).
    """

    def __init__(self, n_slots: int, n_bins: int, n_classes: int, n_blocks: int = BLOCKS) -> None:
        super().__init__()
        self.columns: Tensor
        self.offsets: Tensor
        self.register_buffer("columns", torch.zeros(n_slots, n_bins))
        self.register_buffer("offsets", torch.zeros(n_bins))
        self.mix = nn.Linear(n_slots + n_bins, WIDTH)
        self.blocks = nn.Sequential(*(ResidualBlock(WIDTH) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, n_classes)

    def forward(self, rows: Tensor) -> Tensor:
        # The matmul is written here, not in a module, so that it becomes a block.
        spans = (torch.matmul(rows, self.columns) + self.offsets).clamp(0, 1)
        state = self.mix(torch.cat([rows, spans], dim=1))
        logits: Tensor = self.output(self.norm(self.blocks(state)).relu())
        return logits


def draw(inputs: TableInputs, n_classes: int, seed: int) -> TableNet:
    """A network for these columns with random weights; the global random state stays unchanged."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = TableNet(len(inputs.slots), len(inputs.bins), n_classes)
    set_spans(module, inputs)
    return module.eval().requires_grad_(False)


def set_spans(module: TableNet, inputs: TableInputs) -> None:
    """Put the knots of the columns into the network, in place."""
    spread, shift = module.columns.zero_(), module.offsets.zero_()
    slot = span = 0
    for column in inputs.columns:
        for low, high in zip(column.knots, column.knots[1:], strict=False):
            spread[slot, span], shift[span] = 1 / (high - low), -low / (high - low)
            span += 1
        slot += len(column.slots)


def build_table(weights: Mapping[str, Tensor]) -> TableNet:
    """A network shaped as `weights`; the global random state stays unchanged.

    Raises: ModelError where they are not those of such a network.
    """
    spread = weights.get(SPREAD)
    if spread is None or spread.ndim != 2:
        raise ModelError(f"{SPREAD} is missing among the weights of a table's network; restore it.")
    n_blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    n_classes = len(weights.get("output.bias", (0, 0)))
    with torch.random.fork_rng([]):
        return TableNet(spread.shape[0], spread.shape[1], n_classes, n_blocks)


def describe(module: TableNet, inputs: TableInputs, classes: int) -> BaseModelRecord:
    """The record of an untrained network."""
    return BaseModelRecord(
        name="scratch",
        title="an untrained network for tables",
        arch=ARCH,
        sha256=tensor_digest(unique_tensors(module)),
        parameters=n_parameters(module),
        classes=classes,
        source="random weights",
        preprocessing=inputs,
        is_random=True,
    )


# ---- A network for one table adapted to another: columns keep their weights by name.
#
# The first layer is a sum over columns, so that each can be kept, begin at zero or be dropped.


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


def recolumn(
    module: TableNet, old: TableInputs, new: TableInputs
) -> tuple[TableNet, tuple[InputChange, ...]]:
    """A copy of a network that takes the columns of `new`; those not shared begin at zero.

    Returns: the network, and the changed tensors; the others are the old ones.
    """
    clone = TableNet(len(new.slots), len(new.bins), module.output.out_features, len(module.blocks))
    state = module.state_dict()
    same = {n: t for n, t in state.items() if n not in (MIX, SPREAD, SHIFT)}
    bias = state[BIAS] + state[MIX] @ at_mean(old, new)
    moved = {MIX: move_columns(state[MIX], old, new), BIAS: bias}
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


def at_mean(old: TableInputs, new: TableInputs) -> Tensor:
    """Values of dropped columns at their mean, else 0: (F + S,)."""
    dropped = {c.name for c in old.columns} - {c.name for c in new.columns}
    values = [0.0] * len(old.slots)
    for column in old.columns:
        for low, high in zip(column.knots, column.knots[1:], strict=False):
            share = min(max(-low / (high - low), 0.0), 1.0)
            values.append(share if column.name in dropped else 0.0)
    return torch.tensor(values)


def move_columns(weight: Tensor, old: TableInputs, new: TableInputs) -> Tensor:
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
