"""Untrusted bytes to an 8-bit picture in grey ("L") or colour ("RGB"), or a DataError."""

from __future__ import annotations

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

from warmstart.errors import DataError, install_command
from warmstart.records.data import Example

# ---- One fixed rule from any pixel type to 8 bits.


MAX_PIXELS = 64_000_000


class TooLarge(DataError):
    """An image has more pixels than are decoded; its bytes may be sound."""


def to_uint8(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """Scale pixels to 0..255, any shape.

    uint8 stays; bool becomes 0 and 255; uint16 is divided by 257; other integers must lie in
    0..255; floats are taken as 0..1 if none exceeds 1, else as 0..255. Rounded, never wrapped.
    Raises: DataError for other types, NaN, infinity, or values out of range.

    >>> to_uint8(np.array([0.0, 0.5, 1.0]), "x").tolist()
    [0, 128, 255]
    >>> to_uint8(np.array([0, 257, 65535], dtype=np.uint16), "x").tolist()
    [0, 1, 255]
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
    """Refuse images that are too large, from the header alone.

    Raises: TooLarge above 64 megapixels, DataError without pixels.
    """
    if width < 1 or height < 1:
        raise DataError(f"{name} is not an image (it has no pixels)")
    if width * height > MAX_PIXELS:
        size = width * height / 1e6
        raise TooLarge(f"{name} has {size:,.0f} megapixels; the limit is 64")


# ---- Files that hold values rather than pictures: .npy arrays, and TIFF of many bands or bits.
#
# Headers are checked before a byte of data is trusted, and size is judged by them alone.


NUMPY = b"\x93NUMPY"
MOST_BANDS = 13  # those of Sentinel-2
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Tags of TIFF: "TIFF 6.0 Specification", Adobe 1992, part 1.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA = 256, 257, 258, 262, 277, 338
_CMYK = 5
_PICTURE_BITS = 8
_SINGLE_BITS = 32  # of one band: up to there Pillow reads it as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first bytes say. `is_picture`: Pillow reads it without loss; else it holds bands.

    `bands` counts what lies in the file, an alpha channel included.
    """

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
    first = version == (1, 0)
    read_header = (
        np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = read_header(file)
    return _Npy(shape, is_fortran, dtype, file.tell())


def read_npy(payload: bytes, name: str, bands: tuple[int, ...] = (1, 3, 4)) -> Values:
    """Values of a .npy file as they are: (H, W), or (H, W, B) with B among `bands`.

    Raises: DataError if it holds no numbers, is of another shape, too large, or cut off.

    >>> buffer = io.BytesIO()
    >>> np.save(buffer, np.zeros((2, 5, 3)))
    >>> read_npy(buffer.getvalue(), "a.npy").shape
    (2, 5, 3)
    """
    header = _numbers(payload, name)
    shape = header.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in bands):
        several = ", ".join(map(str, bands[:-1]))
        raise DataError(
            f"{name} has shape {shape}; an image is (H, W) or (H, W, {several} or {bands[-1]})"
        )
    check_pixels(shape[1], shape[0], name)
    return _npy_values(payload, name, header)


def read_npy_bands(payload: bytes, name: str) -> Values:
    """Values of a .npy file as they are, (H, W, B); (B, H, W) is turned where B is clearly first.

    Raises: DataError if it holds no numbers, is of another shape, too large, or cut off.
    """
    header = _numbers(payload, name)
    order = band_order(header.shape)
    if order is None:
        raise DataError(
            f"{name} has shape {header.shape}; bands are (H, W, B) or (B, H, W), "
            f"B from 1 to {MOST_BANDS}"
        )
    height, width, bands = _sides(header.shape, order)
    check_pixels(width, height, name)
    values = _npy_values(payload, name, header)
    return np.moveaxis(values, 0, 2) if order == "BHW" else values.reshape(height, width, bands)


def _numbers(payload: bytes, name: str) -> _Npy:
    header = _npy_header(payload, name)
    if header.dtype.hasobject or header.dtype.kind not in "buif":
        raise DataError(f"{name} holds {header.dtype} values, not pixels")
    return header


def _npy_values(payload: bytes, name: str, header: _Npy) -> Values:
    count = math.prod(header.shape)
    if len(payload) - header.offset < count * header.dtype.itemsize:
        raise DataError(f"{name} is cut off")
    values = np.frombuffer(payload, header.dtype, count, header.offset)
    return values.reshape(header.shape, order="F" if header.is_fortran else "C")


def band_order(shape: tuple[int, ...]) -> str | None:
    """Where the bands of an array stand: "HW", "HWB", "BHW", or None if it is no image.

    >>> band_order((64, 64, 13)), band_order((13, 64, 64)), band_order((64, 64, 64))
    ('HWB', 'BHW', None)
    """
    if len(shape) == 2:
        return "HW"
    if len(shape) != 3:
        return None
    if 1 <= shape[2] <= MOST_BANDS:
        return "HWB"
    return "BHW" if 1 <= shape[0] <= MOST_BANDS < min(shape[1:]) else None


def _sides(shape: tuple[int, ...], order: str) -> tuple[int, int, int]:
    """Height, width, bands."""
    if order == "BHW":
        return shape[1], shape[2], shape[0]
    return shape[0], shape[1], shape[2] if order == "HWB" else 1


def read_header(payload: bytes, name: str) -> Header | None:
    """The header of a .npy or TIFF file; None for other files.

    Raises: DataError where the header makes no sense.
    """
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
    """What the first page says; further pages do not count, as with any picture."""
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
    except Exception as error:  # Pillow lets a dozen types through on damaged bytes
        raise DataError(f"{name} is damaged (its header makes no sense)") from error
    is_known = not extra or extra[0] in (1, 2)  # alpha, before or after it was multiplied in
    if samples == 1:
        is_picture = bits <= _SINGLE_BITS
    else:
        is_picture = samples <= 4 and bits <= _PICTURE_BITS and (is_known or is_cmyk)
    bands = 3 if is_cmyk and is_picture else samples
    return Header(height=height, width=width, bands=bands, is_picture=is_picture)


def count_samples(payload: bytes) -> int:
    """Bands in the first page of a TIFF as its header says; 0 where it makes no sense."""
    try:
        return _tiff_header(payload, "").bands
    except DataError:
        return 0


def read_tiff(payload: bytes, name: str) -> Values:
    """Values of the first page of a TIFF as they are, (H, W, B).

    Raises: DataError if it holds no numbers or too many bands, is too large or damaged, or a
    package is missing.
    """
    header = _tiff_header(payload, name)
    check_pixels(header.width, header.height, name)
    if not 1 <= header.bands <= MOST_BANDS:
        raise DataError(f"{name} has {header.bands} bands; 1 to {MOST_BANDS} are read")
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
    except Exception as error:  # tifffile lets through whatever its decoders raise
        raise DataError(f"{name} {_why(error)}") from error
    if values.dtype.kind not in "buif" or axes not in ("YX", "YXS", "SYX"):
        raise DataError(
            f"{name} holds {values.dtype} values in order {axes}, not bands of an image"
        )
    return np.moveaxis(values, 0, 2) if axes == "SYX" else values.reshape(*values.shape[:2], -1)


def _why(error: Exception) -> str:
    text = str(error).replace("\n", " ")
    if "imagecodecs" in text:
        return f"is packed in a way that needs another package ({text}): pip install imagecodecs"
    return f"is damaged ({text or type(error).__name__})"


Read = TypeVar("Read")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# First bytes of what people mistake for images, and what to say.
_IMPOSTORS = (
    (b"<svg", "is an SVG drawing, which has no pixels"),
    (b"<?xml", "is XML text, not an image"),
    (b"<!doctype html", "is a web page, not an image"),
    (b"<html", "is a web page, not an image"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the image (git lfs pull)"),
)


def decode(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """Decode one encoded image, upright, as mode "L" or "RGB".

    The first frame of an animation counts; transparency is laid over white; wide grey values
    are scaled by `pixels.to_uint8` (16 bits: divided by 257). With `draft`, large JPEGs are
    decoded at 1/2, 1/4 or 1/8 so that the short side keeps at least 2 * `draft` px, which is
    several times faster. Safe to call from several threads.
    Raises: DataError "NAME is cut off", "NAME is not an image", … for every failure.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(buffer, "PNG")
    >>> decode(buffer.getvalue(), "a.png").getpixel((0, 0))
    (255, 255, 255)
    """
    return guarded(lambda: _decoded(payload, name, draft), payload, name)


def decode_alpha(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """The same with transparency kept: mode "RGBA", opaque where the file knows none.

    Raises: DataError as `decode`.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGBA", (4, 2), (255, 0, 0, 7)).save(buffer, "PNG")
    >>> decode_alpha(buffer.getvalue(), "a.png").getpixel((0, 0))
    (255, 0, 0, 7)
    """
    return guarded(lambda: _with_alpha(payload, name, draft), payload, name)


def guarded(read: Callable[[], Read], payload: bytes, name: str) -> Read:
    """What `read` makes of untrusted bytes, every failure a DataError that names the file."""
    if not payload:
        raise DataError(f"{name} is empty")
    try:
        return read()
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name} does not fit in memory") from error
    except Exception as error:  # Pillow lets a dozen types through on damaged bytes
        raise DataError(f"{name} {_reason(error)}") from error


def _decoded(payload: bytes, name: str, draft: int | None) -> Image.Image:
    if payload.startswith(NUMPY):
        return _from_array(to_uint8(read_npy(payload, name), name))
    return _flatten(open_upright(payload, name, draft), name)


def _with_alpha(payload: bytes, name: str, draft: int | None) -> Image.Image:
    if payload.startswith(NUMPY):
        pixels = to_uint8(read_npy(payload, name), name)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    else:
        image = open_upright(payload, name, draft)
    is_clear = image.has_transparency_data
    return (image if is_clear else _flatten(image, name)).convert("RGBA")


def open_upright(payload: bytes, name: str, draft: int | None = None) -> Image.Image:
    """A picture in whatever mode it is stored, loaded and upright; call it within `guarded`.

    Raises: DataError and whatever Pillow raises.
    """
    image = _open(payload, name)
    check_pixels(*image.size, name)
    if draft is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (2 * draft, 2 * draft))
    image.load()
    return _upright(image)


def _open(payload: bytes, name: str) -> ImageFile.ImageFile:
    """Read the header. Not by Image.open: that warns about size where we raise."""
    head = payload[:16]
    if payload.startswith(TIFF) and (bands := count_samples(payload)) > 4:
        raise DataError(f"{name} has {bands} bands; a picture has 1, 3 or 4")
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(head) is True:
            return factory(io.BytesIO(payload), "")
    start = payload[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, reason in _IMPOSTORS:
        if start.startswith(mark):
            raise DataError(f"{name} {reason}")
    if payload[4:8] == b"ftyp":
        raise DataError(f"{name} is a HEIC, AVIF or video file; save it as JPEG or PNG")
    raise DataError(f"{name} is not an image")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return image  # the notes beside the picture are damaged, the picture is not
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Any mode to "L" or "RGB"."""
    if image.mode.startswith("I;16"):
        return _from_array(to_uint8(np.asarray(image).astype(np.uint16), name))
    if image.mode == "I":  # Pillow's mode for some 16-bit files: the same rule
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return _from_array(to_uint8(values, name))
    if image.mode == "F":
        return _from_array(to_uint8(np.asarray(image), name))
    is_grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = _over_white(image.convert("RGBA"))
    mode = "L" if is_grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA picture laid over white, as mode "RGB".

    >>> on_white(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    return _over_white(image).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return _flatten(image, "")


def _reason(error: Exception) -> str:
    """Pillow's and NumPy's many words for bad bytes, in few."""
    words = str(error).lower()
    if isinstance(error, EOFError) or any(
        word in words for word in ("truncated", "incomplete", "premature", "eof", "not enough")
    ):
        return "is cut off"
    if isinstance(error, Image.DecompressionBombError):  # a frame larger than its own header says
        return "has more than 64 megapixels"
    if isinstance(error, (SyntaxError, ValueError)):
        return "is damaged (its header makes no sense)"
    return f"is damaged ({error or type(error).__name__})".replace("\n", " ")


# ---- Images of bands: 1 to 13 channels of any number type, scaled to the 8 bits of pictures.
#
# The scale of each band is taken over training files only and knows no label: its 1st and 99th
# percentile become 0 and 255, as remote sensing tools draw such images.


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
