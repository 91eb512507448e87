"""The images of a finished run, read again where their bytes have not changed, and shown."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from warmstart.data.dataset import Listing, Load
from warmstart.data.read import list_examples, list_source
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.formatting import printable
from warmstart.modalities.registry import modality_of
from warmstart.modalities.table import unpack
from warmstart.planning.plan_file import open_plan
from warmstart.planning.schedule import Schedule, schedule
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.run_folder import read_json
from warmstart.request import Request, columns_of, read_request
from warmstart.run.predictor import input_picture
from warmstart.training.augmentations import augmentations_of, numbered_augmentation
from warmstart.training.early_stopping import spread

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
        with suppress(DataError, OSError, KeyError):
            payload = None if self.load is None else self.load(example.id)
            if payload is not None and hashlib.sha256(payload).hexdigest() == example.sha256:
                return payload
        return None

    def pixels(self, example: Example) -> Pixels | None:
        """The prepared image (H, W, C); None as for `payload`."""
        payload = self.payload(example)
        with suppress(DataError, OSError, KeyError):
            if payload is not None:
                return modality_of(self.prep).encode(payload, example.id, self.prep)
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
    request, place = Request(data=None), Path()
    with suppress(RunFolderError):  # of a run made elsewhere: its images must be named
        file = read_request(run)
        request, place = file.request, file.place
    columns = columns_of(request)
    if data is not None:
        return Reopened(record, prep, list_examples(data, columns, test).load)
    load = None
    if request.data is not None:  # else it was an object in Python
        if test is None and request.test is not None:
            test = _resolve(request.test, place)
        with suppress(DataError, OSError):
            load = list_examples(_resolve(request.data, place), columns, test).load
    return Reopened(record, prep, load)


def _resolve(source: Any, place: Path) -> Any:
    """A path relative to where the run began; names such as sample:digits stay."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    there = place / Path(source).expanduser()
    return str(there) if there.exists() else os.fspath(source)


class Gallery:
    """Training examples of a run and their thumbnails, by their position in data.json.

    No path is ever taken from a client.
    """

    def __init__(self, run: Path, record: DataRecord, preprocessing: Inputs) -> None:
        self._images = reopen(run, record, preprocessing)
        self._examples = record.examples
        self._numbers = {example.id: n for n, example in enumerate(record.examples)}
        self.thumbnail: Callable[[int], bytes | None] = lru_cache(CACHED)(self._thumbnail)

    def number(self, id: str) -> int | None:
        """The position of an example; None if it is not there."""
        return self._numbers.get(id)

    def label(self, number: int) -> str:
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
        with suppress(DataError, OSError, KeyError):
            if payload is not None and (modality := modality_of(prep)).has_thumbnails:
                return small_jpeg(modality.picture(modality.open(payload, example.id, prep)))
        return None


def small_jpeg(picture: Image.Image) -> bytes:
    """A thumbnail of at most SIDE px, as JPEG."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


TILE = 112  # px of a tile
GAP, TITLE = 6, 16  # px between tiles, and of the line above them
MAX_ACROSS = 8  # tiles beside each other
BACKGROUND, INK = (255, 255, 255), (32, 32, 32)
AUGMENTED = 3  # augmentations shown of each image, where training used several


def grid(cells: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Cells of equally many tiles, a title above each cell, as one RGB picture.

    Cells stand side by side up to the full width, then in further rows.

    >>> tile = Image.new("L", (32, 16))
    >>> grid([[tile, tile]] * 5, ["cat"] * 5).size
    (950, 274)
    """
    depth = max((len(cell) for cell in cells), default=1)
    across = max(min(MAX_ACROSS // depth, len(cells)), 1)
    down = max(math.ceil(len(cells) / across), 1)
    width, height = depth * (TILE + GAP), TITLE + TILE + GAP
    size = (across * width - GAP + 2 * GAP, down * height + GAP)
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for number, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        left, top = GAP + number % across * width, GAP + number // across * height
        draw.text((left, top), _shorten(draw, printable(title), depth * TILE), fill=INK)
        for place, tile in enumerate(cell):
            scale = TILE / max(tile.size)
            size = (max(round(tile.width * scale), 1), max(round(tile.height * scale), 1))
            # Small tiles keep their pixels visible.
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
            tile = tile.convert("RGB").resize(size, method)
            x = left + place * (TILE + GAP) + (TILE - tile.width) // 2
            picture.paste(tile, (x, top + TITLE + (TILE - tile.height) // 2))
    return picture


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    if draw.textlength(text) <= width:
        return text
    while text and draw.textlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def show_inputs(run: Path, n: int = 8, data: Any = None) -> Image.Image:
    """`n` training images of a run, its classes in turn, each with its label.

    Where blocks were fine-tuned on augmented images, the prepared image comes first, then some of
    its augmentations. `data` is needed only where the run was given Python objects.
    Raises: UsageError for such a run without them, DataError where an image has changed,
    RunFolderError for a run that shipped no model.
    """
    if n < 1:
        raise UsageError(f"n={n}: it needs a whole number, 1 or more.")
    prep = read_json(run / "model" / "preprocess.json", Preprocessing)
    record = read_json(run / "data.json", DataRecord)
    listing = _list_data(run, data)
    plan = open_plan(run / "plan.toml")
    training = schedule(plan) if plan.is_trained else None
    examples = examples_in_turn(record)[:n]
    cells = [
        [input_picture(pixels, prep) for pixels in _augmented(example, listing, prep, training)]
        for example in examples
    ]
    return grid(cells, [example.label for example in examples])


def examples_in_turn(record: DataRecord) -> list[Example]:
    """Training examples: the first of each class, then the second of each, and so on.

    >>> rows = [("a", "x"), ("b", "x"), ("c", "y")]
    >>> examples = tuple(Example(id=i, label=l, split="train", sha256=i) for i, l in rows)
    >>> record = DataRecord(name="", kind="image", task="classify", layout="", classes=("x", "y"),
    ...                     examples=examples)
    >>> [example.id for example in examples_in_turn(record)]
    ['a', 'c', 'b']
    """
    by_class: dict[str, list[Example]] = {name: [] for name in record.classes}
    for example in record.examples:
        if example.split == "train":
            by_class[example.label].append(example)
    turns = zip_longest(*by_class.values())
    return [example for turn in turns for example in turn if example is not None]


def _list_data(run: Path, data: Any) -> Listing:
    file = read_request(run)
    if data is None and "data" in file.objects:
        raise UsageError(
            f"{run} began from Python objects, which no file holds; give them again: "
            "show_inputs(data=(X, y))"
        )
    source = _resolve(file.request.data, file.place) if data is None else data
    return list_source(source, columns_of(file.request))


def _augmented(
    example: Example, listing: Listing, prep: Preprocessing, training: Schedule | None
) -> list[NDArray[np.uint8]]:
    """The prepared image, then its augmentations in training. Shapes: each (H, W, C)."""
    payload = listing.load(example.id)
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise DataError(f"{example.id} has changed since the run; fit again to see it as it is now")
    image = modality_of(prep).encode(payload, example.id, prep)
    if training is None or not training.is_varied:
        return [image]
    policy, digest, seed = augmentations_of(training), example.sha256, training.seed
    numbers = range(min(training.augmentations or AUGMENTED, AUGMENTED) + 1)
    return [numbered_augmentation(image, digest, number, policy, seed) for number in numbers]
