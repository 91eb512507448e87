"""Images that a run learnt from, by their place in data.json, where they still are the same."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from warmstart.data.collection import Columns, Load
from warmstart.data.prepare import as_picture, open_image
from warmstart.data.sources import list_source
from warmstart.errors import DataError, RunFolderError
from warmstart.joints.requestfile import read_request
from warmstart.records import Example, Preprocessing

SIDE = 288  # px of a thumbnail: three beside each other on a screen of high density
KEPT = 512  # thumbnails in memory, some 10 kB each


class Gallery:
    """Training examples of a run and small pictures of them.

    A picture is made only of bytes whose hash is the one in data.json: a file of the same name
    that holds something else is not what the model learnt from. No path is ever asked for.
    """

    def __init__(
        self, run: Path, examples: Sequence[Example], preprocessing: Preprocessing
    ) -> None:
        self._run = run
        self._preprocessing = preprocessing
        self._examples = examples
        self._numbers = {example.id: n for n, example in enumerate(self._examples)}
        self._lock = threading.Lock()
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
        with self._lock:
            return self._load is not None

    def _thumbnail(self, number: int) -> bytes | None:
        """A small JPEG of an example; None where it is gone, has changed, or there is none."""
        with self._lock:  # the data are listed once, whoever asks first
            load = self._load
        if load is None or not 0 <= number < len(self._examples):
            return None
        example = self._examples[number]
        try:
            payload = load(example.id)
            if hashlib.sha256(payload).hexdigest() != example.sha256:
                return None
            return _small(as_picture(open_image(payload, example.id, self._preprocessing)))
        except (DataError, OSError, KeyError):
            return None

    @cached_property
    def _load(self) -> Load | None:
        """From an example's id to its bytes; None where the run's data cannot be found."""
        try:
            asked = read_request(self._run)
            if asked.request.data is None:  # it was an object in Python
                return None
            source = str(asked.request.data)
            place = asked.place / Path(source).expanduser()
            columns = Columns(label=asked.request.label, group=asked.request.group)
            return list_source(str(place) if place.exists() else source, columns).load
        except (RunFolderError, DataError, OSError):
            return None


def _small(picture: Image.Image) -> bytes:
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    made = io.BytesIO()
    picture.save(made, "JPEG", quality=85)
    return made.getvalue()
