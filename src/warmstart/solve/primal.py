"""Ridge with an unpenalised intercept in primal form: for more rows than a kernel allows.

With centred features Z = V-rotated, H = 11'/n + Z (Z'Z + penalty I)^-1 Z' and residuals
r = Y - HY, the prediction of a block B without itself is Y_B - (I - H_BB)^-1 r_B, as in
`solve.ridge` (there G = (I - H) / penalty). One eigendecomposition serves every penalty.

Shapes: n rows, d features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Features in the axes of their own scatter.

    Shapes: rotated (n, d), centred; values (d,); axes (d, d); mean (d,).
    """

    rotated: Array
    values: Array
    axes: Array
    mean: Array


def spectrum(features: Features) -> Spectrum:
    """Centre and rotate. Shapes: features (n, d); float64 sums."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    values, axes = eigh(centred.T @ centred, driver="evd", overwrite_a=True)
    return Spectrum(centred @ axes, np.maximum(values, 0.0), axes, mean)


def solve(space: Spectrum, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Weights and intercept for predictions X W + b. Shapes: W (d, K), b (K,).

    >>> x = np.array([[0.0], [2.0]], dtype=np.float32)
    >>> W, b = solve(spectrum(x), np.array([[0.0], [2.0]]), penalty=2.0)
    >>> W.item(), b.item()
    (0.5, 0.5)
    """
    right = space.rotated.T @ targets / (space.values + penalty)[:, None]
    weights = space.axes @ right
    return weights, targets.mean(axis=0) - space.mean @ weights


def left_out(space: Spectrum, targets: Array, penalty: float, groups: Sequence[Rows]) -> Array:
    """Prediction of every row from all rows outside its group. Shapes: returns (n, K)."""
    n = len(targets)
    shrink = 1.0 / (space.values + penalty)
    fitted = space.rotated @ (space.rotated.T @ targets * shrink[:, None])
    residuals = targets - targets.mean(axis=0) - fitted
    leverage = (space.rotated**2) @ shrink + 1.0 / n
    result = residuals / (1.0 - leverage)[:, None]
    for rows in groups:
        if len(rows) > 1:
            z = space.rotated[rows]
            hat = (z * shrink) @ z.T + 1.0 / n
            result[rows] = np.linalg.solve(np.eye(len(rows)) - hat, residuals[rows])
    predictions: Array = targets - result
    return predictions
