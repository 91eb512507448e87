"""Untrusted bytes to an 8-bit picture in grey ("L") or colour ("RGB"), or a DataError."""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# Importing a plugin registers it in Image.OPEN; no others are tried, whatever else is installed.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from warmstart.errors import DataError, ModelError, install_command
from warmstart.modalities.modality import Form, Modality, input_choice, suffixes_of, with_version
from warmstart.modalities.nouns import IMAGES
from warmstart.nouns import count
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Kind, Preprocessing, pictures
from warmstart.records.plan import Choice, InputPlan

# ---- One fixed rule from any pixel type to 8 bits.

MAX_PIXELS = 64_000_000


class TooLarge(DataError):
    """An image exceeds the size limit; its bytes may be valid."""


def to_uint8(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """Scale pixels to 0..255, any shape.

    uint8 stays; bool becomes 0 and 255; uint16 is divided by 257; other integers must lie in
    0..255; floats are taken as 0..1 if none exceeds 1, else as 0..255. Rounded, never wrapped.
    Raises: DataError for other types, NaN, infinity, or values out of range.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if values.dtype == np.bool_:
        return np.asarray(values, dtype=np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return np.asarray((np.asarray(values, dtype=np.uint32) + 128) // 257, dtype=np.uint8)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{name} holds {values.dtype} values; give uint8, 0 to 255")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name} holds NaN or infinity; replace those values")
    if low < 0 or high > 255:
        raise DataError(
            f"{name} holds values from {low:g} to {high:g}; give 0 to 1 or 0 to 255, unnormalised"
        )
    scale = 255.0 if values.dtype.kind == "f" and high <= 1 else 1.0
    return np.rint(np.asarray(values, dtype=np.float64) * scale).astype(np.uint8)


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise TooLarge above 64 megapixels, DataError without pixels."""
    if width < 1 or height < 1:
        raise DataError(f"{name} is not an image (it has no pixels)")
    if width * height > MAX_PIXELS:
        size = width * height / 1e6
        raise TooLarge(f"{name} has {size:,.0f} megapixels; the limit is 64")


# ---- Files that hold values rather than pictures: .npy arrays, and TIFF of many bands or bits.
#
# Headers and sizes are checked before any data is read.

NUMPY = b"\x93NUMPY"
MAX_BANDS = 13  # those of Sentinel-2
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Tags of TIFF: "TIFF 6.0 Specification", Adobe 1992, part 1.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA = 256, 257, 258, 262, 277, 338
_CMYK = 5
_PICTURE_BITS = 8
_SINGLE_BITS = 32  # of one band: Pillow reads as many without loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a .npy or TIFF file; `is_picture` if Pillow reads it without loss."""

    height: int
    width: int
    bands: int
    is_picture: bool


@dataclass(frozen=True, slots=True)
class _Npy:
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int  # where the values begin


def _npy_header(payload: bytes, name: str) -> _Npy:
    file = io.BytesIO(payload)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} has an unknown .npy version {version}")
    is_old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return _Npy(shape, is_fortran, dtype, file.tell())


def read_npy(payload: bytes, name: str) -> Values:
    """The values of a .npy file, unscaled: (H, W), or (H, W, B) with B of 1, 3 or 4."""
    header = _numeric_header(payload, name)
    shape = header.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise DataError(f"{name} has shape {shape}; an image is (H, W) or (H, W, 1, 3 or 4)")
    check_pixels(shape[1], shape[0], name)
    return _npy_values(payload, name, header)


def read_npy_bands(payload: bytes, name: str) -> Values:
    """The values of a .npy file, unscaled: (H, W, B); (B, H, W) is transposed if clearly so."""
    header = _numeric_header(payload, name)
    order = band_order(header.shape)
    if order is None:
        raise DataError(
            f"{name} has shape {header.shape}; bands are (H, W, B) or (B, H, W), "
            f"B from 1 to {MAX_BANDS}"
        )
    height, width, bands = _sides(header.shape, order)
    check_pixels(width, height, name)
    values = _npy_values(payload, name, header)
    return np.moveaxis(values, 0, 2) if order == "BHW" else values.reshape(height, width, bands)


