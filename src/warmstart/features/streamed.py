"""A look at a network that is larger than memory: see `belt`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.features.belt import BELTS, Belt, Chunk, Link
from warmstart.features.extract import Features, Pixels, Prefetch, Source, Vanished
from warmstart.features.key import BATCH, ShelfKey
from warmstart.features.shelf import Shelf
from warmstart.features.store import Store
from warmstart.records import Example
from warmstart.world import here


@dataclass(frozen=True, slots=True)
class Kept:
    """What link number `link` gives is wanted later, and stays on this shelf."""

    link: int
    shelf: Shelf


def belt_of(
    store: Store, key: ShelfKey, contents: Iterable[str], links: Sequence[Link], dtype: str
) -> Belt:
    """The belt of these links over some contents: an interrupted one is found again."""
    told = hashlib.sha256(f"{key.digest} {dtype} {here()}".encode())
    for content in contents:
        told.update(content.encode())
    folder = store.root / BELTS / told.hexdigest()[:32]
    return Belt(folder=folder, links=links, dtype=dtype)


def extract_streamed(
    examples: Sequence[Example], source: Source, links: Sequence[Link], dtype: str,
    kept: Kept | None = None,
) -> Steps[Features]:  # fmt: skip
    """The same as `extract`, part by part over all that is to do: the first decodes it once.

    What one of the parts gives may be `kept` beside the taps. Interrupted, it goes on after the
    last part that was done.
    Raises: TrainingError where half precision cannot hold what a part gives; OSError where the
    disk is full.
    """
    known, todo = source.store.quarantined(source.decoder), source.todo
    begin: dict[str, float | int | str] = {"total": len(examples), "missing": len(todo)}
    yield Event(stage="look", kind="begin", of=len(todo), values=begin)
    gate = _Gate(source)
    if todo:
        made = belt_of(source.store, source.shelf.key, (e.sha256 for e in examples), links, dtype)
        belt = replace(made, kept=kept.link if kept is not None else 0)
        with belt.held():
            belt.open([e.sha256 for e in todo])
            try:
                yield from belt.run(len(todo), gate.feed)
            finally:
                gate.quarantine()
            if kept is not None:
                for contents, given in belt.kept_rows():
                    kept.shelf.append(contents, [given])
            for contents, rows in belt.rows():
                source.shelf.append(contents, rows)
            belt.clear()
    reasons = known | gate.unreadable | gate.vanished
    lost = {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}
    counts: dict[str, float | int | str] = {
        "passed": gate.passed, "decoded": gate.decoded, "unreadable": len(lost),
    }  # fmt: skip
    yield Event(stage="look", kind="end", step=len(todo), of=len(todo), values=counts)
    return Features(
        shelf=source.shelf, unreadable=lost, passed=gate.passed, decoded=gate.decoded
    )  # fmt: skip


class _Gate:
    """Decodes what goes onto the belt, in batches; notes what cannot be read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.passed = self.decoded = 0
        self.unreadable: dict[str, str] = {}  # sha256 to reason
        self.vanished: dict[str, str] = {}  # the same, but not the bytes' fault

    def feed(self) -> Iterator[Chunk]:
        """Contents and their pixels, 32 at a time."""
        prefetch = Prefetch(self._source.todo, self._source.decode)
        hashes: list[str] = []
        batch: list[Pixels] = []
        try:
            for example, pixels in prefetch:
                self.decoded += 1
                if isinstance(pixels, DataError):
                    gone = isinstance(pixels, Vanished)
                    (self.vanished if gone else self.unreadable)[example.sha256] = str(pixels)
                    continue
                hashes.append(example.sha256)
                batch.append(pixels)
                if len(batch) == BATCH:
                    self.passed += BATCH
                    yield hashes, np.stack(batch)
                    hashes, batch = [], []
            if batch:
                self.passed += len(batch)
                yield hashes, np.stack(batch)
        finally:
            prefetch.close()

    def quarantine(self) -> None:
        """Remember what cannot be decoded."""
        for sha256, reason in self.unreadable.items():
            self._source.store.quarantine(self._source.decoder, sha256, reason)
