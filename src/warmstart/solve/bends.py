"""Functions of a table's columns that bend, fitted as lines are: features of a Laplace kernel.

k(x, z) = exp(-mean_j |x_j - z_j| / width) for standardised columns. With K = U L U' among the
anchors, phi(x) = k(x, anchors) U L^-1/2 has phi(x) . phi(z) = k(x, z) wherever one of the two is
an anchor. So a ridge on phi is kernel ridge, and weights of rows, rows left out and intercept are
those of any other ridge (`solve.weighted`). Where rows are many, some of them are anchors:
Williams & Seeger 2001, "Using the Nyström Method to Speed Up Kernel Machines".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from warmstart.solve.ridge import Array

MOST_ANCHORS, MOST_CELLS = 1000, 10_000_000  # of the matrix of rows and anchors
LEAST_ANCHORS = 50
_RANK = 1e-10  # axes below this share of the largest carry rounding only
_CHUNK = 4096  # rows at once


@dataclass(frozen=True, slots=True)
class Bends:
    """Features phi. Shapes: anchors (m, d), axes (m, r)."""

    anchors: Array
    width: float
    axes: Array

    def of(self, rows: Array) -> Array:
        """Shapes: rows (n, d), scaled as the anchors are; returns (n, r)."""
        found = np.empty((len(rows), self.axes.shape[1]))
        for at in range(0, len(rows), _CHUNK):
            some = slice(at, at + _CHUNK)
            found[some] = _kernel(rows[some], self.anchors, self.width) @ self.axes
        return found


def anchors_of(rows: Array) -> Array:
    """Rows at equal distances, all where they are few; none where they would be too few of many.

    >>> [len(anchors_of(np.zeros((n, 2)))) for n in (30, 5000, 50_000, 500_000)]
    [30, 1000, 200, 0]
    """
    n = len(rows)
    m = min(n, MOST_ANCHORS, MOST_CELLS // max(n, 1))
    return rows[np.arange(m) * n // max(m, 1)] if m >= min(n, LEAST_ANCHORS) else rows[:0]


def bends(anchors: Array, width: float) -> Bends:
    """The features of a width, in spreads of a column. Shapes: anchors (m, d), standardised.

    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> found = bends(x, 2.0).of(x)
    >>> (found @ found.T)[0].round(3).tolist()
    [1.0, 0.607, 0.223]
    """
    values, axes = eigh(_kernel(anchors, anchors, width), driver="evd")
    alive = values > _RANK * values[-1]
    return Bends(anchors, width, axes[:, alive] / np.sqrt(values[alive]))


def _kernel(rows: Array, anchors: Array, width: float) -> Array:
    """Rows are of unit mean square length, so that columns carry 1/sqrt(d) already."""
    apart: Array = cdist(rows, anchors, "cityblock")
    apart /= -width * np.sqrt(rows.shape[1])
    return np.exp(apart, out=apart)
