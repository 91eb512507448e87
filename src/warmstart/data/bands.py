"""Images of bands: 1 to 13 channels of any number type, scaled to the 8 bits of pictures.

The scale of each band is taken over training files only and knows no label: its 1st and 99th
percentile become 0 and 255, as remote sensing tools draw such images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.data.decode import guarded, open_upright
from warmstart.data.pixels import to_uint8
from warmstart.data.raw import NUMPY, Header, read_header, read_npy_bands, read_tiff
from warmstart.errors import DataError
from warmstart.records import Example

Values = NDArray[np.generic]
Pixels = NDArray[np.uint8]
Load = Callable[[str], bytes]
Ranges = tuple[tuple[float, float], ...]

MOST = 200  # files whose values set the ranges
SAMPLE = 8  # files that tell the number of channels
LOW, HIGH = 1.0, 99.0  # percentiles that become 0 and 255
EIGHT_BITS = (0.0, 255.0)
_PIXELS = 10_000  # of a file, at most, that count for the percentiles
_TINT = 6  # levels between the channels of a small picture that make it coloured
_GLANCE = 64  # px of that small picture


def decode_bands(payload: bytes, name: str) -> Values:
    """Values of an image as its file holds them: (H, W, B), B from 1 to 13.

    .npy arrays are (H, W), (H, W, B) or (B, H, W); TIFF may have any number type; of other
    files the pixels, with alpha as a fourth band where they have it. Thread-safe.
    Raises: DataError for every failure, with what is wrong.

    >>> import io
    >>> buffer = io.BytesIO()
    >>> np.save(buffer, np.zeros((13, 20, 30), np.int16))
    >>> values = decode_bands(buffer.getvalue(), "a.npy")
    >>> values.shape, values.dtype
    ((20, 30, 13), dtype('int16'))
    """
    values = guarded(lambda: _values(payload, name), payload, name)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{name} holds NaN or infinity; replace those values")
    return values


def _values(payload: bytes, name: str) -> Values:
    if payload.startswith(NUMPY):
        return read_npy_bands(payload, name)
    header = read_header(payload, name)
    if header is not None and not header.is_picture:
        return read_tiff(payload, name)
    image = open_upright(payload, name)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        return np.asarray(image)[..., None]
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return (
        np.asarray(image.convert("L"))[..., None]
        if image.mode in ("1", "L")
        else (np.asarray(image.convert("RGB")))
    )


def scale_bands(values: Values, ranges: Ranges, name: str) -> Pixels:
    """Each band's range to 0..255, what lies beyond cut off. Shapes: (H, W, B), as given.

    Without ranges the rule for pictures holds, see `pixels.to_uint8`.
    Raises: DataError for another number of bands, or values out of range where there is none.

    >>> scale_bands(np.array([[[0, -5], [500, 5]]]), ((0, 1000), (-5, 5)), "a.npy").tolist()
    [[[0, 0], [128, 255]]]
    """
    if not ranges:
        return to_uint8(values, name)
    if values.shape[2] != len(ranges):
        raise DataError(f"{name} has {values.shape[2]} bands; the network takes {len(ranges)}")
    if values.dtype == np.uint8 and set(ranges) == {EIGHT_BITS}:
        return np.asarray(values, dtype=np.uint8)
    exact = np.float64 if values.dtype.itemsize > 2 else np.float32
    low, high = np.array(ranges, dtype=exact).T
    shares = (values.astype(exact) - low) / (high - low)
    scaled: Pixels = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return scaled


def as_picture(pixels: Pixels) -> Image.Image:
    """The first three bands as colours, or the first as grey. Shapes: (H, W, B).

    >>> as_picture(np.zeros((2, 3, 13), np.uint8)).mode
    'RGB'
    """
    if pixels.shape[2] >= 3:
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))


def count_bands(
    load: Load, examples: Sequence[Example], most: int = SAMPLE, *, with_alpha: bool = False
) -> int:
    """How many channels the images have, from a few files spread over all of them.

    Pictures have 3, or 1 where all that are looked at are grey; alpha counts as a fourth only
    `with_alpha`. Files that cannot be read are passed over.
    Raises: DataError naming two files that differ.
    """
    found: dict[str, int] = {}
    is_clear = False
    for example in spread(examples, most):
        try:
            n, has_alpha = _count(load(example.id), example.id)
        except DataError:
            continue
        found[example.id], is_clear = n, is_clear or has_alpha
    numbers = set(found.values()) or {3}
    if not numbers <= {1, 3}:
        _check_same(found, "bands")
    return 4 if with_alpha and is_clear and numbers <= {1, 3} else max(numbers)


def _count(payload: bytes, name: str) -> tuple[int, bool]:
    """Channels of one file without alpha, and whether it has alpha."""
    header = read_header(payload, name)
    if header is not None and not header.is_picture:
        return header.bands, False
    return guarded(lambda: _count_picture(payload, name, header), payload, name)


def _count_picture(payload: bytes, name: str, header: Header | None) -> tuple[int, bool]:
    if payload.startswith(NUMPY) and header is not None:
        return (1 if header.bands == 1 else 3), header.bands == 4
    image = open_upright(payload, name, draft=_GLANCE)
    has_alpha = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return 1, has_alpha
    small = np.asarray(image.convert("RGB").resize((_GLANCE, _GLANCE), Image.Resampling.BOX))
    return (3 if int(np.ptp(small.astype(np.int16), axis=2).max()) > _TINT else 1), has_alpha


def band_ranges(load: Load, examples: Sequence[Example], most: int = MOST) -> Ranges:
    """What becomes 0 and 255 in each band: 1st and 99th percentile over training files.

    (0, 255) where the files hold 8 bits. At most `most` files are looked at, those of the
    training part alone, and no label. A band that hardly varies is scaled by its own extent,
    or by 1 where it is constant. Files that cannot be read are passed over.
    Raises: DataError if none can be read, or naming two that differ in bands or number type.
    """
    kept = _sampled(load, spread([e for e in examples if e.split == "train"], most))
    n, kind = int(kept[0].shape[1]), kept[0].dtype
    if kind == np.uint8:
        return (EIGHT_BITS,) * n
    table = np.concatenate(kept).astype(np.float64)
    lows, highs = np.percentile(table, (LOW, HIGH), axis=0)
    ends = np.stack([lows, highs, table.min(axis=0), table.max(axis=0)], axis=1)
    return tuple(_range(float(a), float(b), float(c), float(d)) for a, b, c, d in ends)


def _sampled(load: Load, examples: Sequence[Example]) -> list[Values]:
    """Values of some pixels of each file, (m, B), all of one type and width."""
    kept: list[Values] = []
    counts: dict[str, int] = {}
    types: dict[str, str] = {}
    lost: DataError | None = None
    for example in examples:
        try:
            values = decode_bands(load(example.id), example.id)
        except DataError as error:
            lost = lost or error
            continue
        counts[example.id], types[example.id] = values.shape[2], str(values.dtype)
        flat = values.reshape(-1, values.shape[2])
        step = -(-len(flat) // _PIXELS)
        kept.append(flat[:: step + 1 - step % 2])  # odd, so that no column is left out
    if not kept:
        raise lost or DataError("no training image is there to take the ranges of bands from")
    _check_same(counts, "bands")
    _check_same(types, "values")
    return kept


def _range(low: float, high: float, least: float, most: float) -> tuple[float, float]:
    """A range that is not empty.

    >>> _range(1, 9, 0, 10), _range(0, 0, 0, 10), _range(4, 4, 4, 4)
    ((1, 9), (0, 10), (4, 5.0))
    """
    if low < high:
        return low, high
    return (least, most) if least < most else (least, least + 1.0)


def spread(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many, evenly over all."""
    places = np.linspace(0, len(examples) - 1, min(most, len(examples))).round().astype(int)
    return [examples[place] for place in places]


def _check_same(found: dict[str, int] | dict[str, str], what: str) -> None:
    for (first, a), (second, b) in pairwise(found.items()):
        if a != b:
            one, other = (f"has {a} {what}", b) if what == "bands" else (f"holds {a} {what}", b)
            raise DataError(
                f"{first} {one}, {second} {other}; give files of one kind, or leave some out"
            )
