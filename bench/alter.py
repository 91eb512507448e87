"""Images altered as people and programs alter them, written to files and read back."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from bench.pools import Labels, Pool
from warmstart.data.read import read
from warmstart.data.thumbnails import Thumbnails
from warmstart.events import drain
from warmstart.features.extraction import extract_features
from warmstart.network.load import load

Alter = Callable[[Image.Image, np.random.Generator], bytes]
Features = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Seen:
    """A set as the product sees it. Shapes: n rows everywhere; split and ids are names."""

    ids: tuple[str, ...]
    split: NDArray[np.str_]
    labels: Labels
    classes: tuple[str, ...]
    glances: Thumbnails
    pool: Pool

    @property
    def neck(self) -> Features:
        """What the network's own head saw. Shapes: (n, d)."""
        return next(x for layer, x in self.pool.feature_layers.items() if layer.pool == "neck")


def see(folder: Path) -> Seen:
    """Read a folder and look at it."""
    collection = drain(read(folder))
    extracted = drain(extract_features(collection, load("lite0")))
    examples, classes = collection.record.examples, collection.record.classes
    labels = np.array([classes.index(e.label) for e in examples])
    return Seen(
        ids=tuple(e.id for e in examples),
        split=np.array([e.split for e in examples]),
        labels=labels,
        classes=classes,
        glances=extracted.thumbnails(examples),
        pool=Pool(
            {
                layer: extracted.features.reader(examples)(layer)
                for layer in extracted.feature_layers
            },
            labels,
        ),
    )


@contextmanager
def own_cache() -> Iterator[Path]:
    """A folder for altered images, their features kept apart from the user's."""
    before = os.environ.get("WARMSTART_CACHE")
    with tempfile.TemporaryDirectory() as place:
        os.environ["WARMSTART_CACHE"] = str(Path(place) / "cache")
        try:
            yield Path(place)
        finally:
            os.environ.pop("WARMSTART_CACHE")
            if before is not None:
                os.environ["WARMSTART_CACHE"] = before


def write(
    place: Path, source: Path, ids: Sequence[str], alters: Sequence[Alter], seed: int
) -> list[str]:
    """Write each image altered in its own way below `place`; ids of the copies, in order.

    `ids` are <part>/<class>/<file>; copies lie in train/<class>/<number>.jpg.
    """
    rng = np.random.default_rng([seed, 17])
    made = []
    for number, (id, alter) in enumerate(zip(ids, alters, strict=True)):
        with Image.open(source / id) as image:
            payload = alter(image.convert("RGB"), rng)
        name = f"train/{id.split('/')[1]}/{number:04d}.jpg"
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(payload)
        made.append(name)
    return made


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """The image as the bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def reencoded(image: Image.Image, rng: np.random.Generator) -> bytes:
    """JPEG of quality 30 to 95."""
    return jpeg(image, int(rng.integers(30, 96)))


def resized(image: Image.Image, rng: np.random.Generator) -> bytes:
    """0.3 to 2 times as large."""
    return jpeg(_scaled(image, float(np.exp(rng.uniform(np.log(0.3), np.log(2))))))


def mirrored(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Left is right."""
    return jpeg(ImageOps.mirror(image))


def cropped(image: Image.Image, rng: np.random.Generator) -> bytes:
    """5 % cut off: at one side, at all sides, or around a random window."""
    left, top, right, bottom = 0.05, 0.05, 0.95, 0.95
    kind = rng.integers(3)
    if kind == 1:
        left, top = rng.uniform(0, 0.05, 2)
        right, bottom = left + 0.95, top + 0.95
    elif kind == 2:
        side = rng.integers(4)
        left, top = 0.05 * (side == 0), 0.05 * (side == 1)
        right, bottom = 1 - 0.05 * (side == 2), 1 - 0.05 * (side == 3)
    w, h = image.size
    return jpeg(image.crop((round(left * w), round(top * h), round(right * w), round(bottom * h))))


def brighter(image: Image.Image, rng: np.random.Generator) -> bytes:
    """0.6 to 1.5 times as bright."""
    factor = rng.uniform(0.6, 1.5)
    return jpeg(_toned(image, lambda level: factor * level))


def bent(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Gamma 0.6 to 1.6."""
    gamma = rng.uniform(0.6, 1.6)
    return jpeg(_toned(image, lambda level: level**gamma))


def coarse(image: Image.Image, rng: np.random.Generator) -> bytes:
    """JPEG of quality 40."""
    return jpeg(image, 40)


def small(image: Image.Image, rng: np.random.Generator) -> bytes:
    """0.7 times as large."""
    return jpeg(_scaled(image, 0.7))


COPIES: tuple[Alter, ...] = (reencoded, resized, mirrored, cropped)
EXPOSURES: tuple[Alter, ...] = (brighter, brighter, bent, coarse, small, brighter)


def framed(colour: tuple[int, int, int]) -> Alter:
    """A frame of 4 px in one colour."""

    def alter(image: Image.Image, rng: np.random.Generator) -> bytes:
        image = image.copy()
        ImageDraw.Draw(image).rectangle((0, 0, *(v - 1 for v in image.size)), None, colour, 4)
        return jpeg(image)

    return alter


def of_size(width: int, height: int) -> Alter:
    """Brought to one size."""
    return lambda image, rng: jpeg(image.resize((width, height), Image.Resampling.BICUBIC))


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    size = [max(round(factor * side), 8) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _toned(image: Image.Image, tone: Callable[[float], float]) -> Image.Image:
    table = [min(max(round(255 * tone(level / 255)), 0), 255) for level in range(256)]
    return image.point(table * 3)


def altered(
    folder: Path, ids: Sequence[str], alters: Sequence[Alter], seed: int
) -> tuple[Seen, Rows]:
    """Altered images as the product sees them, and the row of each."""
    with own_cache() as place:
        made = write(place / "set", folder, ids, alters, seed)
        copies = see(place / "set")
    where = {id: row for row, id in enumerate(copies.ids)}
    return copies, np.array([where[id] for id in made])


def two_a_class(seen: Seen, count: int, rng: np.random.Generator) -> Rows:
    """Training rows, as equal over classes as they allow: a folder needs two of each class."""
    rows = rng.permutation(np.flatnonzero(seen.split == "train"))
    turn = np.zeros(len(rows), dtype=int)
    for c in range(len(seen.classes)):
        mine = np.flatnonzero(seen.labels[rows] == c)
        turn[mine] = np.arange(len(mine))
    return rows[np.argsort(turn, kind="stable")][:count]
