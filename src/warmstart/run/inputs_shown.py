"""What the network saw of a run's own images: as prepared, and in the views it was trained on."""

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
from warmstart.run.predictor import as_seen
from warmstart.training.augmentations import view_of
from warmstart.training.cached_activations import views_of_plan

# ---- Small pictures side by side, each row under its title: what a network sees, at a glance.


SIDE = 112  # px of a tile
GAP, TITLE = 6, 16  # px between tiles, and of the line above them
MOST_WIDE = 8  # tiles beside each other
PAPER, INK = (255, 255, 255), (32, 32, 32)


def grid(cells: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Cells of as many tiles each, a title above every cell, as one RGB picture.

    Cells stand beside each other as long as there is room, then below.

    >>> tile = Image.new("L", (32, 16))
    >>> grid([[tile, tile]] * 5, ["cat"] * 5).size
    (950, 274)
    """
    depth = max((len(cell) for cell in cells), default=1)
    across = max(min(MOST_WIDE // depth, len(cells)), 1)
    down = max(math.ceil(len(cells) / across), 1)
    wide, high = depth * (SIDE + GAP), TITLE + SIDE + GAP
    paper = Image.new("RGB", (across * wide - GAP + 2 * GAP, down * high + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        left, top = GAP + number % across * wide, GAP + number // across * high
        pen.text((left, top), _fitted(pen, printable(title), depth * SIDE), fill=INK)
        for place, tile in enumerate(cell):
            shown = _in_square(tile)
            x = left + place * (SIDE + GAP) + (SIDE - shown.width) // 2
            paper.paste(shown, (x, top + TITLE + (SIDE - shown.height) // 2))
    return paper


def _in_square(tile: Image.Image) -> Image.Image:
    """As large as a tile may be; small ones keep their pixels visible."""
    scale = SIDE / max(tile.size)
    size = (max(round(tile.width * scale), 1), max(round(tile.height * scale), 1))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return tile.convert("RGB").resize(size, how)


def _fitted(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, cut where it would run into the next cell."""
    if pen.textlength(text) <= width:
        return text
    while text and pen.textlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


VIEWS = 3  # of each image, beside the image as it is, where training saw several


def show_inputs(run: Path, n: int = 8, data: Any = None) -> Image.Image:
    """`n` training images of a run, its classes in turn, each with its label.

    Where layers were trained on varied views, the image as it is comes first, then what
    training saw of it. `data` is wanted only where the run began from Python objects.
    Raises: UsageError for such a run without them, DataError where an image is not what it
    was, RunFolderError for a run that shipped no model.
    """
    if n < 1:
        raise UsageError(f"n={n}: it needs a whole number, 1 or more.")
    prep = read_json(run / "model" / "preprocess.json", Preprocessing)
    record = read_json(run / "data.json", DataRecord)
    listing = _listing(run, data)
    plan = open_plan(run / "plan.toml")
    chosen = schedule(plan) if plan.is_trained else None
    examples = in_turn(record)[:n]
    seen = [_seen(example, listing, prep, chosen) for example in examples]
    return grid([[as_seen(view, prep) for view in one] for one in seen], _titles(examples))


def in_turn(record: DataRecord) -> list[Example]:
    """Training examples: the first of each class, then the second of each, and so on.

    >>> rows = [("a", "x"), ("b", "x"), ("c", "y")]
    >>> found = tuple(Example(id=i, label=l, split="train", sha256=i) for i, l in rows)
    >>> record = DataRecord(name="", kind="image", task="classify", layout="", classes=("x", "y"),
    ...                     examples=found)
    >>> [example.id for example in in_turn(record)]
    ['a', 'c', 'b']
    """
    times = dict.fromkeys(record.classes, 0)
    placed = []
    for example in record.examples:
        if example.split == "train":
            placed.append((times[example.label], record.classes.index(example.label), example))
            times[example.label] += 1
    return [example for _, _, example in sorted(placed, key=lambda one: one[:2])]


def _listing(run: Path, data: Any) -> Listing:
    """The run's own images, from where it found them."""
    file = read_request(run)
    asked, source = file.request, data
    if source is None:
        if "data" in file.objects:
            raise UsageError(
                f"{run} began from Python objects, which no file holds; give them again: "
                "show_inputs(data=(X, y))"
            )
        source = asked.data
        if isinstance(source, Path) or not str(source).startswith("sample:"):
            source = file.place / Path(source).expanduser()
    return list_source(source, columns_of(asked))


def _seen(
    example: Example, listing: Listing, prep: Preprocessing, chosen: Schedule | None
) -> list[NDArray[np.uint8]]:
    """The image as it is, then views that training saw of it. Shapes: each (H, W, C)."""
    payload = listing.load(example.id)
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise DataError(f"{example.id} has changed since the run; fit again to see it as it is now")
    image = encode(payload, example.id, prep)
    if chosen is None or not chosen.is_varied:
        return [image]
    views, most = views_of_plan(chosen), min(chosen.augmentations or VIEWS, VIEWS)
    numbers = range(most + 1)
    return [view_of(image, example.sha256, number, views, chosen.seed) for number in numbers]


def _titles(examples: Sequence[Example]) -> list[str]:
    return [example.label for example in examples]
