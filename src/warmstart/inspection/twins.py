"""Near copies: the same picture re-encoded, resized, mirrored, cropped or relit.

Candidates are the nearest neighbours by coarse look (mirrored too) and by network
features. Each is laid over its partner, from several starts, at 32 and then at 64 px, and
passes when the details agree: what merely looks alike (faces, cells, hands, drawings on
white) agrees in outline, not in detail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.inspection.align import STARTS, Pictures, Poses, details, register, warp
from warmstart.solve.kernels import Features, apply_scaling, fit_scaling

Rows = NDArray[np.intp]

NEIGHBOURS = 4  # candidates a picture has by look, and as many by features
WIDEST = 256  # features compared; a network's come in no order, so that every k-th will do
# Measured on 14 real sets (bench/planted.py) with ten kinds of alteration of 60 pictures each.
PROMISING = 0.5  # correlation at 32 px from the best start: copies .54 and more, mostly .7
LIKELY = 0.8  # after registration at 32 px: copies .85 and more
ALIKE = 0.89  # after that at 64 px: copies .91 up, look-alikes .88 down (but one of .94 in 7,358)
TINT = 0.09  # difference in hue: copies .07 and less (1 of 840: .11), other paint .10 and more
_ROWS = 256  # pictures, or pairs, in memory at a time


class HasPictures(Protocol):
    """Pictures at a glance. Shapes: grey (n, 64, 64), colour (n, 16, 16, 3), both uint8."""

    @property
    def grey(self) -> NDArray[np.uint8]:
        """Small grey pictures."""
        ...

    @property
    def colour(self) -> NDArray[np.uint8]:
        """Smaller ones in colour."""
        ...


@dataclass(frozen=True, slots=True)
class Twin:
    """Two rows, first < second, that show one picture; similarity at most 1."""

    first: int
    second: int
    similarity: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Candidates and how the second is laid over the first.

    Shapes: first, second, mirrored (P,); poses (P, 4); likeness (P,).
    """

    first: Rows
    second: Rows
    mirrored: NDArray[np.bool_]
    poses: Poses
    likeness: NDArray[np.float32]

    def keep(self, which: NDArray[np.bool_] | Rows) -> _Pairs:
        return _Pairs(
            self.first[which],
            self.second[which],
            self.mirrored[which],
            self.poses[which],
            self.likeness[which],
        )


def find_twins(glances: HasPictures, features: Features | None = None) -> tuple[Twin, ...]:
    """Pairs of near copies, ordered by row.

    Shapes: features (n, d) of any one tap, the same n rows. Pairs are not closed: of many
    copies of one picture each is found with some others; join them as connected components.
    """
    if len(glances.grey) < 2:
        return ()
    near = candidates(glances.grey, features)
    pairs = _promising(details(glances.grey, 32), near)
    pairs = _once(pairs)
    pairs = _registered(pairs, glances.grey, 32, steps=4)
    pairs = pairs.keep(pairs.likeness >= LIKELY)
    pairs = _registered(pairs, glances.grey, 64, steps=3)
    pairs = pairs.keep(pairs.likeness >= ALIKE)
    pairs = pairs.keep(_tint_gap(glances.colour, pairs) <= TINT)
    return tuple(
        Twin(int(min(i, j)), int(max(i, j)), round(float(likeness), 4), bool(mirrored))
        for i, j, likeness, mirrored in zip(
            pairs.first, pairs.second, pairs.likeness, pairs.mirrored, strict=True
        )
    )


