"""A network larger than memory: when it is streamed from its file, and how a part is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from warmstart.features.batches import to_tensor
from warmstart.features.engine import Engine, Pixels, arranged
from warmstart.features.offload import Floats, Link, Values, padded
from warmstart.network.partition import Network
from warmstart.network.single_block import Lone
from warmstart.records.inputs import Inputs
from warmstart.records.network import PartRecord, Tap


def links(network: Network, taps: Sequence[Tap], upto: int, prep: Inputs) -> tuple[Link, ...]:
    """Parts 1 to `upto` as links of a belt, with the taps that are taken on the way."""
    return tuple(
        Link(
            name=part.name,
            cost=part.macs,
            open=partial(_open, network, number, taps, prep),
        )
        for number, part in enumerate(network.record.parts[:upto], 1)
    )


def one_by_one(parts: Sequence[Link]) -> Engine:
    """An engine that brings one part after the other into memory for every batch.

    Gives the last part's output, (n, width), and the taps of all.
    """

    def run(images: Pixels) -> list[Floats]:
        rows: Values = images
        found: list[Floats] = []
        for part in parts:
            rows, taps = padded(part.open(), rows)
            found += taps
        return [rows, *found]

    return run


def _open(
    network: Network, number: int, taps: Sequence[Tap], prep: Inputs
) -> Callable[[Values], tuple[Floats, list[Floats]]]:
    parts = network.record.parts
    before = None if number == 1 else parts[number - 2]
    return _Pass(Lone(network, number, taps), before, parts[number - 1], prep)


@dataclass
class _Pass:
    """A part on rows: what the part before it gave, or images."""

    lone: torch.nn.Module
    before: PartRecord | None
    part: PartRecord
    prep: Inputs
    _is_ready: bool = field(default=False)

    def __call__(self, rows: Values) -> tuple[Floats, list[Floats]]:
        """Rows (b, width), or images (b, H, W, C), to what the part gives and its taps."""
        inputs = to_tensor(rows, self.prep) if self.before is None else as_state(rows, self.before)
        if not self._is_ready:
            self.lone, self._is_ready = arranged(self.lone, inputs[:2]), True
        with torch.inference_mode():
            main, *taps = self.lone(inputs)
        return as_rows(main, self.part), [tap.numpy() for tap in taps]


def as_rows(main: Tensor, part: PartRecord) -> Floats:
    """What a part gave, (b, …), one row an image; maps in the order they have in memory."""
    if part.layout == "NCHW":
        main = main.permute(0, 2, 3, 1)
    rows: Floats = np.ascontiguousarray(main.float().numpy()).reshape(len(main), -1)
    return rows


def as_state(rows: Values, part: PartRecord) -> Tensor:
    """The same back: (b, width) to (b, …), maps channels_last."""
    values = torch.from_numpy(np.require(rows, requirements="W"))
    if part.layout != "NCHW":
        return values.view(len(rows), *part.shape_out)
    channels, *sides = part.shape_out
    return values.view(len(rows), *sides, channels).permute(0, 3, 1, 2)
