"""The most similar other rows of each row: among all, or, of many rows, among those near by.

All pairs of 10,000 rows cost 100 times as much as those of 1,000. Of many rows the search
is therefore made in cells: some rows, evenly spaced, stand for a cell each; every row lies
in the cells of the two most like it and is searched for in those of the four. An inverted
file (Sivic & Zisserman 2003; Jegou et al. 2011, §II), with cells that are too large cut
again. What is missed is hardly ever a near copy, which is more alike than any other row.

Shapes: n rows of d numbers, of unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
Vectors = NDArray[np.floating]  # single precision, or of many rows half

EXACT = 4000  # rows up to which all pairs are compared
HOMES = 2  # cells that a row lies in
PROBES = 4  # cells in which its like are looked for
CELL = 2048  # rows beyond which a cell is cut again
DEEPEST = 3  # cuts one after the other; beyond, rows are all alike and any will do
_ROWS = 256  # compared with all others at a time


def nearest(asking: Vectors, sides: Sequence[Vectors], count: int) -> Rows:
    """The `count` most similar other rows of each, in no order.

    A row may be seen from several sides; the most similar one counts. Shapes: asking and each
    of `sides` (n, d), with n above `count`; returns (n, count).
    """
    if len(asking) <= EXACT:
        return _among_all(asking, sides, count)
    best = _Best.of(len(asking), count)
    for side in sides:
        everything = np.arange(len(asking))
        _in_cells(_Search(asking, side, best), everything, everything, depth=0)
    return best.filled()


def _among_all(asking: Vectors, sides: Sequence[Vectors], count: int) -> Rows:
    n = len(asking)
    found = np.empty((n, count), dtype=np.intp)
    for start in range(0, n, _ROWS):
        block = asking[start : start + _ROWS] @ sides[0].T
        for side in sides[1:]:
            np.maximum(block, asking[start : start + _ROWS] @ side.T, out=block)
        here = np.arange(len(block))
        block[here, start + here] = -np.inf
        found[start : start + _ROWS] = np.argpartition(-block, count - 1, axis=1)[:, :count]
    return found


@dataclass(frozen=True, slots=True)
class _Best:
    """The best found so far, the most similar first. Shapes: both (n, count)."""

    rows: Rows
    likeness: NDArray[np.float32]

    @classmethod
    def of(cls, n: int, count: int) -> _Best:
        shape = (n, count)
        return cls(np.full(shape, -1), np.full(shape, -np.inf, np.float32))

    def add(self, askers: Rows, rows: Rows, likeness: NDArray[np.float32]) -> None:
        """Keep the best of both. Shapes: askers (a,), no row twice; rows, likeness (a, m)."""
        rows = np.concatenate([self.rows[askers], rows], axis=1)
        likeness = np.concatenate([self.likeness[askers], likeness], axis=1)
        order = np.argsort(-likeness, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        likeness = np.take_along_axis(likeness, order, axis=1)
        for place in range(1, rows.shape[1]):  # found from another side, or in another cell
            known = (rows[:, :place] == rows[:, place : place + 1]).any(axis=1)
            likeness[known, place] = -np.inf
        order = np.argsort(-likeness, axis=1, kind="stable")[:, : self.rows.shape[1]]
        self.rows[askers] = np.take_along_axis(rows, order, axis=1)
        self.likeness[askers] = np.take_along_axis(likeness, order, axis=1)

    def filled(self) -> Rows:
        """Rows for which too few were found get any others: never themselves."""
        n, count = self.rows.shape
        others = (np.arange(n)[:, None] + np.arange(1, count + 1)) % n
        return np.where(np.isfinite(self.likeness), self.rows, others)


@dataclass(frozen=True, slots=True)
class _Search:
    """Who asks, who is asked, and what was found. Shapes: asking and asked (n, d)."""

    asking: Vectors
    asked: Vectors
    best: _Best


def _in_cells(search: _Search, askers: Rows, members: Rows, depth: int) -> None:
    """Look for the like of `askers` among `members`."""
    if len(members) <= CELL:
        _in_cell(search, askers, members)
    elif depth == DEEPEST:
        pieces = -(-len(members) // CELL)
        pairs = zip(np.array_split(askers, pieces), np.array_split(members, pieces), strict=True)
        for some, few in pairs:
            _in_cell(search, some, few)
    else:
        number = round(np.sqrt(len(members)))
        chosen = members[np.linspace(0, len(members) - 1, number).astype(int)]
        centres = _single(search.asked, chosen)
        homes = _cells(search.asked, members, centres, HOMES)
        probes = _cells(search.asking, askers, centres, PROBES)
        for inside, looking in zip(homes, probes, strict=True):
            if len(inside) and len(looking):
                _in_cells(search, looking, inside, depth + 1)


def _cells(vectors: Vectors, rows: Rows, centres: Vectors, count: int) -> list[Rows]:
    """The rows that have each centre among the `count` that are most like them."""
    numbers = np.empty((len(rows), count), dtype=np.intp)
    for start in range(0, len(rows), _ROWS):
        likeness = _single(vectors, rows[start : start + _ROWS]) @ centres.T
        numbers[start : start + _ROWS] = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    order = np.argsort(numbers.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(numbers.ravel(), minlength=len(centres)))[:-1]
    return np.split(rows[order // count], ends)


def _in_cell(search: _Search, askers: Rows, members: Rows) -> None:
    count = min(search.best.rows.shape[1], len(members))
    inside = _single(search.asked, members)
    for start in range(0, len(askers), _ROWS):
        some = askers[start : start + _ROWS]
        likeness = _single(search.asking, some) @ inside.T
        likeness[some[:, None] == members] = -np.inf
        places = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        search.best.add(some, members[places], np.take_along_axis(likeness, places, axis=1))


def _single(vectors: Vectors, rows: Rows) -> NDArray[np.float32]:
    """Some rows in single precision, in which they are multiplied quickly."""
    chosen: NDArray[np.float32] = vectors[rows].astype(np.float32, copy=False)
    return chosen
