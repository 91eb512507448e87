"""Encoded bytes to the pixels a network sees: decode, resize, crop, in 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.data.decode import decode
from warmstart.errors import StartError
from warmstart.records import Preprocessing

__all__ = ["decode", "draft_side", "load_image", "prepare"]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]


def load_image(payload: bytes, name: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode and prepare one image; `name` stands in messages.

    Returns: (H, W, C) uint8, C-contiguous, with H, W = preprocessing.size. Thread-safe.
    Raises: DataError if the bytes are no usable image.
    """
    return prepare(decode(payload, name, draft=draft_side(preprocessing)), preprocessing)


def draft_side(preprocessing: Preprocessing) -> int:
    """The short side, in px, that a decoder must keep for this preprocessing.

    >>> draft_side(Preprocessing(size=(224, 224), resize=256, mean=(0.5,), std=(0.5,)))
    256
    """
    return max(preprocessing.resize, *preprocessing.size)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize the short side (both if `squash`), cut the centre out, all in one resampling.

    `image` has mode "L" or "RGB". Images too small for the crop are enlarged until it fits.
    Returns: (H, W, C) uint8, C-contiguous, with H, W = preprocessing.size and C 1 or 3.
    Raises: StartError if the network wants another number of channels.

    >>> small = Preprocessing(size=(2, 3), resize=4, mean=(0.5,), std=(0.5,))
    >>> prepare(Image.new("L", (10, 10), 7), small)[..., 0].tolist()
    [[7, 7, 7], [7, 7, 7]]
    """
    if preprocessing.channels not in (1, 3):
        raise StartError(
            f"the start wants {preprocessing.channels} channels, images have 1 or 3; "
            "choose another start"
        )
    if preprocessing.channels == 1 and image.mode != "L":
        image = image.convert("L")
    height, width = preprocessing.size
    # One call with a box is about twice as fast as resizing all and cropping, and gives the
    # same pixels. No reducing_gap: it is quicker on huge PNGs only, and moves the values.
    image = image.resize(
        (width, height),
        _FILTERS[preprocessing.interpolation],
        box=crop_box(image.size, preprocessing),
    )
    if preprocessing.channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.array(image, dtype=np.uint8, order="C")
    return pixels.reshape(height, width, preprocessing.channels)


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The region of the original that resizing and then cropping would keep.

    Units: px of the original; `size` is (width, height). Returns (left, top, right, bottom).

    >>> crop_box((200, 100), Preprocessing(size=(50, 50), resize=50, mean=(0.5,), std=(0.5,)))
    (50.0, 0.0, 150.0, 100.0)
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
