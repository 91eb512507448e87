"""Augmentations: random crops, flips and colours; and the order in which a training sees rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.planning.schedule import Schedule

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]

_STRETCH = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3 (Szegedy et al. 2015)
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # luma weights (ITU-R BT.601)


@dataclass(frozen=True, slots=True)
class Augmentations:
    """How training images are augmented.

    `crop`: smallest share of the area (1: no crop). `colour`: largest relative change of
    brightness, contrast and saturation. For spectrograms, `shift`: largest shift, as a share of the
    width; `mask`: largest share of the rows, and of the columns, that a band hides.
    """

    crop: float
    flip: bool
    colour: float = 0.0
    shift: float = 0.0
    mask: float = 0.0

    @property
    def policy(self) -> str:
        """The settings as a member of a cache key."""
        crop, flip, colour = float(self.crop), int(self.flip), float(self.colour)
        sound = f" shift={self.shift!r} mask={self.mask!r}" if self.shift or self.mask else ""
        return f"crop={crop!r} flip={flip} colour={colour!r}{sound} bilinear v1"


def augmentations_of(schedule: Schedule) -> Augmentations:
    """The augmentations of a plan."""
    colour, shift, mask = schedule.color_jitter, schedule.time_shift, schedule.spec_augment
    return Augmentations(schedule.crop, schedule.flip, colour, shift, mask)


def draw_batches(
    n: int, batch: int, n_steps: int, rng: np.random.Generator
) -> Iterator[tuple[Rows, Rows]]:
    """Row numbers (batch,) of each step, shuffled every epoch, and earlier uses of each row."""
    waiting = np.empty(0, np.int64)
    for step in range(n_steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        rows, waiting = waiting[:batch], waiting[batch:]
        yield rows, np.arange(step * batch, (step + 1) * batch) // n


def augmentation_numbers(visits: Rows, schedule: Schedule) -> Rows:
    """Augmentations 1, 2, … come in turn, then again from 1 if their number is limited; 0: none."""
    if not schedule.is_varied:
        return np.zeros_like(visits)
    return 1 + (visits % schedule.augmentations if schedule.augmentations else visits)


def numbered_augmentation(
    image: Pixels, content: str, number: int, augmentations: Augmentations, seed: int
) -> Pixels:
    """Augmentation `number` of an image (H, W, C); number 0 is the image itself.

    It follows from (seed, content, number) alone, so that cached and live augmentations have the
    same bytes. `content` is the sha256 of the image's file in hex.

    >>> grey = np.zeros((8, 8, 1), np.uint8)
    >>> numbered_augmentation(grey, "0a" * 32, 0, Augmentations(0.35, True), seed=0) is grey
    True
    """
    if number == 0:
        return image
    return augment(image, augmentations, np.random.default_rng([seed, number, int(content, 16)]))


def augment(image: Pixels, augmentations: Augmentations, rng: np.random.Generator) -> Pixels:
    """A random augmentation of an image (H, W, C); the image itself where nothing varies.

    Crops: Szegedy et al. 2015, "Going Deeper with Convolutions", §6, resized bilinearly with
    antialiasing. Bands other than colours keep their values.
    """
    if augmentations.crop < 1 or augmentations.flip:
        image = _crop_and_flip(image, augmentations, rng)
    if augmentations.colour > 0 and image.shape[2] in (1, 3):
        strength = augmentations.colour
        image = _jitter_colour(image, *rng.uniform(1 - strength, 1 + strength, 3).tolist())
    if augmentations.shift or augmentations.mask:
        image = _mask(_shift(image, augmentations.shift, rng), augmentations.mask, rng)
    return image


def _shift(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Shift sideways by at most a share of the width; silence, which is black, fills the gap."""
    width = image.shape[1]
    by = round(rng.uniform(-most, most) * width)
    shifted = np.zeros_like(image)
    shifted[:, max(by, 0) : width + min(by, 0)] = image[:, max(-by, 0) : width + min(-by, 0)]
    return shifted


def _mask(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Set one band of rows and one of columns to the mean: Park et al. 2019, "SpecAugment", §2."""
    level = round(float(image.mean(dtype=np.float64)))
    for side, cells in ((0, image), (1, image.swapaxes(0, 1))):
        n = image.shape[side]
        width = round(rng.uniform(0, most) * n)
        begin = int(rng.integers(0, n - width + 1))
        cells[begin : begin + width] = level
    return image


def _crop_and_flip(image: Pixels, augmentations: Augmentations, rng: np.random.Generator) -> Pixels:
    # Takes 2 s, and only training needs it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transform

    height, width = image.shape[:2]
    # (H, W, C) memory is channels_last, in which 8-bit resizing is fastest.
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if augmentations.crop < 1:
        box = _crop_box(height, width, augmentations.crop, rng)
        pixels = transform.resized_crop(
            pixels, *box, [height, width], InterpolationMode.BILINEAR, antialias=True
        )
    if augmentations.flip and rng.random() < 0.5:
        pixels = transform.horizontal_flip(pixels)
    return cast(Pixels, pixels.permute(1, 2, 0).contiguous().numpy())


def _crop_box(
    height: int, width: int, least: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random window in px, within the image: top, left, height, width.

    Its area is uniform in [least, 1], its aspect log-uniform from 3:4 to 4:3, of the image's.
    """
    area = rng.uniform(least, 1)
    stretch = math.exp(rng.uniform(-_STRETCH, _STRETCH) / 2)
    stretch = min(max(stretch, math.sqrt(area)), 1 / math.sqrt(area))  # within the image
    high = max(1, round(height * math.sqrt(area) / stretch))
    wide = max(1, round(width * math.sqrt(area) * stretch))
    top, left = rng.integers(0, [height - high + 1, width - wide + 1]).tolist()
    return top, left, high, wide


def _jitter_colour(image: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Multiply brightness, contrast and saturation by a factor each, as torchvision does.

    In one step: half the time, one rounding, no mean whose last bit depends on the threads.
    """
    values = image.astype(np.float32)
    luma = values.copy()
    if values.shape[2] == 3:
        red, green, blue = np.moveaxis(values, 2, 0)
        luma = (_RED * red + _GREEN * green + _BLUE * blue)[..., None]
    level = brightness * (1 - contrast) * float(luma.mean(dtype=np.float64))
    # b (c (s x + (1 - s) luma) + (1 - c) mean), and half a level to round to the nearest.
    values *= brightness * contrast * saturation
    luma *= brightness * contrast * (1 - saturation)
    values += luma + (level + 0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
