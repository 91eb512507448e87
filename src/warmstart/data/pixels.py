"""One fixed rule from any pixel type to 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError

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
