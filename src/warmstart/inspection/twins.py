"""Near copies: the same picture re-encoded, resized, mirrored, cropped or relit.

Candidates are the nearest neighbours by coarse look (mirrored too) and by network
features. Each is laid over its partner, from several starts, at 32 and then at 64 px, and
passes when the details agree: what merely looks alike (faces, cells, hands, drawings on
white) agrees in outline, not in detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.inspection.align import STARTS, Pictures, Poses, details, register, warp
from warmstart.inspection.nearest import EXACT, Vectors, nearest
from warmstart.solve.chunks import Key, Read, chunks, fit_scalings, some
from warmstart.solve.kernels import Features, apply_scaling

Rows = NDArray[np.intp]

NEIGHBOURS = 4  # candidates a picture has by look, and as many by features
WIDEST = 256  # features compared; a network's come in no order, so that every k-th will do
# Measured on 14 real sets (bench/planted.py) with ten kinds of alteration of 60 pictures each.
PROMISING = 0.5  # correlation at 32 px from the best start: copies .54 and more, mostly .7
LIKELY = 0.8  # after registration at 32 px: copies .85 and more
ALIKE = 0.89  # after that at 64 px: copies .91 up, look-alikes .88 down (but one of .94 in 7,358)
# Of pictures of sounds, as of candidates that their waveforms then decide on.
ALIKE_SOUNDS = 0.85
TINT = 0.09  # difference in hue: copies .07 and less (1 of 840: .11), other paint .10 and more
IN_MEMORY = 4000  # pictures whose details are made once; those of more when they are asked for
_ROWS = 256  # pictures in memory at a time
_FEW = 64  # that are seen from every start, or pairs that are registered, at a time


class Indexed(Protocol):
    """An array, or what gives some of its rows when asked: all would not fit in memory."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.uint8]:
        """Chosen rows."""
        ...


class HasPictures(Protocol):
    """Pictures at a glance. Shapes: grey (n, 64, 64), colour (n, 16, 16, 3), both uint8."""

    @property
    def grey(self) -> Indexed:
        """Small grey pictures."""
        ...

    @property
    def colour(self) -> Indexed:
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


def find_twins(
    glances: HasPictures, features: Vectors | None = None, alike: float = ALIKE
) -> tuple[Twin, ...]:
    """Pairs of near copies, ordered by row: those of at least `alike`.

    Shapes: features (n, w), the same n rows, from `comparable` or `compared`. Pairs are not
    closed: of many copies of one picture each is found with some others; join them as connected
    components.
    """
    if len(glances.grey) < 2:
        return ()
    near = candidates(glances.grey, features)
    pairs = _promising(_Details(glances.grey), near)
    pairs = _once(pairs)
    pairs = _registered(pairs, glances.grey, 32, steps=4)
    pairs = pairs.keep(pairs.likeness >= LIKELY)
    pairs = _registered(pairs, glances.grey, 64, steps=3)
    pairs = pairs.keep(pairs.likeness >= alike)
    pairs = pairs.keep(_tint_gap(glances.colour, pairs) <= TINT)
    return tuple(
        Twin(int(min(i, j)), int(max(i, j)), round(float(likeness), 4), bool(mirrored))
        for i, j, likeness, mirrored in zip(
            pairs.first, pairs.second, pairs.likeness, pairs.mirrored, strict=True
        )
    )


def candidates(grey: Indexed, features: Vectors | None) -> Rows:
    """The nearest rows of each row by look, then by features. Shapes: returns (n, m)."""
    n = len(grey)
    look, mirrored = (np.empty((n, 64), _kept_as(n)) for _ in range(2))
    for start in range(0, n, _ROWS):
        part = grey[start : start + _ROWS]
        look[start : start + _ROWS] = _coarse(part)
        mirrored[start : start + _ROWS] = _coarse(part[:, :, ::-1])
    count = min(NEIGHBOURS, n - 1)
    found = [nearest(look, [look, mirrored], count)]
    if features is not None:
        found.append(nearest(features, [features], count))
    return np.concatenate(found, axis=1)


def comparable(read: Read[Key], tap: Key, n: int) -> Vectors:
    """Features of n rows as they are compared: thinned, evened out, each row of unit length.

    Read a few rows at a time; of many rows in half precision, which moves likenesses by less
    than a thousandth. Shapes: (n, w).
    """
    if not n:
        return np.empty((0, 0), np.float32)
    few = _Thin(read, tap)
    scaling = fit_scalings(few, [tap])[tap]
    found, at = np.empty((0, 0)), 0
    for chunk in few.chunks([tap]):
        rows = _unit(apply_scaling(chunk[tap], scaling))
        if not at:
            found = np.empty((n, rows.shape[1]), _kept_as(n))
        found[at : at + len(rows)] = rows
        at += len(rows)
    return found


