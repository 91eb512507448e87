"""Scores to probabilities: softmax(scores / temperature + bias), or label by label.

The temperature (and the bias, where there are enough examples) minimises the log-loss of
out-of-fold scores by Newton steps with halving. Source: Guo et al. 2017, "On Calibration of Modern
Neural Networks", §4.2; the bias is that of "bias-corrected" scaling (Alexandari et al. 2020).
Targets are smoothed by 1 / (n + 2), as Platt (1999) does: a separable set would drive the
temperature, and with it every confidence, to its limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array

Labels = NDArray[np.int64]

LEAST_FOR_BIAS = 20  # examples in the smallest class; below, a bias fits noise (RECIPE §2)
_MOST = 1e3  # a scale, or a slope of standardised scores
# Not zero: where scores are uninformative the answer is still that of the highest one.
_LEAST = 1e-6
_STEADY = 1e-3  # added to the curvature: nothing can be learnt from constant scores

# ---- Scores to probabilities label by label: sigmoid(slope * score + shift).
#
# Platt 1999, "Probabilistic outputs for support vector machines", §2.2: targets are smoothed by
# the counts of either side, so that a label that is separated without a mistake, or has two
# examples, does not get certain answers. Newton steps with halving, for all labels at once.


def log_losses_of(logits: Array, truth: Array) -> Array:
    """Mean log-loss over the labels of each row, in nats. Shapes: (n, K) both; returns (n,).

    >>> log_losses_of(np.zeros((1, 2)), np.array([[1.0, 0.0]])).round(4).tolist()
    [0.6931]
    """
    losses: Array = (np.logaddexp(0.0, logits) - truth * logits).mean(axis=1)
    return losses


def fit_platt(scores: Array, truth: Array) -> tuple[Array, Array]:
    """Slope (never below 0) and shift of each label. Shapes: (n, K) both; returns (K,) twice.

    `scores` are out of fold, `truth` is 0 or 1.

    >>> s = np.array([[0.9], [0.8], [0.1], [0.2]])
    >>> slope, shift = fit_platt(s, (s > 0.5).astype(float))
    >>> bool(slope[0] > 1 and 0 < slope[0] * 0.9 + shift[0] < 3)
    True
    """
    centre, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (scores - centre) / spread
    plus = truth.sum(axis=0)
    minus = len(truth) - plus
    smooth = np.where(truth > 0, (plus + 1) / (plus + 2), 1 / (minus + 2))
    slope, shift = np.ones_like(plus, dtype=float), np.log((plus + 1) / (minus + 1))
    loss = _platt_loss(z, smooth, slope, shift)
    for _ in range(60):
        step = _platt_step(z, smooth, slope, shift)
        size = np.ones_like(slope)
        for _ in range(30):
            new = np.clip(slope - size * step[0], 0.0, _MOST), shift - size * step[1]
            new_loss = _platt_loss(z, smooth, *new)
            is_worse = new_loss > loss
            if not is_worse.any():
                break
            size = np.where(is_worse, size / 2, size)
        is_better = new_loss < loss
        slope, shift = np.where(is_better, new[0], slope), np.where(is_better, new[1], shift)
        gain, loss = float(np.max(loss - new_loss, initial=0.0)), np.minimum(new_loss, loss)
        if gain < 1e-10:
            break
    return slope / spread, shift - slope * centre / spread


def _platt_loss(z: Array, smooth: Array, slope: Array, shift: Array) -> Array:
    logits = slope * z + shift
    losses: Array = (np.logaddexp(0.0, logits) - smooth * logits).mean(axis=0)
    return losses


def _platt_step(z: Array, smooth: Array, slope: Array, shift: Array) -> tuple[Array, Array]:
    """Newton's step for each label. Shapes: (K,) twice."""
    from scipy.special import expit  # here: help texts name tasks and wait for no scipy

    p = expit(slope * z + shift)
    error, curvature = p - smooth, p * (1 - p)
    g = (error * z).mean(axis=0), error.mean(axis=0)
    aa, ab = (curvature * z * z).mean(axis=0) + _STEADY, (curvature * z).mean(axis=0)
    bb = curvature.mean(axis=0) + _STEADY
    det = aa * bb - ab * ab
    return (bb * g[0] - ab * g[1]) / det, (aa * g[1] - ab * g[0]) / det


# ---- Scores to the probabilities of classes.


