"""Thumbnails: small versions of a picture, its border, and the size and format of its file.

One row of fixed width a picture, made once when it is decoded, is enough to find
near-duplicates, frames and differing sizes, and to train a baseline on plain pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.modalities.audio import FORMATS as SOUNDS
from warmstart.modalities.audio import is_sound, read_sound_header
from warmstart.modalities.image import FORMATS, NUMPY, read_header

SIDE = 64  # px of the small grey picture
COLOUR_SIDE = 16
RING = 0.04  # width of the border, as a share of the short side
SEGMENTS = 16  # on each side of the border
LAYERS = 2  # the outermost quarter of the ring, and the rest of it
_ARRAY = "array"  # the format of pixels without a file
_FORMATS = (_ARRAY, *FORMATS, *SOUNDS)  # append only: rows hold the index of a format
_TINT = 6  # levels between the channels of a pixel from which a picture is in colour
_LARGE = 512  # px of the short side above which squares of pixels are averaged first
_ROW = np.dtype(
    [
        ("grey", "u1", (SIDE, SIDE)),
        ("colour", "u1", (COLOUR_SIDE, COLOUR_SIDE, 3)),
        ("border", "u1", (LAYERS, 4, SEGMENTS, 4)),
        ("width", "<u4"),
        ("height", "<u4"),
        ("n_bytes", "<u4"),
        ("is_colour", "u1"),
        ("format", "u1"),
    ]
)
WIDTH = _ROW.itemsize  # bytes a picture
VERSION = 1  # raise it when the row of a picture changes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFigures:
    """Size and format of n files. Shapes: all (n,), as in `Thumbnails`."""

    width: NDArray[np.int64]
    height: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    is_colour: NDArray[np.bool_]
    format: NDArray[np.str_]

    def short_side(self) -> NDArray[np.int64]:
        """The shorter side of each original, in px. Shapes: (n,)."""
        return np.minimum(self.width, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails(FileFigures):
    """Thumbnails of n pictures.

    Shapes: grey (n, 64, 64) and colour (n, 16, 16, 3) uint8, the whole picture squashed;
    border (n, 2, 4, 16, 4) uint8: the outermost 1 % and the 3 % inside it (of the short
    side), at the top, right, bottom and left, in 16 segments from left to right or top to
    bottom, each with its mean red, green and blue and the spread of its brightness.
    width and height (n,) of the original in px, upright; n_bytes (n,) of its file;
    is_colour (n,) bool, False where colours are shades of grey; format (n,) names.
    """

    grey: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    border: NDArray[np.uint8]

    def of(self, rows: NDArray[np.intp]) -> Thumbnails:
        """The thumbnails of some rows."""
        return Thumbnails(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def files(self) -> FileFigures:
        """Size and format of the files alone."""
        return FileFigures(**{f.name: getattr(self, f.name) for f in fields(FileFigures)})


def make_thumbnail(payload: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """One picture as a row of `WIDTH` bytes; 0.5 ms at 256 px.

    `payload` are the encoded bytes, `image` their decoded picture, at any draft size, or some
    of their bands as a picture.
    """
    row = np.zeros((), _ROW)
    width, height, kind = _header(payload)
    is_rotated = (width - height) * (image.width - image.height) < 0
    if is_rotated and kind not in SOUNDS:  # by its EXIF orientation
        width, height = height, width
    row["width"], row["height"], row["n_bytes"] = width, height, len(payload)
    row["format"] = _FORMATS.index(kind)
    if min(image.size) > _LARGE:
        image = image.reduce(min(image.size) * 2 // _LARGE)
    if image.mode != "RGB":
        image = image.convert("RGB")
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    row["grey"] = np.asarray(small.convert("L"))
    colour = np.asarray(small.reduce(SIDE // COLOUR_SIDE))
    row["colour"] = colour
    row["is_colour"] = int(np.ptp(colour.astype(np.int16), axis=2).max()) > _TINT
    row["border"] = _border(image)
    return row.reshape(1).view(np.uint8)


def unpack(rows: NDArray[np.uint8]) -> Thumbnails:
    """Rows of `make_thumbnail` as arrays. Shapes: rows (n, WIDTH)."""
    table = np.ascontiguousarray(rows).view(_ROW)[:, 0]
    return Thumbnails(
        grey=table["grey"],
        colour=table["colour"],
        border=table["border"],
        width=table["width"].astype(np.int64),
        height=table["height"].astype(np.int64),
        n_bytes=table["n_bytes"].astype(np.int64),
        is_colour=table["is_colour"].astype(bool),
        format=np.array(_FORMATS)[table["format"]],
    )


def concatenate(chunks: Sequence[FileFigures]) -> FileFigures:
    """The figures of at least one chunk of files as one."""
    names = [field.name for field in fields(FileFigures)]
    return FileFigures(**{n: np.concatenate([getattr(c, n) for c in chunks]) for n in names})


def _header(payload: bytes) -> tuple[int, int, str]:
    """Width and height in px as stored, or milliseconds and sample rate of a sound; the format."""
    if is_sound(payload):
        sound = read_sound_header(payload, "the clip")
        return max(round(1000 * sound.seconds), 1), sound.sample_rate, sound.kind
    header = read_header(payload, "the image")
    is_array = payload.startswith(NUMPY)
    if header is not None and (is_array or not header.is_picture):
        return header.width, header.height, _ARRAY if is_array else "TIFF"
    with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
        kind = str(image.format)
        # A JPEG with a second picture inside, as many phones write, calls itself MPO.
        return image.width, image.height, "JPEG" if kind == "MPO" else kind


def _border(image: Image.Image) -> NDArray[np.uint8]:
    """Means and spreads of the segments of the ring. Shapes: (2, 4, 16, 4)."""
    width, height = image.size
    depth = max(RING * min(width, height), 1.0)
    fine, layers = 4 * SEGMENTS, 4
    boxes = {
        "top": (0.0, 0.0, width, depth),
        "right": (width - depth, 0.0, width, height),
        "bottom": (0.0, height - depth, width, height),
        "left": (0.0, 0.0, depth, height),
    }
    strips = np.empty((4, layers, fine, 3), np.float32)  # side, from outside in, along, RGB
    for number, (side, box) in enumerate(boxes.items()):
        is_flat = side in ("top", "bottom")
        size = (fine, layers) if is_flat else (layers, fine)
        strip = np.asarray(image.resize(size, Image.Resampling.BOX, box=box))
        strip = strip if is_flat else strip.transpose(1, 0, 2)
        strips[number] = strip[::-1] if side in ("right", "bottom") else strip
    cells = strips.reshape(4, layers, SEGMENTS, -1, 3)
    border = np.empty((LAYERS, 4, SEGMENTS, 4), np.float32)
    for layer, ring in enumerate((cells[:, :1], cells[:, 1:])):
        border[layer, ..., :3] = ring.mean(axis=(1, 3))
        border[layer, ..., 3] = ring.mean(axis=-1).std(axis=(1, 3))
    return np.rint(border).astype(np.uint8)


def plain_features(thumbnails: Thumbnails) -> dict[str, NDArray[np.float32]]:
    """Features without a network: small pixels, colours, edge directions.

    Shapes: pixels (n, 768); colours (n, 64), the square roots of a 4 x 4 x 4 histogram;
    edges (n, 512), histograms of 8 gradient directions in 8 x 8 cells, each cell of unit
    length (after Dalal & Triggs 2005).
    """
    n = len(thumbnails.grey)
    pixels = thumbnails.colour.reshape(n, -1).astype(np.float32) / 255
    bins = thumbnails.colour.astype(np.int64) >> 6
    index = (bins @ np.array([16, 4, 1])).reshape(n, -1)
    colours = _histogram(index, np.ones(index.shape, np.float32), 64)
    return {
        "pixels": pixels,
        "colours": np.sqrt(colours / index.shape[1]),
        "edges": np.concatenate(
            [_edges(rows) for rows in np.array_split(thumbnails.grey, n // 200 + 1)]
        ),
    }


def _edges(grey: NDArray[np.uint8], directions: int = 8, cells: int = 8) -> NDArray[np.float32]:
    """Histograms of undirected gradients. Shapes: (n, 64, 64) to (n, 8 * 8 * 8)."""
    padded = np.pad(grey.astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    turn = np.arctan2(down, across) * np.float32(directions / math.pi)
    bins = np.floor(turn + 0.5).astype(np.int64) % directions
    cell = np.arange(SIDE) * cells // SIDE
    place = (cell[:, None] * cells + cell) * directions
    n = len(grey)
    strength = np.hypot(across, down).reshape(n, -1)
    counts = _histogram((bins + place).reshape(n, -1), strength, cells * cells * directions)
    blocks = counts.reshape(n, -1, directions)
    size = np.sqrt((blocks**2).sum(axis=2, keepdims=True)) + np.float32(SIDE)
    return np.asarray((blocks / size).reshape(n, -1), dtype=np.float32)


def _histogram(
    index: NDArray[np.int64], weights: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Weighted counts within each row. Shapes: index and weights (n, m); returns (n, size)."""
    n = len(index)
    flat = (index + size * np.arange(n)[:, None]).ravel()
    counts = np.bincount(flat, weights=weights.ravel(), minlength=n * size)
    return counts.reshape(n, size).astype(np.float32)
