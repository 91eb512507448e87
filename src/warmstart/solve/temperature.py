"""Scores to probabilities: softmax(temperature * scores + bias).

The temperature (and the bias, where there are examples enough) minimises the log-loss
of scores that were computed without the example itself. Convex, solved by Newton steps
with halving. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", §4.2;
the bias turns temperature scaling into "bias-corrected" scaling (Alexandari et al. 2020).

Targets are smoothed by 1 / (n + 2), as Platt (1999) does: n right answers out of n do not
prove that no answer is ever wrong, and a separable set would drive the temperature, and
with it every certainty, to its limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array

Labels = NDArray[np.int64]

LEAST_FOR_BIAS = 20  # examples in the smallest class; below, a bias fits noise (RECIPE §2)
_MOST = 1e3
# Not zero: where no score tells anything the answer is still that of the highest one, at even odds.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """softmax(temperature * scores + bias). Shapes: bias (K,).

    `slopes` (K,), where labels are calibrated each by itself, are factors of their scores.
    """

    temperature: float
    bias: Array
    slopes: Array | None = None

    def scaled(self, scores: Array) -> Array:
        """temperature * slopes * scores + bias. Shapes: (n, K) to (n, K).

        >>> Calibration(2.0, np.ones(1), np.array([3.0])).scaled(np.ones((1, 1))).tolist()
        [[7.0]]
        """
        found: Array = self.temperature * (1.0 if self.slopes is None else self.slopes) * scores
        return found + self.bias


def log_probabilities(scores: Array, calibration: Calibration) -> Array:
    """Calibrated log-probabilities. Shapes: scores (n, K) to (n, K).

    >>> flat = Calibration(1.0, np.zeros(2))
    >>> np.exp(log_probabilities(np.zeros((1, 2)), flat)).tolist()
    [[0.5, 0.5]]
    """
    # In place: of many rows and classes each array made in passing is as large as the scores.
    logits: Array = np.multiply(calibration.temperature, scores, dtype=np.float64)
    logits += calibration.bias
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def probabilities(scores: Array, calibration: Calibration) -> Array:
    """Calibrated probabilities. Shapes: scores (n, K) to (n, K).

    >>> probabilities(np.zeros((1, 2)), Calibration(1.0, np.zeros(2))).tolist()
    [[0.5, 0.5]]
    """
    logits = log_probabilities(scores, calibration)
    return np.exp(logits, out=logits)


def log_losses(scores: Array, labels: Labels, calibration: Calibration) -> Array:
    """Log-loss of each row, in nats. Shapes: scores (n, K), labels (n,); returns (n,)."""
    return -log_probabilities(scores, calibration)[np.arange(len(labels)), labels]


def _targets(labels: Labels, k: int, weights: Array | None) -> Array:
    """One-hot labels smoothed by 1 / (n + 2). Shapes: (n,) to (n, K)."""
    share = 1.0 / ((len(labels) if weights is None else weights.sum()) + 2)
    return (1 - share) * np.eye(k)[labels] + share / k


def _mean(values: Array, weights: Array | None) -> float:
    return float(values.mean() if weights is None else weights @ values / weights.sum())


def _smooth_loss(
    scores: Array, targets: Array, calibration: Calibration, weights: Array | None
) -> float:
    return _loss_of(log_probabilities(scores, calibration), targets, weights)


def _loss_of(logs: Array, targets: Array, weights: Array | None) -> float:
    return -_mean((logs * targets).sum(axis=1), weights)


def fit_temperature(scores: Array, labels: Labels, weights: Array | None = None) -> Calibration:
    """The temperature of least log-loss against smoothed targets, bias zero.

    Shapes: scores (n, K) from models that did not see the row, labels (n,) in 0..K-1;
    `weights` (n,) count a row so many times.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]])
    >>> 1 < fit_temperature(scores, np.array([0, 0, 1, 1])).temperature < 10
    True
    """
    zero, targets = np.zeros(scores.shape[1]), _targets(labels, scores.shape[1], weights)
    right = (targets * scores).sum(axis=1)
    value, loss = 1.0, np.inf
    logs = log_probabilities(scores, Calibration(value, zero))
    start = _loss_of(logs, targets, weights)
    for _ in range(60):
        p = np.exp(logs)
        mean = (p * scores).sum(axis=1)
        slope = _mean(mean - right, weights)
        p *= scores**2
        bend = _mean(p.sum(axis=1) - mean**2, weights)
        step = slope / max(bend, 1e-12)
        for _ in range(30):
            new = min(max(value - step, _LEAST), _MOST)
            ahead = log_probabilities(scores, Calibration(new, zero))
            new_loss = _loss_of(ahead, targets, weights)
            if new_loss <= start:
                break
            step /= 2
        else:
            new, new_loss, ahead = value, start, logs
        if loss - new_loss < 1e-10:
            return Calibration(new, zero)
        value, loss, start, logs = new, new_loss, new_loss, ahead
    return Calibration(value, zero)


def fit_temperature_and_bias(
    scores: Array, labels: Labels, weights: Array | None = None
) -> Calibration:
    """Temperature and one bias a class; the bias only where every class has 20 examples.

    Shapes: scores (n, K), labels (n,) in 0..K-1; `weights` (n,) count a row so many times.
    Biases sum to zero.
    """
    first = fit_temperature(scores, labels, weights)
    _, k = scores.shape
    if np.bincount(labels, weights, minlength=k).min() < LEAST_FOR_BIAS:
        return first
    targets = _targets(labels, k, weights)
    values = np.concatenate([[first.temperature], np.zeros(k)])
    loss = _smooth_loss(scores, targets, first, weights)
    for _ in range(30):
        step = _newton_step(scores, targets, values, weights)
        for _ in range(20):
            new = values - step
            new[0] = min(max(new[0], 0.0), _MOST)
            fresh = _smooth_loss(scores, targets, Calibration(new[0], new[1:]), weights)
            if fresh <= loss:
                break
            step /= 2
        if fresh > loss - 1e-10:
            break
        values, loss = new, fresh
    return Calibration(float(values[0]), values[1:] - values[1:].mean())


def _newton_step(scores: Array, targets: Array, values: Array, weights: Array | None) -> Array:
    n, k = float(len(scores) if weights is None else weights.sum()), scores.shape[1]
    p = probabilities(scores, Calibration(float(values[0]), values[1:]))
    error = p - targets
    heavy = p if weights is None else p * weights[:, None]
    if weights is not None:
        error *= weights[:, None]
    slope = np.concatenate([[(error * scores).sum()], error.sum(axis=0)]) / n
    mean = (p * scores).sum(axis=1, keepdims=True)
    cross = (heavy * (scores - mean)).sum(axis=0) / n
    bend = np.empty((k + 1, k + 1))
    bend[0, 0] = (heavy * (scores - mean) ** 2).sum() / n
    bend[0, 1:] = bend[1:, 0] = cross
    bend[1:, 1:] = np.diag(heavy.sum(axis=0) / n) - heavy.T @ p / n
    bend[np.diag_indices(k + 1)] += 1e-6  # adding one number to every bias changes nothing
    return np.asarray(np.linalg.solve(bend, slope), dtype=np.float64)
