"""Classifiers beside ridge: nearest class mean from a kernel, and logistic regression.

The class mean score_c(x) = <x, m_c> - ||m_c||^2 / 2, whose argmax is the class with the nearest
mean, leaves groups out exactly. Source: Mensink et al. 2013, "Distance-Based Image Classification:
Generalizing to New Classes", §3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


# ---- Multinomial logistic regression along a path of penalties.
#
# Minimises  mean log-loss + penalty/2 * ||W||^2  (intercept unpenalised) by L-BFGS, each fit from
# the next stronger penalty's, which changes the time, not the answer.


@dataclass(frozen=True, slots=True)
class Linear:
    """scores = x W + b. Shapes: weights (d, K), bias (K,)."""

    weights: Array
    bias: Array

    def scores(self, features: Array) -> Array:
        """Shapes: features (n, d); returns (n, K)."""
        return features @ self.weights + self.bias


def fit_logistic(
    features: Array,
    labels: Labels,
    n_classes: int,
    penalty: float,
    initial: Linear | None = None,
    tolerance: float = 1e-5,
) -> Linear:
    """One penalty. Shapes: features (n, d), labels (n,) in 0..n_classes-1.

    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> fit = fit_logistic(x, np.array([0, 0, 1, 1]), 2, penalty=0.1)
    >>> fit.scores(x).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """
    from scipy.optimize import minimize

    n, d = features.shape
    onehot = np.eye(n_classes)[labels]

    def loss_and_slope(flat: Array) -> tuple[float, Array]:
        weights, bias = flat[:-n_classes].reshape(d, n_classes), flat[-n_classes:]
        logits = features @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - (logits * onehot).sum(axis=1)).mean())
        error = (p / total - onehot) / n
        slope = features.T @ error + penalty * weights
        loss += 0.5 * penalty * float((weights**2).sum())
        return loss, np.concatenate([slope.ravel(), error.sum(axis=0)])

    base = initial or Linear(np.zeros((d, n_classes)), np.log(onehot.mean(axis=0) + 1e-3))
    flat = np.concatenate([base.weights.ravel(), base.bias])
    options = {"maxiter": 300, "gtol": tolerance, "ftol": 1e-9}
    best = minimize(loss_and_slope, flat, jac=True, method="L-BFGS-B", options=options).x
    return Linear(best[:-n_classes].reshape(d, n_classes), best[-n_classes:])


def logistic_path(
    features: Array, labels: Labels, n_classes: int, penalties: Sequence[float]
) -> list[Linear]:
    """Fits for all penalties, in their order. Shapes: features (n, d), labels (n,)."""
    fits: dict[float, Linear] = {}
    last = None
    for penalty in sorted(penalties, reverse=True):
        last = fits[penalty] = fit_logistic(features, labels, n_classes, penalty, last)
    return [fits[penalty] for penalty in penalties]
