"""The images of a finished run, read again where their bytes have not changed."""

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
SIDE = 288  # px of a thumbnail: three side by side on a high-density screen
CACHED = 512  # thumbnails in memory, some 10 kB each
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reopened:
    """The examples of a run and access to their bytes; `load` is None where that is lost."""

    record: DataRecord
    prep: Inputs
    load: Load | None

    def payload(self, example: Example) -> bytes | None:
        """The bytes of an example, or None: it is gone, unreadable or has changed."""
        if self.load is None:
            return None
        try:
            payload = self.load(example.id)
        except (DataError, OSError, KeyError):
            return None
        return payload if hashlib.sha256(payload).hexdigest() == example.sha256 else None

    def pixels(self, example: Example) -> Pixels | None:
        """The prepared image (H, W, C); None as for `payload`."""
        payload = self.payload(example)
        if payload is None:
            return None
        try:
            return encode(payload, example.id, self.prep)
        except (DataError, OSError, KeyError):
            return None

    def batches(self, examples: Sequence[Example]) -> Iterator[tuple[list[Example], Pixels]]:
        """The available images, in order, in batches (m, H, W, C), m up to 32."""
        for start in range(0, len(examples), BATCH):
            batch = [(e, self.pixels(e)) for e in examples[start : start + BATCH]]
            images = [(example, image) for example, image in batch if image is not None]
            if images:
                yield [example for example, _ in images], np.stack([image for _, image in images])

    def some(self, examples: Sequence[Example], n: int) -> Pixels | None:
        """At most `n` prepared images, evenly spaced, (m, H, W, C); None if none is available."""
        rows = spread(np.arange(len(examples)), n)
        pixels = [self.pixels(examples[row]) for row in rows]
        images = [image for image in pixels if image is not None]
        return np.stack(images) if images else None

    def cells(self, n: int) -> list[dict[str, str]]:
        """The rows of a table behind `some`, as they are written."""
        examples = self.record.examples
        rows = [examples[row] for row in spread(np.arange(len(examples)), n)]
        readable = [example for example in rows if self.pixels(example) is not None]
        return [unpack(self.load(example.id)) for example in readable if self.load is not None]

    def of(self, *splits: str) -> list[Example]:
        """The examples of some splits, in the order of data.json."""
        return [example for example in self.record.examples if example.split in splits]


def reopen(
    run: Path, record: DataRecord, prep: Inputs, data: Any = None, test: Any = None
) -> Reopened:
    """Find a run's images: in `data` (and `test`) if given, else where the run found them.

    An image counts only if its bytes have the hash in data.json: what a folder holds now is not
    taken for the training data.
    Raises: DataError if `data` or `test` is given and cannot be listed.
    """
    request, place, columns = None, Path(), Columns()
    try:
        file = read_request(run)
        request, place = file.request, file.place
        columns = columns_of(request)
    except RunFolderError:
        pass  # an older run, or one made elsewhere: its images must be named
    if data is not None:
        return Reopened(record, prep, _list(data, test, columns))
    if request is None or request.data is None:  # None: it was an object in Python
        return Reopened(record, prep, None)
    if test is None and request.test is not None:
        test = _resolve(request.test, place)
    try:
        return Reopened(record, prep, _list(_resolve(request.data, place), test, columns))
    except (DataError, OSError):
        return Reopened(record, prep, None)


def _list(data: Any, test: Any, columns: Columns) -> Load:
    listing = list_source(data, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    return listing.load


def _resolve(source: Any, place: Path) -> Any:
    """A path relative to where the run began; names such as sample:digits stay."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    there = place / Path(source).expanduser()
    return str(there) if there.exists() else os.fspath(source)


class Gallery:
    """Training examples of a run and their thumbnails.

    A thumbnail is made only of bytes with the hash in data.json: a file of the same name with
    other content is no training example. No path is ever taken from a client.
    """

    def __init__(self, run: Path, record: DataRecord, preprocessing: Inputs) -> None:
        self._images = reopen(run, record, preprocessing)
        self._examples = record.examples
        self._numbers = {example.id: n for n, example in enumerate(record.examples)}
        self.thumbnail: Callable[[int], bytes | None] = lru_cache(CACHED)(self._thumbnail)

    def number(self, id: str) -> int | None:
        """The position of an example in data.json; None if it is not there."""
        return self._numbers.get(id)

    def label(self, number: int) -> str:
        """The label of an example, by its position."""
        return self._examples[number].label

    @property
    def is_there(self) -> bool:
        """Whether the run's data can still be listed."""
        return self._images.load is not None

    def _thumbnail(self, number: int) -> bytes | None:
        """A small JPEG of an example; None where it is gone or has changed, or is no image."""
        if not 0 <= number < len(self._examples):
            return None
        example, prep = self._examples[number], self._images.prep
        payload = self._images.payload(example)
        try:
            if payload is not None and isinstance(prep, WaveInputs):
                return small_jpeg(picture_of(payload, example.id, SIDE))
            if payload is not None and isinstance(prep, Preprocessing):
                return small_jpeg(as_picture(open_image(payload, example.id, prep)))
        except (DataError, OSError, KeyError):
            pass
        return None


def small_jpeg(picture: Image.Image) -> bytes:
    """A thumbnail of at most SIDE px, as JPEG."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
