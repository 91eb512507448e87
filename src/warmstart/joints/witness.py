"""One pass over labelled images with a finished model: what it says, and how they look."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.data import glance
from warmstart.data.collection import Listing
from warmstart.data.prepare import as_picture, open_image, prepare
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.features.engine import normalised
from warmstart.features.extract import Pixels, Prefetch
from warmstart.features.key import BATCH
from warmstart.inspection.twins import compared, find_twins
from warmstart.joints.processors import n_threads
from warmstart.network.outside import Array, Outside
from warmstart.planning import rules
from warmstart.records import Example, Preprocessing

_NOTHING = np.empty(0, np.uint8)  # instead of pixels where an image is only looked at


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The images that could be read, and what the model says of those that it was shown.

    Shapes: glances (n, glance.WIDTH); asked (m,) numbers the examples that were shown, scores
    (m, K), vectors (m, D). `kept` holds the pixels of some. `unreadable` maps ids to reasons.
    """

    examples: tuple[Example, ...]
    glances: NDArray[np.uint8]
    asked: NDArray[np.intp]
    scores: Array
    vectors: Array
    kept: dict[str, Pixels]
    unreadable: dict[str, str]


def question(
    listing: Listing, model: Outside, shown: Collection[str], kept: Collection[str]
) -> Steps[Seen]:
    """Decode every image once, and show the model those whose ids are in `shown`.

    `kept` are ids of shown images whose pixels are wanted again. Decoding runs in threads
    beside the model. Raises: DataError if no shown image can be read.
    """
    desk = _Desk(listing, model.preprocessing, frozenset(shown))
    todo = [
        Example(id=row.id, label=row.label, split=row.split, sha256="", group=row.group)
        for row in listing.rows
    ]
    answers = _Answers(model, frozenset(kept))
    yield Event(stage="look", kind="begin", of=len(todo), values={"total": len(todo)})
    prefetch, began = Prefetch(todo, desk.open, threads=n_threads()), time.perf_counter()
    examples: list[Example] = []
    unreadable: dict[str, str] = {}
    try:
        for done, (example, pixels) in enumerate(prefetch, 1):
            if isinstance(pixels, DataError):
                unreadable[example.id] = str(pixels).removeprefix(example.id).strip()
                continue
            if pixels is not _NOTHING:
                answers.add(example.id, len(examples), pixels)
            examples.append(replace(example, sha256=desk.hashes[example.id]))
            if done % BATCH == 0:
                speed = round(done / (time.perf_counter() - began), 1)
                yield Event(stage="look", kind="step", step=done, of=len(todo),
                            values={"per_second": speed})  # fmt: skip
    finally:
        prefetch.close()
    answers.ask()
    if not answers.rows:
        raise DataError(f"{listing.wording.source}: none of its images can be read; replace them")
    yield Event(stage="look", kind="end", step=len(todo), of=len(todo))
    return Seen(
        examples=tuple(examples),
        glances=np.stack([desk.glances[e.id] for e in examples]),
        asked=np.array(answers.rows, dtype=np.intp),
        scores=np.concatenate(answers.scores), vectors=np.concatenate(answers.vectors),
        kept=answers.pixels, unreadable=unreadable,
    )  # fmt: skip


class _Desk:
    """Opens images; hashes and glances are noted by id. Safe to use from several threads."""

    def __init__(
        self, listing: Listing, preprocessing: Preprocessing, shown: frozenset[str]
    ) -> None:
        self._load: Callable[[str], bytes] = listing.load
        self._preprocessing, self._shown = preprocessing, shown
        self.hashes: dict[str, str] = {}
        self.glances: dict[str, NDArray[np.uint8]] = {}

    def open(self, example: Example) -> Pixels:
        payload = self._load(example.id)
        image = open_image(payload, example.id, self._preprocessing)
        self.glances[example.id] = glance.glance(payload, as_picture(image))
        self.hashes[example.id] = hashlib.sha256(payload).hexdigest()
        return prepare(image, self._preprocessing) if example.id in self._shown else _NOTHING


class _Answers:
    """Gathers images into batches, and what the model says of them."""

    def __init__(self, model: Outside, kept: frozenset[str]) -> None:
        self._model, self._kept = model, kept
        self._batch: list[Pixels] = []
        self.rows: list[int] = []
        self.scores: list[Array] = []
        self.vectors: list[Array] = []
        self.pixels: dict[str, Pixels] = {}

    def add(self, id: str, row: int, pixels: Pixels) -> None:
        self.rows.append(row)
        self._batch.append(pixels)
        if id in self._kept:
            self.pixels[id] = pixels
        if len(self._batch) == BATCH:
            self.ask()

    def ask(self) -> None:
        """Show the model what waits."""
        if self._batch:
            inputs = normalised(np.stack(self._batch), self._model.preprocessing)
            scores, vectors = self._model.answer(inputs)
            self.scores.append(scores)
            self.vectors.append(vectors)
            self._batch = []


def look_alikes(seen: Seen) -> tuple[tuple[str, str], ...]:
    """Near copies among all that could be read: pairs of ids. Exact copies are no news here."""
    first: dict[str, int] = {}
    for row, example in enumerate(seen.examples):
        first.setdefault(example.sha256, row)
    rows = np.array(sorted(first.values()), dtype=np.intp)
    glances = glance.unpack(seen.glances[rows])
    is_large = glances.files().short_side() >= rules.LEAST_SIDE
    rows, glances = rows[is_large], glances.of(np.flatnonzero(is_large))
    if len(rows) < 2:
        return ()
    place = {int(row): number for number, row in enumerate(seen.asked)}
    asked = [place.get(int(row)) for row in rows]
    known = [number for number in asked if number is not None]
    vectors = compared(seen.vectors[known]) if len(known) == len(rows) else None
    found = find_twins(glances, vectors)
    same: dict[str, list[str]] = {}
    for example in seen.examples:
        same.setdefault(example.sha256, []).append(example.id)
    hashes = [seen.examples[row].sha256 for row in rows]
    return tuple(
        (one, other)
        for twin in found
        for one in same[hashes[twin.first]]
        for other in same[hashes[twin.second]]
    )


def draw(ids: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of the ids, drawn at random, in their own order.

    >>> draw(["a", "b"], 5, np.random.default_rng(0))
    ['a', 'b']
    """
    if len(ids) <= most:
        return list(ids)
    return [ids[row] for row in np.sort(rng.choice(len(ids), most, replace=False))]
