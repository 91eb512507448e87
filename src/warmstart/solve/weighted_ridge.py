"""Ridge with weighted rows: a row of weight w counts like w rows.

Minimises  sum_i w_i |y_i - x_i W - b|^2 + penalty |W|^2,  in dual form the kernel
K + penalty diag(1/w) with the intercept of `solve.ridge`. Rows are centred on their weighted mean
and rotated into the axes of their scatter; one decomposition serves every penalty.

With N the sum of the weights, z a row in those axes and A = Z'WZ + penalty I, a row gives

    h = 1/N + z' A^-1 z

of each unit of its weight to its own prediction. Without u of its weight its residual r is
r / (1 - u h), exactly (a rank-one update); for a block B of whole rows, with S = diag(w_B)^1/2,
it is S^-1 (I - S H_BB S)^-1 S r_B.

Shapes: n rows, d features, K classes; all arrays float64, all weights above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from warmstart.solve.kernels import Scaling, scaling_of
from warmstart.solve.ridge import Array, Rows

# ---- Nonlinear functions of a table's columns: features of a Laplace kernel.
#
# k(x, z) = exp(-mean_j |x_j - z_j| / width) for standardised columns. With K = U L U' among the
# anchors, phi(x) = k(x, anchors) U L^-1/2 has phi(x) . phi(z) = k(x, z) wherever one of the two is
# an anchor, so that a ridge on phi is kernel ridge. Of many rows some are anchors: Williams &
# Seeger 2001, "Using the Nyström Method to Speed Up Kernel Machines".


MOST_ANCHORS, MOST_CELLS = 1000, 10_000_000  # of the matrix of rows and anchors
LEAST_ANCHORS = 50
_LAPLACE_RANK = 1e-10  # axes below this share of the largest carry rounding only
_CHUNK = 4096  # rows at once


@dataclass(frozen=True, slots=True)
class LaplaceFeatures:
    """Features phi. Shapes: anchors (m, d), axes (m, r)."""

    anchors: Array
    width: float
    axes: Array

    def of(self, rows: Array) -> Array:
        """Shapes: rows (n, d), scaled as the anchors are; returns (n, r)."""
        features = np.empty((len(rows), self.axes.shape[1]))
        for start in range(0, len(rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            features[chunk] = _kernel(rows[chunk], self.anchors, self.width) @ self.axes
        return features


def anchors_of(rows: Array) -> Array:
    """Evenly spaced rows: all of few; none where memory allows too few.

    >>> [len(anchors_of(np.zeros((n, 2)))) for n in (30, 5000, 50_000, 500_000)]
    [30, 1000, 200, 0]
    """
    n = len(rows)
    m = min(n, MOST_ANCHORS, MOST_CELLS // max(n, 1))
    return rows[np.arange(m) * n // max(m, 1)] if m >= min(n, LEAST_ANCHORS) else rows[:0]


def fit_laplace_features(anchors: Array, width: float) -> LaplaceFeatures:
    """The features of a width, in spreads of a column. Shapes: anchors (m, d), standardised.

    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> features = fit_laplace_features(x, 2.0).of(x)
    >>> (features @ features.T)[0].round(3).tolist()
    [1.0, 0.607, 0.223]
    """
    values, axes = eigh(_kernel(anchors, anchors, width), driver="evd")
    is_real = values > _LAPLACE_RANK * values[-1]
    return LaplaceFeatures(anchors, width, axes[:, is_real] / np.sqrt(values[is_real]))


def _kernel(rows: Array, anchors: Array, width: float) -> Array:
    distances: Array = cdist(rows, anchors, "cityblock")
    # Rows of unit mean square length have a factor 1/sqrt(d) in each column already.
    distances /= -width * np.sqrt(rows.shape[1])
    return np.exp(distances, out=distances)


_RANK = 1e-12  # axes below this share of the largest carry rounding only


@dataclass(frozen=True, slots=True)
class FeatureSpread:
    """Weighted rows in the axes of their scatter.

    Shapes: rows (n, r) centred; values (r,); axes (d, r); mean (d,); weights (n,).
    """

    rows: Array
    values: Array
    axes: Array
    mean: Array
    weights: Array

    def average(self, values: Array) -> Array:
        """The weighted mean of rows. Shapes: (n, k) to (k,)."""
        result: Array = self.weights @ values / self.weights.sum()
        return result


def standardise(features: Array, weights: Array) -> Scaling:
    """Mean 0 and spread 1 for each feature, unit mean square length for the rows.

    For columns with units of their own; a constant one gets scale 0.
    Shapes: features (n, d), weights (n,).

    >>> standardise(np.array([[0.0, 5.0], [4.0, 5.0]]), np.array([3.0, 1.0])).offset.tolist()
    [1.0, 5.0]
    """
    offset, spread = _moments(features, weights)
    varies = spread > 1e-10 * np.abs(offset) + np.finfo(float).tiny
    scale = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)
    return Scaling(offset, scale / np.sqrt(max(int(varies.sum()), 1)))


def fit_weighted_scaling(features: Array, weights: Array) -> Scaling:
    """`solve.kernels.fit_scaling` of weighted rows. Shapes: features (n, d), weights (n,)."""
    return scaling_of(*_moments(features, weights))


def _moments(features: Array, weights: Array) -> tuple[Array, Array]:
    share = weights / weights.sum()
    offset = share @ features
    return offset, np.sqrt(share @ (features - offset) ** 2)


def spread_rows(features: Array, weights: Array) -> FeatureSpread:
    """Centre the rows and find their axes. Shapes: features (n, d), weights (n,).

    >>> spread_rows(np.array([[0.0], [4.0]]), np.array([3.0, 1.0])).values.round(9).tolist()
    [12.0]
    """
    mean = weights @ features / weights.sum()
    centred = features - mean
    weighted = np.sqrt(weights)[:, None] * centred
    if len(features) >= features.shape[1]:
        values, axes = eigh(weighted.T @ weighted, driver="evd")
    else:
        values, sides = eigh(weighted @ weighted.T, driver="evd")
        is_real = values > _RANK * values[-1]
        values = values[is_real]
        axes = weighted.T @ (sides[:, is_real] / np.sqrt(values))
    return FeatureSpread(centred @ axes, np.maximum(values, 0.0), axes, mean, weights)


def solve(spread: FeatureSpread, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Weights and intercept for predictions x W + b. Shapes: targets (n, K); W (d, K), b (K,).

    >>> rows = spread_rows(np.array([[0.0], [4.0]]), np.array([3.0, 1.0]))
    >>> W, b = solve(rows, np.array([[0.0], [1.0]]), penalty=12.0)
    >>> W.round(9).item(), b.round(9).item()
    (0.125, 0.125)
    """
    within, centre = _coefficients(spread, targets, penalty)
    weights = spread.axes @ within
    return weights, centre - spread.mean @ weights


