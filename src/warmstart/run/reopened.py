"""The images of a finished run, read again: those whose bytes are what they were then."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.data.dataset import Columns, Load
from warmstart.data.read import with_test
from warmstart.data.sources import list_source
from warmstart.errors import DataError, RunFolderError
from warmstart.modalities.preprocessing import as_picture, encode, open_image, picture_of
from warmstart.modalities.table import unpack
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Inputs, Preprocessing, WaveInputs
from warmstart.request import columns_of, read_request
from warmstart.training.validation import spread

BATCH = 32  # images at a time
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reopened:
    """The examples of a run and the way to their bytes; `load` is None where that is lost."""

    record: DataRecord
    prep: Inputs
    load: Load | None

    def pixels(self, example: Example) -> Pixels | None:
        """The prepared image (H, W, C), or None: it is gone, unreadable or another one now."""
        if self.load is None:
            return None
        try:
            payload = self.load(example.id)
            if hashlib.sha256(payload).hexdigest() != example.sha256:
                return None
            return encode(payload, example.id, self.prep)
        except (DataError, OSError, KeyError):
            return None

    def batches(self, examples: Sequence[Example]) -> Iterator[tuple[list[Example], Pixels]]:
        """Those that are there, in order, some at a time: (m, H, W, C), m up to 32."""
        for start in range(0, len(examples), BATCH):
            found = [(e, self.pixels(e)) for e in examples[start : start + BATCH]]
            there = [(example, image) for example, image in found if image is not None]
            if there:
                yield [example for example, _ in there], np.stack([image for _, image in there])

    def some(self, examples: Sequence[Example], n: int) -> Pixels | None:
        """At most `n` prepared images at equal distances, (m, H, W, C); None if none is there."""
        places = spread(np.arange(len(examples)), n)
        found = [self.pixels(examples[place]) for place in places]
        there = [image for image in found if image is not None]
        return np.stack(there) if there else None

    def cells(self, n: int) -> list[dict[str, str]]:
        """The rows of a table behind `some`, as they are written."""
        examples = self.record.examples
        found = [examples[place] for place in spread(np.arange(len(examples)), n)]
        there = [example for example in found if self.pixels(example) is not None]
        return [unpack(self.load(example.id)) for example in there if self.load is not None]

    def of(self, *splits: str) -> list[Example]:
        """The examples of some splits, in the order of data.json."""
        return [example for example in self.record.examples if example.split in splits]


def reopen(
    run: Path, record: DataRecord, prep: Inputs, data: Any = None, test: Any = None
) -> Reopened:
    """Find a run's images: in `data` (and `test`) if given, else where the run found them.

    An image counts only if its bytes have the hash in data.json, so that a folder that holds
    something else now is not taken for what the model learnt from.
    Raises: DataError if `data` or `test` is given and cannot be listed.
    """
    asked, place, columns = None, Path(), Columns()
    try:
        file = read_request(run)
        asked, place = file.request, file.place
        columns = columns_of(asked)
    except RunFolderError:
        pass  # an older run, or one made elsewhere: its images must be named
    if data is not None:
        return Reopened(record, prep, _listed(data, test, columns))
    if asked is None or asked.data is None:  # None: it was an object in Python
        return Reopened(record, prep, None)
    later = test if test is not None or asked.test is None else _placed(asked.test, place)
    try:
        return Reopened(record, prep, _listed(_placed(asked.data, place), later, columns))
    except (DataError, OSError):
        return Reopened(record, prep, None)


def _listed(data: Any, test: Any, columns: Columns) -> Load:
    listing = list_source(data, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    return listing.load


def _placed(source: Any, place: Path) -> Any:
    """A path as it was meant where the run began; names such as sample:digits stay."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    there = place / Path(source).expanduser()
    return str(there) if there.exists() else os.fspath(source)


# ---- Images that a run learnt from, by their place in data.json, where they still are the same.


SIDE = 288  # px of a thumbnail: three beside each other on a screen of high density
KEPT = 512  # thumbnails in memory, some 10 kB each


class Gallery:
    """Training examples of a run and small pictures of them.

    A picture is made only of bytes whose hash is the one in data.json: a file of the same name
    that holds something else is not what the model learnt from. No path is ever asked for.
    """

    def __init__(self, run: Path, record: DataRecord, preprocessing: Inputs) -> None:
        self._images = reopen(run, record, preprocessing)
        self._examples = record.examples
        self._numbers = {example.id: n for n, example in enumerate(record.examples)}
        self.thumbnail: Callable[[int], bytes | None] = lru_cache(KEPT)(self._thumbnail)

    def number(self, id: str) -> int | None:
        """The place of an example in data.json; None if it is not there."""
        return self._numbers.get(id)

    def label(self, number: int) -> str:
        """The label of an example, by its place."""
        return self._examples[number].label

    @property
    def is_there(self) -> bool:
        """Whether the data that the run was made of can still be listed."""
        return self._images.load is not None

    def _thumbnail(self, number: int) -> bytes | None:
        """A small JPEG of an example; None where it is gone, has changed, or there is none."""
        load = self._images.load
        if load is None or not 0 <= number < len(self._examples):
            return None
        example = self._examples[number]
        try:
            payload = load(example.id)
            if hashlib.sha256(payload).hexdigest() != example.sha256:
                return None
            prep = self._images.prep
            if isinstance(prep, WaveInputs):
                return small_jpeg(picture_of(payload, example.id, SIDE))
            if not isinstance(prep, Preprocessing):
                return None
            return small_jpeg(as_picture(open_image(payload, example.id, prep)))
        except (DataError, OSError, KeyError):
            return None


def small_jpeg(picture: Image.Image) -> bytes:
    """A picture made small enough for many of them on one screen."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    made = io.BytesIO()
    picture.save(made, "JPEG", quality=85)
    return made.getvalue()
