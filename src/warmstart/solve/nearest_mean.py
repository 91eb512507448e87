"""Nearest class mean, from a kernel, with exact leave-group-out.

score_c(x) = <x, m_c> - ||m_c||^2 / 2, whose argmax is the class with the nearest mean. Source:
Mensink et al. 2013, "Distance-Based Image Classification: Generalizing to New Classes", §3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

_NO_CLASS = -1e3  # a class without examples: never nearest, still finite


def class_mean_weights(kernel: Array, labels: Labels, n_classes: int) -> tuple[Array, Array]:
    """Dual coefficients and intercept: scores of a new x are k(x, rows) A + b.

    Shapes: kernel (n, n), labels (n,); returns A (n, K), b (K,).

    >>> x = np.array([[0.0], [2.0], [10.0]])
    >>> A, b = class_mean_weights(x @ x.T, np.array([0, 0, 1]), 2)
    >>> (x @ x.T @ A + b).argmax(axis=1).tolist()
    [0, 0, 1]
    """
    onehot = np.eye(n_classes)[labels]
    counts = onehot.sum(axis=0)
    weights = onehot / np.maximum(counts, 1)
    norms = np.einsum("ik,ij,jk->k", weights, kernel, weights, optimize=True)
    return weights, np.where(counts > 0, -norms / 2, _NO_CLASS)


def left_out_class_means(
    kernel: Array, labels: Labels, n_classes: int, group_rows: Sequence[Rows]
) -> Array:
    """Scores of every row from class means that leave its group out.

    Shapes: kernel (n, n), groups partition the n rows; returns (n, K).
    """
    onehot = np.eye(n_classes)[labels]
    sums = kernel @ onehot
    norms = (onehot * sums).sum(axis=0)
    counts = onehot.sum(axis=0)
    scores = np.empty_like(sums)
    for rows in group_rows:
        gone = onehot[rows]
        left = counts - gone.sum(axis=0)
        inner = kernel[np.ix_(rows, rows)] @ gone
        rest = sums[rows] - inner
        norm = norms - 2 * (gone * sums[rows]).sum(axis=0) + (gone * inner).sum(axis=0)
        safe = np.maximum(left, 1)
        scores[rows] = np.where(left > 0, rest / safe - norm / (2 * safe**2), _NO_CLASS)
    return scores
