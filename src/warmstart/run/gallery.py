"""Images that a run learnt from, by their place in data.json, where they still are the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from warmstart.errors import DataError
from warmstart.modalities.preprocessing import as_picture, open_image, picture_of
from warmstart.records.data import DataRecord
from warmstart.records.inputs import Inputs, Preprocessing, WaveInputs
from warmstart.run.reopened import reopen

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
