"""A run's own images as the network sees them: as prepared, and as augmented for training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from warmstart.data.dataset import Listing
from warmstart.data.sources import list_source
from warmstart.errors import DataError, UsageError
from warmstart.formatting import printable
from warmstart.modalities.preprocessing import encode
from warmstart.planning.plan_file import open_plan
from warmstart.planning.schedule import Schedule, schedule
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import read_json
from warmstart.request import columns_of, read_request
from warmstart.run.predictor import input_picture
from warmstart.training.augmentations import numbered_augmentation
from warmstart.training.cached_activations import augmentations_of

SIDE = 112  # px of a tile
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
    width, height = depth * (SIDE + GAP), TITLE + SIDE + GAP
    size = (across * width - GAP + 2 * GAP, down * height + GAP)
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for number, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        left, top = GAP + number % across * width, GAP + number // across * height
        draw.text((left, top), _shorten(draw, printable(title), depth * SIDE), fill=INK)
        for place, tile in enumerate(cell):
            scale = SIDE / max(tile.size)
            size = (max(round(tile.width * scale), 1), max(round(tile.height * scale), 1))
            # Small tiles keep their pixels visible.
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
            tile = tile.convert("RGB").resize(size, method)
            x = left + place * (SIDE + GAP) + (SIDE - tile.width) // 2
            picture.paste(tile, (x, top + TITLE + (SIDE - tile.height) // 2))
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
    examples = pipeline_micro_batch(record)[:n]
    cells = [
        [input_picture(pixels, prep) for pixels in _augmented(example, listing, prep, training)]
        for example in examples
    ]
    return grid(cells, [example.label for example in examples])


def pipeline_micro_batch(record: DataRecord) -> list[Example]:
    """Training examples: the first of each class, then the second of each, and so on.

    >>> rows = [("a", "x"), ("b", "x"), ("c", "y")]
    >>> found = tuple(Example(id=i, label=l, split="train", sha256=i) for i, l in rows)
    >>> record = DataRecord(name="", kind="image", task="classify", layout="", classes=("x", "y"),
    ...                     examples=found)
    >>> [example.id for example in pipeline_micro_batch(record)]
    ['a', 'c', 'b']
    """
    times = dict.fromkeys(record.classes, 0)
    placed = []
    for example in record.examples:
        if example.split == "train":
            placed.append((times[example.label], record.classes.index(example.label), example))
            times[example.label] += 1
    return [example for _, _, example in sorted(placed, key=lambda one: one[:2])]


def _list_data(run: Path, data: Any) -> Listing:
    file = read_request(run)
    request, source = file.request, data
    if source is None:
        if "data" in file.objects:
            raise UsageError(
                f"{run} began from Python objects, which no file holds; give them again: "
                "show_inputs(data=(X, y))"
            )
        source = request.data
        if isinstance(source, Path) or not str(source).startswith("sample:"):
            source = file.place / Path(source).expanduser()
    return list_source(source, columns_of(request))


def _augmented(
    example: Example, listing: Listing, prep: Preprocessing, training: Schedule | None
) -> list[NDArray[np.uint8]]:
    """The prepared image, then its augmentations in training. Shapes: each (H, W, C)."""
    payload = listing.load(example.id)
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise DataError(f"{example.id} has changed since the run; fit again to see it as it is now")
    image = encode(payload, example.id, prep)
    if training is None or not training.is_varied:
        return [image]
    policy = augmentations_of(training)
    numbers = range(min(training.augmentations or AUGMENTED, AUGMENTED) + 1)
    return [
        numbered_augmentation(image, example.sha256, number, policy, training.seed)
        for number in numbers
    ]
