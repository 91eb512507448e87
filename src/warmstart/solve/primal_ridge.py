"""Ridge with an unpenalised intercept in primal form: for very many rows, and weighted ones.

Rows are summed a few at a time, in float64; a fold's sums are subtracted. With centred, rotated
features Z, H = 11'/n + Z (Z'Z + penalty I)^-1 Z' and residuals r = Y - HY, the prediction of a
group B without itself is Y_B - (I - H_BB)^-1 r_B, as in `solve.ridge` (there G = (I - H) /
penalty). One eigendecomposition serves every penalty.

Shapes: n rows, d features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.linalg.blas import dsyrk

from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over n rows X and their targets Y.

    Shapes: features (d,), targets (K,); squares (d, d) is X'X, its lower triangle alone, in
    Fortran order; cross (d, K) is X'Y.
    """

    n: int
    features: Array
    targets: Array
    squares: Array
    cross: Array

    def minus(self, other: Sums) -> Sums:
        """The sums without some of the rows."""
        return Sums(
            self.n - other.n,
            self.features - other.features,
            self.targets - other.targets,
            self.squares - other.squares,
            self.cross - other.cross,
        )

    def over(self, summed: Callable[[Array], Array]) -> Sums:
        """The sums over several processes; `summed` adds up one array of each of them."""
        return Sums(
            int(summed(np.array([float(self.n)]))[0]),
            summed(self.features),
            summed(self.targets),
            np.asfortranarray(summed(self.squares)),
            summed(self.cross),
        )


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Rows in the axes of their own scatter.

    Shapes: values (d,); axes (d, d); mean (d,) and centre (K,) of features and targets;
    right (d, K) is Z'Y in the axes.
    """

    n: int
    values: Array
    axes: Array
    mean: Array
    centre: Array
    right: Array

    def rotate(self, features: Features) -> Array:
        """Rows in the axes, centred. Shapes: (m, d) to (m, d)."""
        rotated: Array = (features.astype(np.float64) - self.mean) @ self.axes
        return rotated


def accumulate(chunks: Iterable[tuple[Features, Array]], d: int, k: int) -> Sums:
    """Sum over chunks of rows. Shapes: each (m, d) features and (m, K) targets.

    >>> sums = accumulate([(np.array([[1.0], [3.0]], np.float32), np.eye(2))], d=1, k=2)
    >>> sums.n, sums.squares.item(), sums.cross.tolist()
    (2, 10.0, [[1.0, 3.0]])
    """
    n, features, targets = 0, np.zeros(d), np.zeros(k)
    squares, cross = np.zeros((d, d), order="F"), np.zeros((d, k))
    for chunk, chunk_targets in chunks:
        rows = chunk.astype(np.float64)
        n += len(rows)
        features += rows.sum(axis=0)
        targets += chunk_targets.sum(axis=0)
        cross += rows.T @ chunk_targets
        # In place: a product of d x d beside the sum would be as large as the sum itself.
        squares = dsyrk(1.0, rows.T, beta=1.0, c=squares, lower=1, overwrite_c=1)
    return Sums(n, features, targets, squares, cross)


def spectrum(sums: Sums) -> Spectrum:
    """Centre and rotate. The squares are overwritten: they are the largest of all arrays."""
    mean, centre = sums.features / sums.n, sums.targets / sums.n
    scatter = sums.squares
    for column, value in enumerate(sums.features):
        scatter[:, column] -= value * mean
    values, axes = eigh(scatter, driver="evd", overwrite_a=True, check_finite=False)
    right = axes.T @ (sums.cross - np.outer(sums.features, centre))
    return Spectrum(sums.n, np.maximum(values, 0.0), axes, mean, centre, right)


def solve(space: Spectrum, penalty: float) -> tuple[Array, Array]:
    """Weights and intercept for predictions X W + b. Shapes: W (d, K), b (K,).

    >>> sums = accumulate([(np.array([[0.0], [2.0]], np.float32), np.array([[0.0], [2.0]]))], 1, 1)
    >>> W, b = solve(spectrum(sums), penalty=2.0)
    >>> W.item(), b.item()
    (0.5, 0.5)
    """
    weights = space.axes @ (space.right / (space.values + penalty)[:, None])
    return weights, space.centre - space.mean @ weights


def solve_cholesky(sums: Sums, penalty: float) -> tuple[Array, Array]:
    """`solve` for one penalty, by Cholesky; the sums stay unchanged."""
    mean, centre = sums.features / sums.n, sums.targets / sums.n
    scatter = sums.squares - np.outer(sums.features, mean)
    scatter[np.diag_indices(len(scatter))] += penalty
    factor = cho_factor(scatter, lower=True, overwrite_a=True, check_finite=False)
    weights = cho_solve(factor, sums.cross - np.outer(sums.features, centre))
    return weights, centre - mean @ weights


def left_out(
    space: Spectrum, rotated: Array, targets: Array, penalty: float, group_rows: Sequence[Rows]
) -> Array:
    """Prediction of some rows of the spectrum, each from all rows outside its group.

    Shapes: rotated (m, d), targets (m, K); whole groups partition these rows; returns (m, K).
    """
    shrink = 1.0 / (space.values + penalty)
    residuals = targets - (rotated @ (space.right * shrink[:, None]) + space.centre)
    leverage = (rotated**2) @ shrink + 1.0 / space.n
    left_out_residuals = residuals / (1.0 - leverage)[:, None]
    for rows in group_rows:
        if len(rows) > 1:
            z = rotated[rows]
            hat = (z * shrink) @ z.T + 1.0 / space.n
            inner = np.linalg.solve(np.eye(len(rows)) - hat, residuals[rows])
            left_out_residuals[rows] = inner
    predictions: Array = targets - left_out_residuals
    return predictions


# ---- Weighted rows: a row of weight w counts like w rows.
#
# Minimises  sum_i w_i |y_i - x_i W - b|^2 + penalty |W|^2. Rows are centred on their weighted mean
# and rotated into the axes of their scatter. With N the sum of the weights, z a row in those axes
# and A = Z'WZ + penalty I, a row gives
#
#     h = 1/N + z' A^-1 z
#
# of each unit of its weight to its own prediction. Without u of its weight its residual r is
# r / (1 - u h), exactly (a rank-one update); for a block B of whole rows, with S = diag(w_B)^1/2,
# it is S^-1 (I - S H_BB S)^-1 S r_B.


_RANK = 1e-12  # axes below this share of the largest carry rounding only


@dataclass(frozen=True, slots=True)
class FeatureSpread:
    """Weighted rows in the axes of their scatter.

    Shapes: rows (n, r) centred; values (r,); axes (d, r); mean (d,); weights (n,) above zero.
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

    def solve(self, targets: Array, penalty: float) -> tuple[Array, Array]:
        """Weights and intercept for predictions x W + b. Shapes: targets (n, K); W (d, K), b (K,).

        >>> spread = spread_rows(np.array([[0.0], [4.0]]), np.array([3.0, 1.0]))
        >>> W, b = spread.solve(np.array([[0.0], [1.0]]), penalty=12.0)
        >>> W.round(9).item(), b.round(9).item()
        (0.125, 0.125)
        """
        within, centre = self._coefficients(targets, penalty)
        weights = self.axes @ within
        return weights, centre - self.mean @ weights

    def left_out(
        self, targets: Array, penalty: float, group_rows: Sequence[Rows] | None = None
    ) -> Array:
        """Prediction of every row from all others. Shapes: targets (n, K); returns (n, K).

        With groups, which partition the rows, from all rows outside its group.
        """
        within, centre = self._coefficients(targets, penalty)
        shrink = 1.0 / (self.values + penalty)
        share = 1.0 / self.weights.sum()
        fit_residuals = targets - (self.rows @ within + centre)
        own = self.rows**2 @ shrink + share
        left = np.maximum(1.0 - self.weights * own, np.finfo(float).eps)
        residuals = fit_residuals / left[:, None]
        for rows in group_rows or ():
            if len(rows) > 1:
                root = np.sqrt(self.weights[rows])[:, None]
                z = self.rows[rows]
                hat = root * ((z * shrink) @ z.T + share) * root.T
                right = root * fit_residuals[rows]
                residuals[rows] = np.linalg.solve(np.eye(len(rows)) - hat, right) / root
        predictions: Array = targets - residuals
        return predictions

    def _coefficients(self, targets: Array, penalty: float) -> tuple[Array, Array]:
        """Coefficients in the axes (r, K), and the weighted mean of the targets (K,)."""
        centre = self.average(targets)
        right = (self.rows * self.weights[:, None]).T @ (targets - centre)
        return right / (self.values + penalty)[:, None], centre


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
