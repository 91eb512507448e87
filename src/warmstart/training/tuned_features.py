"""A second look: the taps of a network that was trained here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.features.batches import to_tensor
from warmstart.features.cache import Store, StoredTaps
from warmstart.features.cache_key import BATCH, Column, ScratchKey
from warmstart.network.cut import stored_taps
from warmstart.network.feature_layers import Scan, plan_scan
from warmstart.network.partition import Network
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import Tap
from warmstart.training.dataset import ReadTap
from warmstart.training.live import prepared, roomy_folder
from warmstart.training.shared import Source


class SecondLook:
    """A reader of a trained network's taps: images are passed when first asked for.

    What was learnt from is passed from where training took it; other images are decoded. Rows
    lie in a folder of their own that ends with this.
    """

    def __init__(
        self,
        network: Network,
        taps: Sequence[Tap],
        source: Source,
        learn: Sequence[Example],
        collection: Collection,
        prep: Inputs,
    ) -> None:
        self._network, self._scan = network, plan_scan(network, taps)
        self._source, self._collection, self._prep = source, collection, prep
        self._rows = {example.sha256: row for row, example in enumerate(learn)}
        width = 4 * sum(self._scan.widths)
        # Kept for as long as this is: the folder goes with it.
        self._folder = tempfile.TemporaryDirectory(
            prefix="warmstart-", dir=roomy_folder(width * (len(learn) + 1))
        )
        key = ScratchKey(taps=tuple(Column(name=tap.name) for tap in taps))
        self._shelf = Store(Path(self._folder.name)).shelf(key)

    def __call__(self, examples: Sequence[Example]) -> ReadTap:
        """From examples to the reader of their taps, (n, d_t) each."""
        hashes = [example.sha256 for example in examples]
        lost = set(self._shelf.missing(hashes))
        todo = list({e.sha256: e for e in examples if e.sha256 in lost}.values())
        for contents, rows in self._made(todo):
            self._shelf.append(contents, rows)
        return StoredTaps(self._shelf, tuple(examples))

    def _made(self, todo: Sequence[Example]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """Contents and their taps, a batch at a time; several processes pass a share each."""
        for own in _rounds(todo):
            made = (
                ([e.sha256 for e in chunk], self._pass(inputs, cut))
                for chunk, inputs, cut in self._inputs(own)
            )
            if here().size == 1:
                yield from made
            else:
                yield from (part for found in here().gathered([*made]) for part in found)

    def _inputs(
        self, todo: Sequence[Example]
    ) -> Iterator[tuple[Sequence[Example], tuple[Tensor, ...], int]]:
        """Examples, what the network takes for them, and the cut above which that is."""
        learnt = [example for example in todo if example.sha256 in self._rows]
        for at in range(0, len(learnt), BATCH):
            chunk = learnt[at : at + BATCH]
            rows = np.array([self._rows[e.sha256] for e in chunk])
            plain = np.zeros(len(rows), np.int64)
            yield chunk, self._source.batch(rows, plain, self._scan.taps), self._source.cut
        others = [example for example in todo if example.sha256 not in self._rows]
        images = prepared(self._collection, others, self._prep)
        for at in range(0, len(others), BATCH):
            chunk = others[at : at + BATCH]
            pixels = np.stack([next(images) for _ in chunk])
            yield chunk, (to_tensor(pixels, self._prep),), 0

    def _pass(self, inputs: tuple[Tensor, ...], cut: int) -> list[np.ndarray]:
        return [rows.numpy() for rows in run_from(self._network, self._scan, cut, inputs)]


def _rounds(todo: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """What this process passes before all exchange what they have: a batch, alone everything."""
    world = here()
    if world.size == 1:
        yield todo
        return
    for at in range(0, len(todo), BATCH * world.size):
        first = at + BATCH * world.rank
        yield todo[first : first + BATCH]


def run_from(
    network: Network, scan: Scan, cut: int, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The taps of a scan from what a source gives: main (b, …), then taps below the cut."""
    taken = dict(zip(stored_taps(scan.taps, cut), inputs[1:], strict=True))
    network.trunk.eval()
    with torch.inference_mode():
        return scan.onward(network.trunk, cut, inputs[0].clone(), taken)
