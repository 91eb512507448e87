"""Out-of-distribution detection: the distance of an input to its nearest training examples.

An input is out of distribution if its mean distance, over sketched features, exceeds that of 99 %
of the training examples, each compared with other groups only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import (
    Features,
    Read,
    Scaling,
    Sketch,
    apply_scaling,
    chunks,
    fit_scalings,
    make_sketch,
)
from warmstart.solve.ridge import Rows
from warmstart.stats.intervals import number_groups

Points = NDArray[np.floating]

WIDTH = 256  # numbers per example
NEAREST = 5
QUANTILE = 0.99  # share of the training examples that is in distribution by definition
MOST_QUERIES = 2000  # examples, at most, evenly spaced, that set the threshold
PAIRS = 2_000_000  # distances in memory at a time
CHUNK = 8192  # examples that others are compared with at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sketched training examples. Shapes: offset, scale (D,) over joined features; points (n, w).

    Points are rounded to half precision, whatever their dtype.
    """

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]
    sketch: Sketch
    points: Points

    def place(self, joined: Features) -> NDArray[np.float32]:
        """Joined features (m, D) to points (m, w)."""
        return self.sketch.apply((joined - self.offset) * self.scale)

    def nearest(self, joined: Features, k: int) -> tuple[NDArray[np.float64], Rows]:
        """Mean distance to the k nearest, and their rows. Shapes: (m,), (m, k)."""
        return self.nearest_to(self.place(joined), k)

    def nearest_to(self, places: NDArray[np.float32], k: int) -> tuple[NDArray[np.float64], Rows]:
        """As `nearest`, for points (m, w)."""
        pairs = [
            _nearest(squared_distances(places[rows], self.points), k)
            for rows in _query_chunks(len(places), len(self.points))
        ]
        distances, rows = zip(*pairs, strict=True)
        return np.concatenate(distances), np.concatenate(rows)


def unpack(arrays: Mapping[str, NDArray[np.generic]]) -> Neighbours:
    """From arrays on disk: points, offset, scale, and the sketch's target and sign."""
    points = arrays["points"].astype(np.float32)
    sketch = Sketch(
        arrays["target"].astype(np.int64), arrays["sign"].astype(np.float32), points.shape[1]
    )
    offset, scale = arrays["offset"].astype(np.float32), arrays["scale"].astype(np.float32)
    return Neighbours(offset, scale, sketch, points)


def squared_distances(a: Points, b: Points) -> NDArray[np.float64]:
    """Shapes: a (m, w), b (n, w); returns (m, n)."""
    a, squares = a.astype(np.float64), np.empty((len(a), len(b)))
    lengths = (a**2).sum(axis=1)[:, None]
    for chunk in _slices(len(b), CHUNK):  # all in double precision would take too much memory
        some = b[chunk].astype(np.float64)
        squares[:, chunk] = lengths + (some**2).sum(axis=1) - 2 * a @ some.T
    return np.maximum(squares, 0.0, out=squares)


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _query_chunks(m: int, n: int) -> Iterator[slice]:
    """Rows of m that are compared with n others at once; one chunk where m is 0."""
    return _slices(max(m, 1), max(PAIRS // max(n, 1), 1))


def _nearest(squares: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], Rows]:
    """The first in a tie. Shapes: squares (m, n); returns (m,), (m, k)."""
    rows: Rows = np.sort(np.argpartition(squares, k - 1, axis=1)[:, :k], axis=1)
    farthest = np.take_along_axis(squares, rows, axis=1).max(axis=1, initial=0.0)
    tied = np.flatnonzero((squares <= farthest[:, None]).sum(axis=1) > k)
    rows[tied] = np.sort(np.argsort(squares[tied], axis=1, kind="stable")[:, :k], axis=1)
    order = np.argsort(np.take_along_axis(squares, rows, axis=1), axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    distances = np.sqrt(np.take_along_axis(squares, rows, axis=1))
    return distances.mean(axis=1), rows


def fit_neighbours(
    read: Read[FeatureLayer],
    feature_layers: Sequence[FeatureLayer],
    group_rows: Sequence[Rows],
    seed: int,
) -> tuple[Neighbours, float, int]:
    """Sketch the training examples; returns them, the distance threshold, and k.

    Shapes: read gives (n, d_t) per layer, groups partition the n rows.
    """
    scalings = fit_scalings(read, feature_layers)
    offset = np.concatenate([scaling.offset for scaling in scalings.values()])
    scale = np.concatenate([scaling.scale for scaling in scalings.values()])
    sketch = make_sketch(len(offset), WIDTH, np.random.default_rng(seed))
    points = _sketch(read, scalings, sketch, sum(map(len, group_rows)))
    k = max(min(NEAREST, len(points) - max(len(rows) for rows in group_rows)), 1)
    neighbours = Neighbours(offset.astype(np.float32), scale.astype(np.float32), sketch, points)
    return neighbours, _threshold(points, number_groups(group_rows), k), k


def to_nearest_other(points: Points, rows: Rows) -> NDArray[np.float64]:
    """The distance of some points to the nearest of all others. Shapes: (n, w), (m,) to (m,).

    >>> to_nearest_other(np.float32([[0.0], [1.0], [3.0]]), np.array([0, 2])).tolist()
    [1.0, 2.0]
    """
    nearest = []
    for chunk in _query_chunks(len(rows), len(points)):
        squares = squared_distances(points[rows[chunk]], points)
        squares[np.arange(len(squares)), rows[chunk]] = np.inf
        nearest.append(squares.min(axis=1))
    return np.asarray(np.sqrt(np.concatenate(nearest)))


def _sketch(
    read: Read[FeatureLayer], scalings: Mapping[FeatureLayer, Scaling], sketch: Sketch, n: int
) -> NDArray[np.float16]:
    """In half precision, as on disk: distances must be those of what will be read back."""
    points, at = np.empty((n, sketch.width), np.float16), 0
    for chunk in chunks(read, [*scalings]):
        scaled = [apply_scaling(chunk[layer], scaling) for layer, scaling in scalings.items()]
        some = sketch.apply(np.concatenate(scaled, axis=1))
        points[at : at + len(some)] = some
        at += len(some)
    return points


def _threshold(points: Points, groups: NDArray[np.int64], k: int) -> float:
    """The distance within which `QUANTILE` of the points have their k nearest of other groups."""
    n = len(points)
    queries = np.unique(np.linspace(0, n - 1, min(n, MOST_QUERIES)).astype(int))
    best = np.full((len(queries), k), np.inf)
    for chunk in _slices(n, CHUNK):
        for rows in _query_chunks(len(queries), len(points[chunk])):
            squares = squared_distances(points[queries[rows]], points[chunk])
            squares[groups[queries[rows]][:, None] == groups[chunk]] = np.inf
            both = np.concatenate([best[rows], squares], axis=1)
            best[rows] = np.partition(both, k - 1, axis=1)[:, :k]
    distances = np.sqrt(np.sort(best, axis=1)).mean(axis=1)
    finite = distances[np.isfinite(distances)]
    return float(np.quantile(finite, QUANTILE)) if len(finite) else float("inf")
