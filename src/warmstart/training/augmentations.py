"""Which images a step sees, and how: reshuffled passes, random crops, mirrored and coloured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_STRETCH = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as is usual since Szegedy et al. 2015
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # how bright they look (ITU-R BT.601)


@dataclass(frozen=True, slots=True)
class Augmentations:
    """How training images vary.

    `crop`: least share of the area kept (1: all). `flip`: mirrored at random. `colour`: largest
    relative change of brightness, contrast and saturation (0: none). For pictures of sounds,
    `shift`: largest share of the width that they are moved by, in either direction; `mask`:
    largest share of the rows, and of the columns, that a band hides.
    """

    crop: float
    flip: bool
    colour: float = 0.0
    shift: float = 0.0
    mask: float = 0.0

    @property
    def policy(self) -> str:
        """What is done, as a member of a cache key.

        >>> Augmentations(0.35, True, 0.1).policy
        'crop=0.35 flip=1 colour=0.1 bilinear v1'
        """
        crop, flip, colour = float(self.crop), int(self.flip), float(self.colour)
        heard = f" shift={self.shift!r} mask={self.mask!r}" if self.shift or self.mask else ""
        return f"crop={crop!r} flip={flip} colour={colour!r}{heard} bilinear v1"


def draw_batches(
    n: int, batch: int, n_steps: int, rng: np.random.Generator
) -> Iterator[tuple[Rows, Rows]]:
    """Row numbers of each step, and how often each had come before.

    Every image comes once before any comes again. Shapes: rows and visits (batch,).

    >>> [visits.tolist() for _, visits in draw_batches(3, 2, 3, np.random.default_rng(0))]
    [[0, 0], [0, 1], [1, 1]]
    """
    waiting = np.empty(0, np.int64)
    for step in range(n_steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        rows, waiting = waiting[:batch], waiting[batch:]
        yield rows, np.arange(step * batch, (step + 1) * batch) // n


def numbered_augmentation(image: Pixels, content: str, number: int, views: Augmentations, seed: int) -> Pixels:
    """View `number` of an image: 0 is the image as it is, later ones are random.

    These follow from (seed, content, number) alone, so that a stored view and one made on the
    fly are the same bytes, whoever makes them and in whatever order. `content` is the sha256
    of the image's file in hex. Shapes: (H, W, C) to (H, W, C).

    >>> grey = np.zeros((8, 8, 1), np.uint8)
    >>> numbered_augmentation(grey, "0a" * 32, 0, Augmentations(0.35, True), seed=0) is grey
    True
    """
    if number == 0:
        return image
    return view(image, views, np.random.default_rng([seed, number, int(content, 16)]))


def view(image: Pixels, views: Augmentations, rng: np.random.Generator) -> Pixels:
    """A random view of an image; the image itself where nothing is to vary.

    A crop keeps `views.crop` to 1 of the area, within the picture, and is resized bilinearly
    with antialiasing (Szegedy et al. 2015, "Going Deeper with Convolutions", §6). Bands that
    are no colours (C other than 1 or 3) keep their values. Shapes: (H, W, C) to (H, W, C).
    """
    if views.crop < 1 or views.flip:
        image = _framed(image, views, rng)
    if views.colour > 0 and image.shape[2] in (1, 3):
        factors = rng.uniform(1 - views.colour, 1 + views.colour, 3).tolist()
        image = _coloured(image, *factors)
    if views.shift or views.mask:
        image = _masked(_shifted(image, views.shift, rng), views.mask, rng)
    return image


def _shifted(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Moved sideways, by at most a share of the width; silence, which is black, comes in."""
    wide = image.shape[1]
    by = round(rng.uniform(-most, most) * wide)
    moved = np.zeros_like(image)
    moved[:, max(by, 0) : wide + min(by, 0)] = image[:, max(-by, 0) : wide + min(-by, 0)]
    return moved


def _masked(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """One band of rows and one of columns at the picture's mean, each up to a share of the side.

    Park et al. 2019, "SpecAugment", §2: frequency and time masking. The picture is changed.
    """
    level = round(float(image.mean(dtype=np.float64)))
    for side, cells in ((0, image), (1, image.swapaxes(0, 1))):
        n = image.shape[side]
        width = round(rng.uniform(0, most) * n)
        begin = int(rng.integers(0, n - width + 1))
        cells[begin : begin + width] = level
    return image


def _framed(image: Pixels, views: Augmentations, rng: np.random.Generator) -> Pixels:
    """Cropped and mirrored at random."""
    # Takes 2 s, and only training needs it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transform

    high, wide = image.shape[:2]
    # A view of (H, W, C) memory: channels_last, in which 8-bit resizing is fastest.
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if views.crop < 1:
        top, left, height, width = _box(high, wide, views.crop, rng)
        pixels = transform.resized_crop(
            pixels,
            top,
            left,
            height,
            width,
            [high, wide],
            InterpolationMode.BILINEAR,
            antialias=True,
        )
    if views.flip and rng.random() < 0.5:
        pixels = transform.horizontal_flip(pixels)
    return cast(Pixels, pixels.permute(1, 2, 0).contiguous().numpy())


def _box(high: int, wide: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random window in px, within the picture: top, left, height, width.

    Its area is uniform in [least, 1] of the picture's, its shape in the logarithm up to 3:4
    and 4:3 of the picture's: a picture that is not square is not squeezed.
    """
    area = rng.uniform(least, 1)
    stretch = math.exp(rng.uniform(-_STRETCH, _STRETCH) / 2)
    stretch = min(max(stretch, math.sqrt(area)), 1 / math.sqrt(area))  # neither side beyond it
    height = max(1, round(high * math.sqrt(area) / stretch))
    width = max(1, round(wide * math.sqrt(area) * stretch))
    top, left = rng.integers(0, [high - height + 1, wide - width + 1]).tolist()
    return top, left, height, width


def _coloured(image: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Brightness, contrast and saturation times a factor each.

    torchvision's three functions of these names in one, which rounds once, to the nearest, and
    takes half the time; nor does it take a mean over threads, whose last bit depends on their
    number.
    """
    values = image.astype(np.float32)
    grey = _grey(values)
    level = brightness * (1 - contrast) * float(grey.mean(dtype=np.float64))
    # b (c (s x + (1 - s) grey) + (1 - c) mean), and half a level to round to the nearest.
    values *= brightness * contrast * saturation
    grey *= brightness * contrast * (1 - saturation)
    values += grey + (level + 0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _grey(values: Floats) -> Floats:
    """How bright each place looks, in an array of its own. Shapes: (H, W, 1 or 3) to (H, W, 1)."""
    if values.shape[2] == 1:
        return values.copy()
    red, green, blue = np.moveaxis(values, 2, 0)
    found: Floats = _RED * red + _GREEN * green + _BLUE * blue
    return found[..., None]
