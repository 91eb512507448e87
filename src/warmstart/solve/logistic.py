"""Multinomial logistic regression with an L2 penalty, along a path of penalties.

Minimises  mean log-loss + penalty/2 * ||W||^2  (intercept unpenalised) by L-BFGS, each fit from the
next stronger penalty's, which changes the time, not the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array


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
