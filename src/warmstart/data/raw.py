"""Files that hold values rather than pictures: .npy arrays, and TIFF of many bands or bits.

Headers are checked before a byte of data is trusted, and size is judged by them alone.
"""

from __future__ import annotations

import importlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from warmstart.data.pixels import check_pixels
from warmstart.errors import DataError
from warmstart.extras import install_command

NUMPY = b"\x93NUMPY"
MOST_BANDS = 13  # those of Sentinel-2
Values = NDArray[np.generic]
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