@dataclass(frozen=True, slots=True)
class Calibration:
    """softmax(scale * scores + bias); the scale is one over the temperature. Shapes: bias (K,).

    `slopes` (K,), where each label is calibrated by itself, are factors of their scores.
    """

    scale: float
    bias: Array
    slopes: Array | None = None

    @property
    def temperature(self) -> float:
        """The divisor of scores."""
        return 1.0 / max(self.scale, 1e-9)

    def scaled(self, scores: Array) -> Array:
        """scale * slopes * scores + bias. Shapes: (n, K) to (n, K).

        >>> Calibration(2.0, np.ones(1), np.array([3.0])).scaled(np.ones((1, 1))).tolist()
        [[7.0]]
        """
        scaled: Array = self.scale * (1.0 if self.slopes is None else self.slopes) * scores
        return scaled + self.bias


def log_probabilities(scores: Array, calibration: Calibration) -> Array:
    """Calibrated log-probabilities. Shapes: scores (n, K) to (n, K).

    >>> flat = Calibration(1.0, np.zeros(2))
    >>> np.exp(log_probabilities(np.zeros((1, 2)), flat)).tolist()
    [[0.5, 0.5]]
    """
    # In place: a temporary array would be as large as the scores.
    logits: Array = np.multiply(calibration.scale, scores, dtype=np.float64)
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


def _loss(logs: Array, targets: Array, weights: Array | None) -> float:
    return -_mean((logs * targets).sum(axis=1), weights)


def fit_temperature(scores: Array, labels: Labels, weights: Array | None = None) -> Calibration:
    """The temperature of least log-loss against smoothed targets, bias zero.

    Shapes: scores (n, K) out of fold, labels (n,) in 0..K-1; `weights` (n,) count a row so many
    times.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]])
    >>> 1 < fit_temperature(scores, np.array([0, 0, 1, 1])).scale < 10
    True
    """
    zero, targets = np.zeros(scores.shape[1]), _targets(labels, scores.shape[1], weights)
    target_scores = (targets * scores).sum(axis=1)
    value, is_first = 1.0, True
    logs = log_probabilities(scores, Calibration(value, zero))
    loss = _loss(logs, targets, weights)
    for _ in range(60):
        p = np.exp(logs)
        mean = (p * scores).sum(axis=1)
        slope = _mean(mean - target_scores, weights)
        p *= scores**2
        curvature = _mean(p.sum(axis=1) - mean**2, weights)
        step = slope / max(curvature, 1e-12)
        for _ in range(30):
            new = min(max(value - step, _LEAST), _MOST)
            new_logs = log_probabilities(scores, Calibration(new, zero))
            new_loss = _loss(new_logs, targets, weights)
            if new_loss <= loss:
                break
            step /= 2
        else:
            new, new_loss, new_logs = value, loss, logs
        if not is_first and loss - new_loss < 1e-10:
            return Calibration(new, zero)
        value, loss, logs, is_first = new, new_loss, new_logs, False
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
    values = np.concatenate([[first.scale], np.zeros(k)])
    loss = _loss(log_probabilities(scores, first), targets, weights)
    for _ in range(30):
        step = _newton_step(scores, targets, values, weights)
        for _ in range(20):
            new = values - step
            new[0] = min(max(new[0], 0.0), _MOST)
            logs = log_probabilities(scores, Calibration(new[0], new[1:]))
            new_loss = _loss(logs, targets, weights)
            if new_loss <= loss:
                break
            step /= 2
        if new_loss > loss - 1e-10:
            break
        values, loss = new, new_loss
    return Calibration(float(values[0]), values[1:] - values[1:].mean())


def _newton_step(scores: Array, targets: Array, values: Array, weights: Array | None) -> Array:
    n, k = float(len(scores) if weights is None else weights.sum()), scores.shape[1]
    p = probabilities(scores, Calibration(float(values[0]), values[1:]))
    error, weighted = p - targets, p
    if weights is not None:
        error, weighted = error * weights[:, None], p * weights[:, None]
    slope = np.concatenate([[(error * scores).sum()], error.sum(axis=0)]) / n
    mean = (p * scores).sum(axis=1, keepdims=True)
    hessian = np.empty((k + 1, k + 1))
    hessian[0, 0] = (weighted * (scores - mean) ** 2).sum() / n
    hessian[0, 1:] = hessian[1:, 0] = (weighted * (scores - mean)).sum(axis=0) / n
    hessian[1:, 1:] = np.diag(weighted.sum(axis=0) / n) - weighted.T @ p / n
    hessian[np.diag_indices(k + 1)] += 1e-6  # adding one number to every bias changes nothing
    return np.asarray(np.linalg.solve(hessian, slope), dtype=np.float64)