def candidates(grey: NDArray[np.uint8], features: Features | None) -> Rows:
    """The nearest rows of each row by look, then by features. Shapes: returns (n, m)."""
    look, mirrored = _coarse(grey), _coarse(grey[:, :, ::-1])
    found = [
        _nearest(lambda rows: np.maximum(look[rows] @ look.T, look[rows] @ mirrored.T), len(grey))
    ]
    if features is not None:
        thin = features[:, :: max(features.shape[1] // WIDEST, 1)]
        scaled = _unit(apply_scaling(thin, fit_scaling(thin)))
        found.append(_nearest(lambda rows: scaled[rows] @ scaled.T, len(grey)))
    return np.concatenate(found, axis=1)


def _coarse(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8 x 8 px freed of slow changes, of unit length. Shapes: (n, 64)."""
    n = len(grey)
    small = grey.reshape(n, 8, 8, 8, 8).mean((2, 4), dtype=np.float32)
    place = np.arange(8)
    weights = np.exp(-0.5 * ((place[:, None] - place) / 2.0) ** 2)
    smooth = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return _unit((small - smooth @ small @ smooth.T).reshape(n, -1))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit: NDArray[np.float32] = vectors / np.maximum(length, 1e-6)
    return unit


def _nearest(similarity: Callable[[slice], NDArray[np.float32]], n: int) -> Rows:
    """The most similar other rows of each row. Shapes: similarity gives (rows, n)."""
    count = min(NEIGHBOURS, n - 1)
    nearest = np.empty((n, count), dtype=np.intp)
    for start in range(0, n, _ROWS):
        block = similarity(slice(start, start + _ROWS))
        here = np.arange(len(block))
        block[here, start + here] = -np.inf
        nearest[start : start + _ROWS] = np.argpartition(-block, count - 1, axis=1)[:, :count]
    return nearest


def _promising(small: Pictures, near: Rows) -> _Pairs:
    """Each row laid over its candidates from every start: the best start, where it is good.

    Shapes: small (n, 32, 32), near (n, m).
    """
    n = len(small)
    sides = [_unit(view.reshape(n, -1)) for view in (small, small[:, :, ::-1])]
    found: list[tuple[NDArray[np.generic], ...]] = []
    for start in range(0, n, _ROWS):
        rows = np.arange(start, min(start + _ROWS, n))
        views = _views(small[rows])
        likeness = np.concatenate(
            [views @ side[near[rows]].transpose(0, 2, 1) for side in sides], axis=1
        )  # (rows, as it is or mirrored x start, m)
        best = likeness.max(axis=1)
        row, place = np.nonzero(best >= PROMISING)
        choice = likeness.argmax(axis=1)[row, place]
        found.append((near[rows[row], place], rows[row], choice, best[row, place]))
    partner, row, choice, best = (np.concatenate(part) for part in zip(*found, strict=True))
    mirrored, poses = choice >= len(STARTS), STARTS[choice % len(STARTS)]
    # The row was moved and its partner mirrored; from here on the row is mirrored, then moved.
    poses[mirrored, 1] *= -1
    return _Pairs(partner, row, mirrored, poses, best)


def _views(small: Pictures) -> NDArray[np.float32]:
    """Pictures from every start, of unit length. Shapes: (m, 32, 32) to (m, starts, 1024)."""
    m = len(small)
    seen = [warp(small, np.broadcast_to(pose, (m, 4)))[0] for pose in STARTS]
    return np.stack([_unit(view.reshape(m, -1)) for view in seen], axis=1)


def _once(pairs: _Pairs) -> _Pairs:
    """Each pair once, the better way round, ordered by row."""
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    order = np.lexsort((-pairs.likeness, high, low))
    is_new = np.r_[True, (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)][: len(order)]
    return pairs.keep(order[is_new])


def _registered(pairs: _Pairs, grey: NDArray[np.uint8], side: int, steps: int) -> _Pairs:
    poses, likeness = pairs.poses.copy(), pairs.likeness.copy()
    for start in range(0, len(poses), _ROWS):
        part = slice(start, start + _ROWS)
        second = grey[pairs.second[part]]
        second = np.where(pairs.mirrored[part, None, None], second[:, :, ::-1], second)
        poses[part], likeness[part] = register(
            details(grey[pairs.first[part]], side), details(second, side), poses[part], steps
        )
    return _Pairs(pairs.first, pairs.second, pairs.mirrored, poses, likeness)


def _tint_gap(colour: NDArray[np.uint8], pairs: _Pairs) -> NDArray[np.float32]:
    """Mean difference in hue and saturation where the pictures overlap. Shapes: (P,)."""
    first = colour[pairs.first].astype(np.float32)
    second = colour[pairs.second].astype(np.float32)
    second = np.where(pairs.mirrored[:, None, None, None], second[:, :, ::-1], second)
    moved, inside = warp(second, pairs.poses)
    gap = np.abs(_tint(first) - _tint(moved)).sum(axis=3)
    return np.asarray((gap * inside).sum((1, 2)) / inside.sum((1, 2)), dtype=np.float32)


def _tint(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour without brightness; dark pixels, whose hue is mostly noise, count less."""
    total = colour.sum(axis=3, keepdims=True)
    return np.asarray((colour - total / 3) / (total + 96), dtype=np.float32)