def _numeric_header(payload: bytes, name: str) -> _Npy:
    header = _npy_header(payload, name)
    if header.dtype.hasobject or header.dtype.kind not in "buif":
        raise DataError(f"{name} holds {header.dtype} values, not pixels")
    return header


def _npy_values(payload: bytes, name: str, header: _Npy) -> Values:
    n = math.prod(header.shape)
    if len(payload) - header.offset < n * header.dtype.itemsize:
        raise DataError(f"{name} is cut off")
    values = np.frombuffer(payload, header.dtype, n, header.offset)
    return values.reshape(header.shape, order="F" if header.is_fortran else "C")


def band_order(shape: tuple[int, ...]) -> str | None:
    """The axis order of an array: "HW", "HWB", "BHW", or None if it is not an image."""
    if len(shape) == 2:
        return "HW"
    if len(shape) != 3:
        return None
    if 1 <= shape[2] <= MAX_BANDS:
        return "HWB"
    return "BHW" if 1 <= shape[0] <= MAX_BANDS < min(shape[1:]) else None


def _sides(shape: tuple[int, ...], order: str) -> tuple[int, int, int]:
    """Height, width, bands."""
    if order == "BHW":
        return shape[1], shape[2], shape[0]
    return shape[0], shape[1], shape[2] if order == "HWB" else 1


def read_header(payload: bytes, name: str) -> Header | None:
    """The header of a .npy or TIFF file; None for other files."""
    if not payload.startswith(NUMPY):
        return _tiff_header(payload, name) if payload.startswith(TIFF) else None
    header = _npy_header(payload, name)
    order = band_order(header.shape)
    if order is None:
        raise DataError(f"{name} has shape {header.shape}; an image is (H, W) or (H, W, B)")
    height, width, bands = _sides(header.shape, order)
    is_alpha = bands == 4 and header.dtype == np.dtype(np.uint8)
    is_picture = order != "BHW" and (bands in (1, 3) or is_alpha)
    return Header(height=height, width=width, bands=bands, is_picture=is_picture)


def _tiff_header(payload: bytes, name: str) -> Header:
    """The header of the first page; further pages are ignored."""
    try:
        first = payload[:16] if b"+" in payload[:4] else payload[:8]
        tags = TiffImagePlugin.ImageFileDirectory_v2(first)
        file = io.BytesIO(payload)
        file.seek(tags.next)
        tags.load(file)
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        samples = int(tags.get(_SAMPLES, 1))
        bits = max(tags.get(_BITS, (1,)))
        extra = tuple(tags.get(_EXTRA, ()))
        is_cmyk = tags.get(_PHOTOMETRIC) == _CMYK
    except Exception as error:  # Pillow raises a dozen types on damaged bytes
        raise DataError(f"{name} is damaged (its header makes no sense)") from error
    is_known = not extra or extra[0] in (1, 2)  # alpha, premultiplied or not
    if samples == 1:
        is_picture = bits <= _SINGLE_BITS
    else:
        is_picture = samples <= 4 and bits <= _PICTURE_BITS and (is_known or is_cmyk)
    bands = 3 if is_cmyk and is_picture else samples
    return Header(height=height, width=width, bands=bands, is_picture=is_picture)


def count_samples(payload: bytes) -> int:
    """Bands in the first page of a TIFF by its header; 0 if that makes no sense."""
    try:
        return _tiff_header(payload, "").bands
    except DataError:
        return 0