def compared(features: Features) -> Vectors:
    """The same of features that are in memory. Shapes: (n, d) to (n, w)."""
    return comparable(lambda tap: features, "all", len(features))


@dataclass(frozen=True, slots=True)
class _Thin(Generic[Key]):
    """A source of features that gives some columns of one tap."""

    source: Read[Key]
    tap: Key

    def __call__(self, tap: Key) -> Features:
        return thin(self.source(tap))

    def some(self, rows: Rows) -> _Thin[Key]:
        return _Thin(some(self.source, rows), self.tap)

    def chunks(self, taps: Sequence[Key]) -> Iterator[Mapping[Key, Features]]:
        for chunk in chunks(self.source, taps):
            yield {tap: thin(chunk[tap]) for tap in taps}


def _kept_as(n: int) -> type[np.floating[Any]]:
    return np.float32 if n <= EXACT else np.float16


def thin(features: Features) -> Features:
    """The features that are compared.

    >>> thin(np.zeros((2, 1280), np.float32)).shape, thin(np.zeros((2, 511), np.float32)).shape
    ((2, 256), (2, 511))
    """
    few: Features = features[:, :: max(features.shape[1] // WIDEST, 1)]
    return few


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


class _Details:
    """Details at 32 px of chosen pictures."""

    def __init__(self, grey: Indexed) -> None:
        self._grey = grey
        self._made = details(grey[:], 32) if len(grey) <= IN_MEMORY else None

    def __len__(self) -> int:
        return len(self._grey)

    def of(self, rows: Rows) -> Pictures:
        """Shapes: (m,) to (m, 32, 32)."""
        return details(self._grey[rows], 32) if self._made is None else self._made[rows]


def _promising(small: _Details, near: Rows) -> _Pairs:
    """Each row laid over its candidates from every start: the best start, where it is good.

    Shapes: near (n, m).
    """
    n = len(small)
    found: list[tuple[NDArray[np.generic], ...]] = []
    for start in range(0, n, _FEW):
        rows = np.arange(start, min(start + _FEW, n))
        views = _views(small.of(rows))
        partners, place = np.unique(near[rows], return_inverse=True)
        pictures, place = small.of(partners), place.reshape(near[rows].shape)
        sides = [_unit(x.reshape(len(partners), -1)) for x in (pictures, pictures[:, :, ::-1])]
        likeness = np.concatenate(
            [views @ side[place].transpose(0, 2, 1) for side in sides], axis=1
        )  # (rows, as it is or mirrored x start, m)
        best = likeness.max(axis=1)
        row, column = np.nonzero(best >= PROMISING)
        choice = likeness.argmax(axis=1)[row, column]
        found.append((near[rows[row], column], rows[row], choice, best[row, column]))
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


def _registered(pairs: _Pairs, grey: Indexed, side: int, steps: int) -> _Pairs:
    poses, likeness = pairs.poses.copy(), pairs.likeness.copy()
    for start in range(0, len(poses), _FEW):
        part = slice(start, start + _FEW)
        second = grey[pairs.second[part]]
        second = np.where(pairs.mirrored[part, None, None], second[:, :, ::-1], second)
        poses[part], likeness[part] = register(
            details(grey[pairs.first[part]], side), details(second, side), poses[part], steps
        )
    return _Pairs(pairs.first, pairs.second, pairs.mirrored, poses, likeness)


def _tint_gap(colour: Indexed, pairs: _Pairs) -> NDArray[np.float32]:
    """Mean difference in hue and saturation where the pictures overlap. Shapes: (P,)."""
    found = np.empty(len(pairs.first), np.float32)
    for start in range(0, len(found), _ROWS):
        part = slice(start, start + _ROWS)
        first = colour[pairs.first[part]].astype(np.float32)
        second = colour[pairs.second[part]].astype(np.float32)
        second = np.where(pairs.mirrored[part, None, None, None], second[:, :, ::-1], second)
        moved, inside = warp(second, pairs.poses[part])
        gap = np.abs(_tint(first) - _tint(moved)).sum(axis=3)
        found[part] = (gap * inside).sum((1, 2)) / inside.sum((1, 2))
    return found


def _tint(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour without brightness; dark pixels, whose hue is mostly noise, count less."""
    total = colour.sum(axis=3, keepdims=True)
    return np.asarray((colour - total / 3) / (total + 96), dtype=np.float32)
