"""Untrusted bytes to an 8-bit picture in grey ("L") or colour ("RGB"), or a DataError."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TypeVar

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
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from warmstart.data.pixels import check_pixels, to_uint8
from warmstart.data.raw import NUMPY, TIFF, count_samples, read_npy
from warmstart.errors import DataError

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