def left_out(
    spread: FeatureSpread, targets: Array, penalty: float, group_rows: Sequence[Rows] | None = None
) -> Array:
    """Prediction of every row from all others. Shapes: targets (n, K); returns (n, K).

    With groups, which partition the rows, from all rows outside its group. A row is left out with
    its whole weight.
    """
    within, centre = _coefficients(spread, targets, penalty)
    shrink = 1.0 / (spread.values + penalty)
    share = 1.0 / spread.weights.sum()
    fit_residuals = targets - (spread.rows @ within + centre)
    own = spread.rows**2 @ shrink + share
    residuals = fit_residuals / np.maximum(1.0 - spread.weights * own, np.finfo(float).eps)[:, None]
    for rows in group_rows or ():
        if len(rows) > 1:
            root = np.sqrt(spread.weights[rows])[:, None]
            z = spread.rows[rows]
            hat = root * ((z * shrink) @ z.T + share) * root.T
            right = root * fit_residuals[rows]
            residuals[rows] = np.linalg.solve(np.eye(len(rows)) - hat, right) / root
    predictions: Array = targets - residuals
    return predictions


def _coefficients(spread: FeatureSpread, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Coefficients in the axes (r, K), and the weighted mean of the targets (K,)."""
    centre = spread.average(targets)
    right = (spread.rows * spread.weights[:, None]).T @ (targets - centre)
    return right / (spread.values + penalty)[:, None], centre
