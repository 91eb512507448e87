"""A network for rows of a table: columns, a linear mix of them, residual blocks, an output.

Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", §3.2 (ResNet), with
LayerNorm for small tables, and piecewise linear encoding: Gorishniy et al. 2022, "On Embeddings
for Numerical Features in Tabular Deep Learning", §3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.tensors import n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import TableInputs
from warmstart.records.network import BaseModelRecord

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
    """A network for these columns with random weights; the global random state stays unchanged.

    >>> from warmstart.records.inputs import ColumnRecord
    >>> age = ColumnRecord(name="age", kind="number", knots=(-1.0, 1.0))
    >>> draw(TableInputs(columns=(age,)), 3, 0)(torch.zeros(5, 1)).shape
    torch.Size([5, 3])
    """
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
