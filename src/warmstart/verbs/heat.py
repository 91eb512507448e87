"""What mattered in an image: cover one part after another and see how the answer changes.

Covering is done to the pixels, before the network, so that it holds for every network and for
every depth that a head listens to; gradients at one part would miss what the others hear.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from warmstart.data.prepare import Pixels
from warmstart.delivery.serve.served import Heat
from warmstart.records import pictures
from warmstart.verbs.predictor import Predictor

Ask = Callable[[Pixels], NDArray[np.float64]]  # images (n, H, W, C) to probabilities (n, K)

SECONDS = 0.7  # that a map may take
COARSEST, FINEST = 3, 8  # cells along each side
CLEAR = 1.0  # of log-odds: where even the largest fall is smaller, nothing glows in full
COVER = 2.0  # width of what is covered, in cells: an edge between two cells must not matter


def find_heat(predictor: Predictor, pixels: Pixels, cells: int) -> Heat:
    """The heat map of one prepared image (H, W, C) uint8, with cells × cells parts."""

    def ask(images: Pixels) -> NDArray[np.float64]:
        return predictor.probabilities(images)[0]

    best, probability, grid, covered = occlusion(ask, pixels, cells, neutral(predictor))
    return Heat(predictor.labels[best], probability, covered, grid)


def neutral(predictor: Predictor) -> NDArray[np.uint8]:
    """The colour that says nothing to the network: what its preprocessing makes zero. (C,)"""
    mean = np.asarray(pictures(predictor.bundle.record.preprocessing).mean)
    return np.asarray(np.clip(np.rint(255 * mean), 0, 255), dtype=np.uint8)


def occlusion(
    ask: Ask, pixels: Pixels, cells: int, colour: NDArray[np.uint8]
) -> tuple[int, float, NDArray[np.float64], float]:
    """Cover each cell of a grid with a colour; how much does the best class lose?

    Measured in log-odds, where a fall from 0.99 to 0.9 counts as much as one from 0.9 to 0.5.
    Returns: class, its probability, grid (cells, cells) in 0..1, and its least probability.

    >>> image = np.zeros((6, 6, 1), np.uint8)
    >>> image[:2, :2] = 200
    >>> def ask(images):
    ...     bright = 0.1 + 0.8 * images[:, :2, :2].mean(axis=(1, 2, 3)) / 200
    ...     return np.stack([bright, 1 - bright], axis=1)
    >>> best, probability, grid, least = occlusion(ask, image, 3, np.uint8([0]))
    >>> best, round(probability, 2), np.unravel_index(grid.argmax(), grid.shape)
    (0, 0.9, (np.int64(0), np.int64(0)))
    """
    masks = covers(pixels.shape[:2], cells)
    images = np.concatenate([pixels[None], np.where(masks[..., None], colour, pixels)])
    found = ask(images.astype(np.uint8))
    best = int(found[0].argmax())
    odds = log_odds(found[:, best])
    falls = np.maximum(odds[0] - odds[1:], 0.0)
    grid = (falls / max(float(falls.max()), CLEAR)).reshape(cells, cells)
    return best, float(found[0, best]), grid, float(found[1:, best].min())


def log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln p / (1 - p), finite for certainty.

    >>> log_odds(np.array([0.5, 1.0])).round(1).tolist()
    [0.0, 20.7]
    """
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p))


def covers(size: tuple[int, int], cells: int) -> NDArray[np.bool_]:
    """Which pixels each cover hides, row by row. Shapes: (cells², H, W).

    >>> covers((6, 6), 3)[0, :, 0].astype(int).tolist()
    [1, 1, 1, 0, 0, 0]
    """
    rows, columns = (_bands(side, cells) for side in size)
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(cells * cells, *size)


def _bands(side: int, cells: int) -> NDArray[np.bool_]:
    """(cells, side): each cell along one side, with its margin."""
    middle = (np.arange(cells) + 0.5) * side / cells
    half = COVER * side / cells / 2
    at = np.arange(side) + 0.5
    return np.asarray(np.abs(at - middle[:, None]) <= half + 1e-9)


def cells_for(seconds: float) -> int:
    """Cells along a side, so that a map takes less than a second at this pace an image.

    >>> cells_for(1 / 75), cells_for(1 / 1000), cells_for(0.5)
    (7, 8, 3)
    """
    return min(max(math.isqrt(int(SECONDS / max(seconds, 1e-6))), COARSEST), FINEST)


def measure_pace(predictor: Predictor) -> float:
    """Seconds an image in a pass of some; the first pass, which sets things up, is not counted."""
    prep = pictures(predictor.bundle.record.preprocessing)
    blank = np.zeros((8, *prep.size, prep.channels), np.uint8)
    predictor.probabilities(blank)
    began = time.perf_counter()
    predictor.probabilities(blank)
    return (time.perf_counter() - began) / len(blank)