def read_tiff(payload: bytes, name: str) -> Values:
    """The values of the first page of a TIFF, unscaled: (H, W, B)."""
    header = _tiff_header(payload, name)
    check_pixels(header.width, header.height, name)
    if not 1 <= header.bands <= MAX_BANDS:
        raise DataError(f"{name} has {header.bands} bands; 1 to {MAX_BANDS} are read")
    try:
        tifffile: Any = importlib.import_module("tifffile")
    except ImportError as error:
        raise DataError(
            f"{name} is a TIFF of bands, which needs tifffile; run `{install_command('data')}`"
        ) from error
    try:
        with tifffile.TiffFile(io.BytesIO(payload)) as file:
            page = file.pages[0]
            axes, values = str(page.axes), np.asarray(page.asarray())
    except Exception as error:  # tifffile raises whatever its decoders raise
        reason = str(error).replace("\n", " ")
        if "imagecodecs" in reason:
            raise DataError(
                f"{name} is compressed in a way that needs another package ({reason}): pip "
                "install imagecodecs"
            ) from error
        raise DataError(f"{name} is damaged ({reason or type(error).__name__})") from error
    if values.dtype.kind not in "buif" or axes not in ("YX", "YXS", "SYX"):
        fault = f"holds {values.dtype} values in order {axes}"
        raise DataError(f"{name} {fault}, not bands of an image")
    return np.moveaxis(values, 0, 2) if axes == "SYX" else values.reshape(*values.shape[:2], -1)


