"""Kernel ridge regression with exact leave-one-out, leave-group-out and nested folds.

With K the (n, n) kernel, H = I - 11'/n and a penalty, everything follows from one matrix,

    G = (HKH + penalty I)^-1 - 11'/(n penalty) = H (HKH + penalty I)^-1 H,

which is the inverse kernel with an unpenalised intercept projected out. Dual coefficients are
A = G Y with *uncentred* targets, and for every set of rows B

    targets - prediction without B  =  (G_BB)^-1 A_B          (leave-group-out)
    G without B                     =  G_AA - G_AB G_BB^-1 G_BA     (nesting)

so one inverse serves every fold, and every choice inside every fold, exactly. The identities are
block inversion (Schur complement), for one row without intercept Allen's PRESS. Centring over all
rows and dividing by the diagonal of the uncentred inverse would leak the held-out label.

Shapes: n rows, K classes (columns of the targets); all arrays float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from warmstart.refit_cache import active_refit_cache

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


def centred(kernel: Array, out: Array | None = None) -> Array:
    """HKH: the kernel of features centred over these rows. Shapes: (n, n) to (n, n).

    >>> centred(np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    means = kernel.mean(axis=0)
    result: Array = np.subtract(kernel, means, out=out)
    result -= means[:, None]  # in place: a temporary array of 2,000 rows takes 32 MB
    result += means.mean()
    return result


def inverse(kernel: Array, penalty: float) -> Array:
    """The matrix G of this module, by Cholesky.

    Shapes: kernel (n, n) symmetric positive semi-definite; returns (n, n).
    Raises: np.linalg.LinAlgError if the kernel is not positive semi-definite or not finite.

    >>> G = inverse(np.eye(3), penalty=0.5)
    >>> np.allclose(G.sum(axis=0), 0)
    True
    """
    cache = active_refit_cache()
    if cache is None:
        return _inverse(kernel, penalty)

    def shared() -> Array:
        result = _inverse(kernel, penalty)
        result.flags.writeable = False
        return result

    key = "inverse", sha256(np.ascontiguousarray(kernel).data).digest(), penalty
    return cache.get(key, kernel.nbytes, shared)


def _inverse(kernel: Array, penalty: float) -> Array:
    from scipy.linalg import lapack  # here: help texts name tasks and wait for no scipy

    n = len(kernel)
    system = centred(kernel, np.empty((n, n), order="F"))  # as LAPACK overwrites it
    system[np.diag_indices(n)] += penalty
    factor, failed = lapack.dpotrf(system, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"kernel of {n} rows is not positive semi-definite")
    lower, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    full: Array = lower.T  # the same memory in C order, whose lower triangle is yet to be filled
    for row in range(1, n):
        full[row, :row] = full[:row, row]
    full -= 1.0 / (n * penalty)
    return full


@dataclass(frozen=True, slots=True)
class Dual:
    """A ridge regression in dual form: G and A = G Y over the same rows.

    Shapes: inverse (n, n), coefficients (n, K), targets (n, K).
    """

    inverse: Array
    coefficients: Array
    targets: Array


def fit(kernel: Array, targets: Array, penalty: float) -> Dual:
    """Solve for all rows. Shapes: kernel (n, n), targets (n, K).

    >>> dual = fit(np.eye(4), np.array([[1.0], [1.0], [0.0], [0.0]]), penalty=1.0)
    >>> dual.coefficients.ravel().round(6).tolist()
    [0.25, 0.25, -0.25, -0.25]
    """
    G = inverse(kernel, penalty)
    return Dual(G, G @ targets, targets)


def intercept(kernel: Array, dual: Dual, penalty: float) -> Array:
    """The unpenalised intercept (K,), for predictions k(x, rows) A + b."""
    fitted: Array = dual.targets - penalty * dual.coefficients
    mean: Array = (fitted - kernel @ dual.coefficients).mean(axis=0)
    return mean


def left_out(dual: Dual, group_rows: Sequence[Rows]) -> Array:
    """Prediction of every row from all rows outside its group, exactly as if refitted.

    A group is one row, several dependent rows, or a fold; groups partition the n rows.
    Shapes: returns (n, K).

    >>> dual = fit(np.eye(3), np.array([[3.0], [6.0], [9.0]]), penalty=1.0)
    >>> left_out(dual, [np.array([i]) for i in range(3)]).ravel().round(6).tolist()
    [7.5, 6.0, 4.5]
    """
    residuals = dual.coefficients / np.diag(dual.inverse)[:, None]
    for rows in group_rows:
        if len(rows) > 1:
            block = dual.inverse[np.ix_(rows, rows)]
            residuals[rows] = np.linalg.solve(block, dual.coefficients[rows])
    return dual.targets - residuals


def nested(dual: Dual, held_out: Rows, group_rows: Sequence[Rows]) -> tuple[Rows, Array, Array]:
    """The predictions of the regression on all rows but `held_out`, inside and outside, exactly.

    `group_rows` are dependent rows (numbered as in `dual`), each group wholly inside or outside.
    Returns: the rows inside (m,), their leave-group-out predictions (m, K) from these rows
    alone, and the predictions (n - m, K) for the held-out rows.
    """
    from scipy.linalg import cholesky, solve_triangular

    keep = np.setdiff1d(np.arange(len(dual.targets)), held_out)
    cross = dual.inverse[np.ix_(keep, held_out)]
    root = cholesky(dual.inverse[np.ix_(held_out, held_out)], lower=True)
    # G_AB G_BB^-1 G_BA = V'V with V = L^-1 G_BA and G_BB = LL': half the work of solving twice.
    half = solve_triangular(root, cross.T, lower=True)
    gone = solve_triangular(root, dual.coefficients[held_out], lower=True)
    coefficients = dual.coefficients[keep] - half.T @ gone
    diagonal = np.diag(dual.inverse)[keep] - (half**2).sum(axis=0)
    residuals = coefficients / diagonal[:, None]
    place = np.full(len(dual.targets), -1)
    place[keep] = np.arange(len(keep))
    for rows in group_rows:
        at = place[rows]
        if len(rows) > 1 and at[0] >= 0:
            block = dual.inverse[np.ix_(rows, rows)] - half[:, at].T @ half[:, at]
            residuals[at] = np.linalg.solve(block, coefficients[at])
    outside = dual.targets[held_out] - solve_triangular(root, gone, lower=True, trans="T")
    return keep, dual.targets[keep] - residuals, outside
