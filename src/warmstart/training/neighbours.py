"""How far an input is from everything seen: the basis of "unlike anything I was shown".

The taps the head listens to, scaled as in training, are sketched to a few hundred
numbers; an input is unknown when its mean distance to the nearest training examples is
beyond what 99 % of those examples have among themselves, each without its own block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.records import Tap
from warmstart.solve.kernels import Features, apply_scaling, fit_scaling
from warmstart.solve.projection import Sketch, make_sketch
from warmstart.solve.ridge import Rows

WIDTH = 256  # numbers kept per example
NEAREST = 5
BEYOND = 0.99  # share of the training examples that is known by definition


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sketched examples. Shapes: offset, scale (D,) over the joined taps; points (n, w)."""

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]
    sketch: Sketch
    points: NDArray[np.float32]

    def place(self, joined: Features) -> NDArray[np.float32]:
        """Joined taps (m, D) to points (m, w)."""
        return self.sketch.apply((joined - self.offset) * self.scale)

    def nearest(self, joined: Features, k: int) -> tuple[NDArray[np.float64], Rows]:
        """Mean distance to the k nearest, and their rows. Shapes: (m,), (m, k)."""
        return _nearest(squared_distances(self.place(joined), self.points), k)


def unpack(arrays: Mapping[str, NDArray[np.generic]]) -> Neighbours:
    """As they were kept on disk: points, offset, scale, and the sketch's target and sign."""
    points = arrays["points"].astype(np.float32)
    sketch = Sketch(
        arrays["target"].astype(np.int64), arrays["sign"].astype(np.float32), points.shape[1]
    )
    offset, scale = arrays["offset"].astype(np.float32), arrays["scale"].astype(np.float32)
    return Neighbours(offset, scale, sketch, points)


def squared_distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shapes: a (m, w), b (n, w); returns (m, n).

    >>> squared_distances(np.float32([[0, 0]]), np.float32([[3, 4]])).tolist()
    [[25.0]]
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _nearest(squares: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], Rows]:
    rows = np.argsort(squares, axis=1, kind="stable")[:, :k]
    distances = np.sqrt(np.take_along_axis(squares, rows, axis=1))
    return distances.mean(axis=1), rows


def fit_neighbours(
    read: Callable[[Tap], Features], taps: Sequence[Tap], groups: Sequence[Rows], seed: int
) -> tuple[Neighbours, float, int]:
    """Place the training examples; the distance beyond which an input is unknown; k.

    Shapes: read gives (n, d_t) per tap, groups partition the n rows.
    """
    scalings = [fit_scaling(read(tap)) for tap in taps]
    scaled = [apply_scaling(read(tap), s) for tap, s in zip(taps, scalings, strict=True)]
    joined = np.concatenate(scaled, axis=1)
    sketch = make_sketch(joined.shape[1], WIDTH, np.random.default_rng(seed))
    # Half precision is kept on disk: distances must be those of what will be read back.
    points = sketch.apply(joined).astype(np.float16).astype(np.float32)
    squares = squared_distances(points, points)
    for rows in groups:
        squares[np.ix_(rows, rows)] = np.inf
    k = min(NEAREST, len(points) - max(len(rows) for rows in groups))
    distances, _ = _nearest(squares, max(k, 1))
    known = distances[np.isfinite(distances)]
    limit = float(np.quantile(known, BEYOND)) if len(known) else float("inf")
    return (
        Neighbours(
            np.concatenate([s.offset for s in scalings]).astype(np.float32),
            np.concatenate([s.scale for s in scalings]).astype(np.float32),
            sketch,
            points,
        ),
        limit,
        max(k, 1),
    )