Result = TypeVar("Result")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# First bytes of files that are mistaken for images, and the message.
_IMPOSTORS = (
    (b"<svg", "is an SVG drawing, which has no pixels"),
    (b"<?xml", "is XML text, not an image"),
    (b"<!doctype html", "is a web page, not an image"),
    (b"<html", "is a web page, not an image"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the image (git lfs pull)"),
)


def decode(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """Decode one encoded image, upright, as mode "L" or "RGB".

    Animations give their first frame; transparency is blended with white; 16-bit grey values are
    scaled by `to_uint8` (divided by 257). With `draft`, large JPEGs are decoded at 1/2, 1/4 or
    1/8 so that the short side has at least 2 * `draft` px, which is several times faster.
    Thread-safe.
    Raises: DataError "NAME is cut off", "NAME is not an image", … for every failure.
    """

    def read() -> Image.Image:
        if payload.startswith(NUMPY):
            return _from_array(to_uint8(read_npy(payload, name), name))
        return _flatten(open_upright(payload, name, draft), name)

    return guard(read, payload, name)


def decode_alpha(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """Decode one image with its transparency, upright, as mode "RGBA". Raises: as `decode`."""

    def read() -> Image.Image:
        if payload.startswith(NUMPY):
            pixels = to_uint8(read_npy(payload, name), name)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        else:
            image = open_upright(payload, name, draft)
        return (image if image.has_transparency_data else _flatten(image, name)).convert("RGBA")

    return guard(read, payload, name)


def guard(read: Callable[[], Result], payload: bytes, name: str) -> Result:
    """The result of `read` on untrusted bytes; every failure is a DataError with the name."""
    if not payload:
        raise DataError(f"{name} is empty")
    try:
        return read()
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name} does not fit in memory") from error
    except Exception as error:  # Pillow raises a dozen types on damaged bytes
        raise DataError(f"{name} {_reason(error)}") from error


def open_upright(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """A picture in the mode of its file, loaded and upright; call this within `guard`."""
    image = _open(payload, name)
    check_pixels(*image.size, name)
    if draft is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (2 * draft, 2 * draft))
    image.load()
    try:
        transpose = _TRANSPOSES.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return image  # the EXIF data is damaged, the picture is not
    return image if transpose is None else image.transpose(transpose)


def _open(payload: bytes, name: str) -> ImageFile.ImageFile:
    """Read the header. Not by Image.open, which warns about size instead of raising."""
    head = payload[:16]
    if payload.startswith(TIFF) and (bands := count_samples(payload)) > 4:
        raise DataError(f"{name} has {bands} bands; a picture has 1, 3 or 4")
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(head) is True:
            return factory(io.BytesIO(payload), "")
    beginning = payload[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, reason in _IMPOSTORS:
        if beginning.startswith(mark):
            raise DataError(f"{name} {reason}")
    if payload[4:8] == b"ftyp":
        raise DataError(f"{name} is a HEIC, AVIF or video file; save it as JPEG or PNG")
    raise DataError(f"{name} is not an image")


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Any mode to "L" or "RGB"."""
    if image.mode.startswith("I"):  # all for 16-bit files
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return _from_array(to_uint8(values, name))
    if image.mode == "F":
        return _from_array(to_uint8(np.asarray(image), name))
    is_grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = _over_white(image.convert("RGBA"))
    mode = "L" if is_grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return _flatten(image, "")


def _reason(error: Exception) -> str:
    """The many messages of Pillow and NumPy for bad bytes, in few words."""
    words = str(error).lower()
    if isinstance(error, EOFError) or any(
        word in words for word in ("truncated", "incomplete", "premature", "eof", "not enough")
    ):
        return "is cut off"
    if isinstance(error, Image.DecompressionBombError):  # a frame larger than its header states
        return "has more than 64 megapixels"
    if isinstance(error, (SyntaxError, ValueError)):
        return "is damaged (its header makes no sense)"
    return f"is damaged ({error or type(error).__name__})".replace("\n", " ")


# ---- Images of bands: 1 to 13 channels of any number type, scaled to the 8 bits of pictures.
#
# The scale of each band comes from training files alone, without labels: its 1st and 99th
# percentiles become 0 and 255, as in remote sensing tools.

Values = NDArray[np.generic]
Pixels = NDArray[np.uint8]
Load = Callable[[str], bytes]
Ranges = tuple[tuple[float, float], ...]

MAX_FILES = 200  # from which the ranges are computed
N_SAMPLE = 8  # files from which the number of channels is read
LOW, HIGH = 1.0, 99.0  # percentiles that become 0 and 255
EIGHT_BITS = (0.0, 255.0)
_PIXELS = 10_000  # of a file, at most, for the percentiles
_TINT = 6  # levels between the channels of a small picture from which it is in colour
_SMALL = 64  # px of that small picture


def decode_bands(payload: bytes, name: str) -> Values:
    """The values of an image, unscaled: (H, W, B), B from 1 to 13.

    .npy arrays are (H, W), (H, W, B) or (B, H, W); TIFF may have any number type; other files
    give their pixels, with alpha, if any, as a fourth band. Thread-safe.
    Raises: DataError for every failure.
    """
    values = guard(lambda: _values(payload, name), payload, name)
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
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def scale_bands(values: Values, ranges: Ranges, name: str) -> Pixels:
    """Scale the range of each band to 0..255 and clip. Shapes: (H, W, B), unchanged.

    Without ranges the rule for pictures applies: see `to_uint8`.
    Raises: DataError for another number of bands, or as `to_uint8`.
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


def as_picture(image: Image.Image | Pixels) -> Image.Image:
    """An opened image as a picture of mode "L" or "RGB", to show.

    The first three bands are its colours, else the first is grey. Shapes: bands (H, W, B).
    """
    if isinstance(image, Image.Image):
        return _over_white(image).convert("RGB") if image.mode == "RGBA" else image
    if image.shape[2] >= 3:
        return Image.fromarray(np.ascontiguousarray(image[..., :3]))
    return Image.fromarray(np.ascontiguousarray(image[..., 0]))


def count_bands(
    load: Load, examples: Sequence[Example], n_files: int = N_SAMPLE, *, with_alpha: bool = False
) -> int:
    """The number of channels of the images, from a few files spread over all of them.

    Pictures have 3, or 1 if all files read are grey; alpha counts as a fourth only
    `with_alpha`. Ignores files that cannot be read.
    Raises: DataError naming two files that differ.
    """
    counts: dict[str, int] = {}
    any_alpha = False
    for example in spread(examples, n_files):
        try:
            n, has_alpha = _count(load(example.id), example.id)
        except DataError:
            continue
        counts[example.id], any_alpha = n, any_alpha or has_alpha
    numbers = set(counts.values()) or {3}
    if not numbers <= {1, 3}:
        _check_same(counts, "bands")
    return 4 if with_alpha and any_alpha and numbers <= {1, 3} else max(numbers)


def _count(payload: bytes, name: str) -> tuple[int, bool]:
    """Channels of one file without alpha, and whether it has alpha."""
    header = read_header(payload, name)
    if header is not None and not header.is_picture:
        return header.bands, False

    def count_picture() -> tuple[int, bool]:
        if payload.startswith(NUMPY) and header is not None:
            return (1 if header.bands == 1 else 3), header.bands == 4
        image = open_upright(payload, name, draft=_SMALL)
        has_alpha = image.has_transparency_data
        if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
            return 1, has_alpha
        small = np.asarray(image.convert("RGB").resize((_SMALL, _SMALL), Image.Resampling.BOX))
        is_colour = int(np.ptp(small.astype(np.int16), axis=2).max()) > _TINT
        return 3 if is_colour else 1, has_alpha

    return guard(count_picture, payload, name)


def band_ranges(load: Load, examples: Sequence[Example], n_files: int = MAX_FILES) -> Ranges:
    """The values that become 0 and 255 in each band: 1st and 99th percentile.

    (0, 255) for files of 8 bits. Reads at most `n_files` training files and no label. A band
    that hardly varies is scaled by its extent, or by 1 if it is constant. Ignores files that
    cannot be read.
    Raises: DataError if none can be read, or naming two that differ in bands or number type.
    """
    train = spread([e for e in examples if e.split == "train"], n_files)
    problem = "no training image to compute the ranges of bands from"
    by_id = dict(read_some(lambda e: (e.id, _sample(load(e.id), e.id)), train, problem))
    _check_same({id: values.shape[1] for id, values in by_id.items()}, "bands")
    _check_same({id: str(values.dtype) for id, values in by_id.items()}, "values")
    samples = [*by_id.values()]
    if samples[0].dtype == np.uint8:
        return (EIGHT_BITS,) * int(samples[0].shape[1])
    table = np.concatenate(samples).astype(np.float64)
    lows, highs = np.percentile(table, (LOW, HIGH), axis=0)
    ends = np.stack([lows, highs, table.min(axis=0), table.max(axis=0)], axis=1)
    return tuple(_range(float(a), float(b), float(c), float(d)) for a, b, c, d in ends)


def read_some(
    read: Callable[[Example], Result], examples: Sequence[Example], problem: str
) -> list[Result]:
    """The results for the examples that can be read; raises the first error if there are none."""
    results, first_error = [], None
    for example in examples:
        try:
            results.append(read(example))
        except DataError as error:
            first_error = first_error or error
    if not results:
        raise first_error or DataError(problem)
    return results


def _sample(payload: bytes, name: str) -> Values:
    """The values of some pixels. Shapes: returns (m, B)."""
    values = decode_bands(payload, name)
    flat = values.reshape(-1, values.shape[2])
    step = -(-len(flat) // _PIXELS)
    return flat[:: step + 1 - step % 2]  # odd, so that no column is left out


def _range(low: float, high: float, minimum: float, maximum: float) -> tuple[float, float]:
    """A range that is not empty."""
    if low < high:
        return low, high
    return (minimum, maximum) if minimum < maximum else (minimum, minimum + 1.0)


def spread(examples: Sequence[Example], n: int) -> list[Example]:
    """At most `n` examples, evenly spaced over all."""
    indices = np.linspace(0, len(examples) - 1, min(n, len(examples))).round().astype(int)
    return [examples[index] for index in indices]


def _check_same(values: dict[str, int] | dict[str, str], what: str) -> None:
    for (first, a), (second, b) in pairwise(values.items()):
        if a != b:
            verb = "has" if what == "bands" else "holds"
            raise DataError(
                f"{first} {verb} {a} {what}, {second} {b}; give files of one kind, or leave "
                "some out"
            )


# ---- A decoded image to the pixels that a network takes: resize, crop, in 8 bits.

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]


def has_bands(preprocessing: Preprocessing) -> bool:
    """Whether the network takes bands, not pictures."""
    return bool(preprocessing.ranges) or preprocessing.channels not in (1, 3, 4)


def draft_side(preprocessing: Preprocessing) -> int:
    """The short side, in px, that a decoder must not go below for this preprocessing."""
    return max(preprocessing.resize, *preprocessing.size)


def prepare(image: Image.Image | Pixels, preprocessing: Preprocessing) -> Pixels:
    """Resize the short side (both if `squash`) and crop the centre, all in one resampling.

    `image` is the result of `open_image`. Images too small for the crop are enlarged. Bands are
    resized one by one, bilinearly; alpha like the colours.
    Returns: (H, W, C) uint8, C-contiguous, with H, W = preprocessing.size.
    Raises: ModelError if the network takes another number of channels.
    """
    if not isinstance(image, Image.Image):
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(image, 2, 0)]
        return _stack(bands, preprocessing, Image.Resampling.BILINEAR)
    if preprocessing.channels == 4 and image.mode == "RGBA":
        # Channel by channel: Pillow would weight the colours by alpha.
        return _stack(image.split(), preprocessing, _FILTERS[preprocessing.interpolation])
    if preprocessing.channels not in (1, 3):
        raise ModelError(
            f"the base model takes {preprocessing.channels} channels, images have 1 or 3; "
            "choose another base model"
        )
    if preprocessing.channels == 1 and image.mode != "L":
        image = image.convert("L")
    height, width = preprocessing.size
    # One call with a box is about twice as fast as resizing all and cropping, with the same
    # pixels. No reducing_gap: it is faster on huge PNGs only, and changes the values.
    image = image.resize(
        (width, height),
        _FILTERS[preprocessing.interpolation],
        box=crop_box(image.size, preprocessing),
    )
    if preprocessing.channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.array(image, dtype=np.uint8, order="C")
    return pixels.reshape(height, width, preprocessing.channels)


def _stack(
    bands: Sequence[Image.Image], preprocessing: Preprocessing, resampling: Image.Resampling
) -> Pixels:
    """Grey pictures, resized alike, as one array. Shapes: (H, W, C)."""
    height, width = preprocessing.size
    box = crop_box(bands[0].size, preprocessing)
    resized = [np.asarray(band.resize((width, height), resampling, box=box)) for band in bands]
    return np.ascontiguousarray(np.stack(resized, axis=-1))


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The region of the original that resizing and then cropping would leave.

    Units: px of the original; `size` is (width, height). Returns (left, top, right, bottom).
    """
    width, height = size
    crop_height, crop_width = preprocessing.size
    if preprocessing.squash:
        wide = max(preprocessing.resize, crop_width)
        high = max(preprocessing.resize, crop_height)
    else:
        short = min(width, height)
        scale = max(preprocessing.resize / short, crop_width / width, crop_height / height)
        # Whole px, as in the two-step form; floor, but 7 / 3 * 3 must stay 7.
        wide = max(int(width * scale + 1e-6), crop_width)
        high = max(int(height * scale + 1e-6), crop_height)
    left, top = round((wide - crop_width) / 2), round((high - crop_height) / 2)
    return (
        left * width / wide,
        top * height / high,
        min((left + crop_width) * width / wide, width),
        min((top + crop_height) * height / high, height),
    )


COLOUR = 0.1  # v0: by how much brightness is varied
_LARGEST_SIDE = 16_384  # px of an image
_LEAST_SCALE, _MOST_SCALE = 1e-12, 1e12


class ImageModality(Modality[Preprocessing]):
    """Images, of colours or of bands, resized and cropped to 8 bits."""

    kind: Kind = "image"
    input_name = "images"
    hub_name = "image"
    example = "image"
    networks: tuple[str, ...] = ("image",)
    form: Form = "files"
    suffixes = suffixes_of("jpg jpeg jpe jfif png webp gif bmp tif tiff ppm pgm pbm npy")
    has_off_topic = True
    augmentations: tuple[Choice, Choice, Choice] | None = None
    has_pixels = has_thumbnails = True
    nouns = IMAGES

    def open(self, payload: bytes, name: str, inputs: Preprocessing) -> Image.Image | Pixels:
        """Decode one image for the network.

        Returns: a picture of mode "L" or "RGB" for 1 or 3 channels, "RGBA" for 4, and for bands
        (more than four channels, or with ranges) their values scaled to 8 bits, (H, W, C).
        Raises: DataError if the bytes are not a valid image, or have another number of bands.
        """
        if not has_bands(inputs):
            decoder = decode_alpha if inputs.channels == 4 else decode
            return decoder(payload, name, draft=draft_side(inputs))
        values, channels = decode_bands(payload, name), inputs.channels
        if values.shape[2] != channels and values.dtype == np.uint8 and channels in (1, 3):
            picture = decode(payload, name).convert("L" if channels == 1 else "RGB")
            values = np.asarray(picture).reshape(*picture.size[::-1], channels)
        if values.shape[2] != channels:
            raise DataError(
                f"{name} has {count(values.shape[2], 'band')}; the network takes {channels}"
            )
        return scale_bands(values, inputs.ranges, name)

    def encode(self, payload: bytes, name: str, inputs: Preprocessing) -> Pixels:
        return prepare(self.open(payload, name, inputs), inputs)

    def prepare(self, example: Image.Image | Pixels, inputs: Preprocessing) -> Pixels:
        return prepare(example, inputs)

    def is_rendered(self, inputs: Preprocessing) -> bool:
        return has_bands(inputs)

    def picture(self, example: Image.Image | Pixels) -> Image.Image:
        return as_picture(example)

    def decoder(self, inputs: Preprocessing) -> str:
        name = with_version("pillow")
        if not has_bands(inputs):
            return f"{name}, alpha" if inputs.channels == 4 else name
        ranges = hashlib.sha256(repr(inputs.ranges).encode()).hexdigest()[:16]
        return f"{name}, {with_version('tifffile')}, {inputs.channels} bands {ranges}"

    def problem(self, inputs: Preprocessing) -> str:
        sides, values = (*inputs.size, inputs.resize), (*inputs.mean, *inputs.std)
        is_scaled = len(inputs.mean) == len(inputs.std) > 0 and min(inputs.std) > _LEAST_SCALE
        is_sane = all(abs(value) < _MOST_SCALE for value in values) and is_scaled
        if not is_sane or not 1 <= min(sides) <= max(sides) <= _LARGEST_SIDE:
            return "its preprocessing makes no sense"
        ranges = inputs.ranges
        if ranges and (len(ranges) != inputs.channels or any(low >= high for low, high in ranges)):
            return "its ranges of bands make no sense"
        return ""

    def metadata(self, inputs: Preprocessing) -> dict[str, Any]:
        height, width = inputs.size
        return {"height": height, "width": width, "channels": inputs.channels}

    def network_input(self, inputs: Preprocessing) -> str:
        shape = ", ".join(["N", *map(str, self.network_shape(inputs))])
        return f"images ({shape}) float32, scaled and normalised as preprocess.json says"

    def network_shape(self, inputs: Preprocessing) -> tuple[int, ...]:
        return (inputs.channels, *inputs.size)

    def plan(self, inputs: Preprocessing, base: Inputs) -> InputPlan | None:
        base = pictures(base)
        if inputs.size[0] != inputs.size[1]:
            return None
        size = base.size[0] if base.size[0] == base.size[1] else None
        bands = f"your images have {inputs.channels} bands"
        return InputPlan(
            size=input_choice(inputs.size[0], size, "as it was set"),
            channels=input_choice(inputs.channels, base.channels, bands),
        )

    def noise(self, n: int, inputs: Preprocessing) -> Pixels:
        return np.random.default_rng(0).integers(0, 256, (n, *inputs.shape), dtype=np.uint8)


IMAGE = ImageModality()
