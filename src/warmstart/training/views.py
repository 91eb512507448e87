"""Which images a step sees, and how: reshuffled passes, random crops and mirrored pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_STRETCH = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as is usual since Szegedy et al. 2015


@dataclass(frozen=True, slots=True)
class Views:
    """How training images vary: least share of the area kept (1: all), mirrored at random."""

    crop: float
    flip: bool


def draw_batches(
    n: int, batch: int, n_steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each step: every image once before any comes again.

    >>> [len(rows) for rows in draw_batches(3, 2, 3, np.random.default_rng(0))]
    [2, 2, 2]
    """
    waiting = np.empty(0, np.int64)
    for _ in range(n_steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        rows, waiting = waiting[:batch], waiting[batch:]
        yield rows


def vary(images: Tensor, views: Views, rng: np.random.Generator) -> Tensor:
    """A random view of each image. Shapes: (B, C, H, W) to (B, C, H, W).

    A crop keeps `views.crop` to 1 of the area, within the picture, and is resized bilinearly
    (Szegedy et al. 2015, "Going Deeper with Convolutions", §6).
    """
    if views.crop >= 1 and not views.flip:
        return images
    b = len(images)
    area = rng.uniform(views.crop, 1, b)
    stretch = np.exp(rng.uniform(-_STRETCH, _STRETCH, b) / 2) if views.crop < 1 else np.ones(b)
    stretch = np.clip(stretch, np.sqrt(area), 1 / np.sqrt(area))  # neither side beyond the picture
    wide, high = np.sqrt(area) * stretch, np.sqrt(area) / stretch
    mirror = np.where(rng.random(b) < 0.5, -1.0, 1.0) if views.flip else np.ones(b)
    theta = np.zeros((b, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = wide * mirror, high
    theta[:, 0, 2] = rng.uniform(-1, 1, b) * (1 - wide)  # in half widths from the centre
    theta[:, 1, 2] = rng.uniform(-1, 1, b) * (1 - high)
    grid = affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    found = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)
