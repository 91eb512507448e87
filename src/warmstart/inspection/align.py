"""Laying one picture over another: mirror aside, a scale and a shift on each axis.

Small pictures are compared by the correlation of their details, which forgets brightness
and contrast; Gauss-Newton steps on the pose make up for what was cropped away. Sources:
Baker & Matthews 2004, "Lucas-Kanade 20 Years On" (inverse compositional steps);
Evangelidis & Psarakis 2008 (correlation as the measure).

Shapes: pictures (P, S, S) float32; a pose (P, 4) float32 holds scale and shift across,
then scale and shift down, in units in which a picture reaches from -1 to 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float32]
Poses = NDArray[np.float32]

# Details kept at each side length: structures between these two widths in px (Gaussians).
_BANDS = {32: (0.5, 2.5), 64: (0.7, 3.0)}
_ROUNDING = 0.1  # variance that rounding to 8 bits leaves in a blank picture
_STEP = 0.08  # longest move of a pose in one step
_SCALES = (0.85, 1.18)  # farther poses than any crop of 5 % at both ends needs
_SHIFT = 0.12
# Where to begin: as it is; 5 % cropped all round, in either picture; 5 % at one side.
_CROPS = ((0.95, 0.05), (0.95, -0.05), (1 / 0.95, 1 / 19), (1 / 0.95, -1 / 19))
STARTS: Poses = np.array(
    [(1, 0, 1, 0), (0.9, 0, 0.9, 0), (1 / 0.9, 0, 1 / 0.9, 0)]
    + [(scale, shift, 1, 0) for scale, shift in _CROPS]
    + [(1, 0, scale, shift) for scale, shift in _CROPS],
    dtype=np.float32,
)


def details(grey: NDArray[np.uint8], side: int) -> Pictures:
    """Pictures shrunk to `side` px and freed of slow changes and of the finest noise.

    Shapes: grey (P, G, G) with G a multiple of side (32 or 64); returns (P, side, side).

    >>> bool(np.allclose(details(np.full((1, 64, 64), 9, np.uint8), 32), 0, atol=1e-4))
    True
    """
    step = grey.shape[1] // side
    small = grey.reshape(len(grey), side, step, side, step).mean((2, 4), dtype=np.float32)
    fine, coarse = (_gaussian(side, width) for width in _BANDS[side])
    kept: Pictures = fine @ small @ fine.T - coarse @ small @ coarse.T
    return kept


def _gaussian(side: int, width: float) -> NDArray[np.float32]:
    """Smoothing as a matrix; rows sum to 1 at the edges too. Shapes: (side, side)."""
    place = np.arange(side)
    weights = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def warp(pictures: Pictures, poses: Poses) -> tuple[Pictures, Pictures]:
    """Pictures seen from these poses, and where they hold something: 1 inside, 0 outside.

    Bilinear; beyond its edge a picture goes on as its edge. Shapes: both (P, S, S); pictures
    may have a fourth axis of channels, which the second result lacks.

    >>> row = np.arange(4, dtype=np.float32)[None, None].repeat(4, axis=1)
    >>> moved, inside = warp(row, np.array([[1, 0.5, 1, 0]], np.float32))
    >>> moved[0, 0].tolist(), inside[0, 0].tolist()
    ([1.0, 2.0, 3.0, 3.0], [1.0, 1.0, 1.0, 0.0])
    """
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    seen = poses[:, 0::2, None] * centres + poses[:, 1::2, None]  # (P, 2, S)
    place = np.clip(((seen + 1) * side - 1) / 2, 0, side - 1)
    pick = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(side, dtype=np.float32)))
    inside = (np.abs(seen) <= 1).astype(np.float32)
    across, down = pick[:, 0], pick[:, 1]
    if pictures.ndim == 4:
        moved = np.einsum("pij,pjkc,plk->pilc", down, pictures, across, optimize=True)
    else:
        moved = down @ pictures @ across.transpose(0, 2, 1)
    return moved, inside[:, 1, :, None] * inside[:, 0, None]


def correlate(first: Pictures, second: Pictures, inside: Pictures) -> NDArray[np.float32]:
    """Correlation of pairs over the pixels where `inside` is 1. Shapes: returns (P,).

    >>> a = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    >>> round(float(correlate(100 * a, 7 - 200 * a, np.ones_like(a))[0]), 3)
    -1.0
    """
    left, right = _centred(first, inside), _centred(second, inside)
    both, one, other = _dots(left, right), _dots(left, left), _dots(right, right)
    floor = _ROUNDING * _dots(inside, inside)
    return np.asarray(both / np.sqrt((one + floor) * (other + floor)), dtype=np.float32)


def _centred(pictures: Pictures, inside: Pictures) -> Pictures:
    """Mean 0 over the inside, 0 outside."""
    mean = _dots(pictures, inside) / np.maximum(_dots(inside, inside), 1)
    return np.asarray((pictures - mean[:, None, None]) * inside, dtype=np.float32)


def _dots(left: Pictures, right: Pictures) -> NDArray[np.float32]:
    """Inner product of each pair. Shapes: (P, S, S) twice; returns (P,)."""
    return np.asarray(np.einsum("pij,pij->p", left, right), dtype=np.float32)


def register(
    first: Pictures, second: Pictures, poses: Poses, steps: int
) -> tuple[Poses, NDArray[np.float32]]:
    """The pose of `second` that looks most like `first`, and the correlation there.

    Shapes: pictures (P, S, S) of `details`, poses (P, 4) to begin with; returns (P, 4), (P,).
    """
    slopes = _slopes(first)
    bend = slopes @ slopes.transpose(0, 2, 1)
    # A little of the mean curvature on the diagonal: flat directions stay where they are.
    bend += (
        np.eye(4, dtype=np.float32)
        * (0.01 * np.trace(bend, axis1=1, axis2=2) / 4 + 1e-3)[:, None, None]
    )
    best, found = np.full(len(first), -1, np.float32), poses.copy()
    for step in range(steps + 1):
        moved, inside = warp(second, poses)
        likeness = correlate(first, moved, inside)
        better = likeness > best
        best, found[better] = np.maximum(best, likeness), poses[better]
        if step == steps:
            break
        left, right = _centred(first, inside), _centred(moved, inside)
        gain = _dots(left, right) / np.maximum(_dots(right, right), 1e-6)
        error = np.maximum(gain, 0.1)[:, None, None] * right - left
        move = np.linalg.solve(bend, slopes @ error.reshape(len(first), -1, 1))[..., 0]
        poses = _compose(poses, np.clip(move, -_STEP, _STEP))
    return found, best


def _slopes(pictures: Pictures) -> Pictures:
    """Change of each pixel with each number of the pose, at rest. Shapes: (P, 4, S * S)."""
    side = pictures.shape[1]
    centres = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    down, across = np.gradient(pictures * np.float32(side / 2), axis=(1, 2))
    stacked = np.stack([across * centres, across, down * centres[:, None], down], axis=1)
    slopes: Pictures = stacked.reshape(len(pictures), 4, -1)
    return slopes


def _compose(poses: Poses, move: NDArray[np.float32]) -> Poses:
    """The pose after undoing a small move of the first picture, kept within reach."""
    scale = poses[:, 0::2] / (1 + move[:, 0::2])
    shift = poses[:, 1::2] - scale * move[:, 1::2]
    moved = np.empty_like(poses)
    moved[:, 0::2] = np.clip(scale, *_SCALES)
    moved[:, 1::2] = np.clip(shift, -_SHIFT, _SHIFT)
    return moved
