"""Scores to probabilities: softmax(scores / temperature + bias).

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
from scipy.special import expit

from warmstart.solve.ridge import Array

# ---- Scores to probabilities label by label: sigmoid(slope * score + shift).
#
# Platt 1999, "Probabilistic outputs for support vector machines", §2.2: targets are smoothed by
# the counts of either side, so that a label that is told apart without a mistake, or has two
# examples, does not get certain answers. Newton steps with halving, for all labels at once.


_PLATT_MOST = 1e3  # a slope, of scores that were brought to a spread of 1
_STEADY = 1e-3  # added to the curvature: of a score without any spread nothing can be learnt


def log_losses_of(logits: Array, truth: Array) -> Array:
    """Mean log-loss over the labels of each row, in nats. Shapes: (n, K) both; returns (n,).

    >>> log_losses_of(np.zeros((1, 2)), np.array([[1.0, 0.0]])).round(4).tolist()
    [0.6931]
    """
    found: Array = (np.logaddexp(0.0, logits) - truth * logits).mean(axis=1)
    return found


def fit_platt(scores: Array, truth: Array) -> tuple[Array, Array]:
    """Slope (never below 0) and shift of each label. Shapes: (n, K) both; returns (K,) twice.

    `scores` are of rows that were left out, `truth` 0 and 1.

    >>> s = np.array([[0.9], [0.8], [0.1], [0.2]])
    >>> slope, shift = fit_platt(s, (s > 0.5).astype(float))
    >>> bool(slope[0] > 1 and 0.5 < expit(slope * 0.9 + shift)[0] < 0.95)
    True
    """
    centre, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (scores - centre) / spread
    plus = truth.sum(axis=0)
    minus = len(truth) - plus
    smooth = np.where(truth > 0, (plus + 1) / (plus + 2), 1 / (minus + 2))
    slope, shift = np.ones_like(plus, dtype=float), np.log((plus + 1) / (minus + 1))
    loss = _loss(z, smooth, slope, shift)
    for _ in range(60):
        step = _step(z, smooth, slope, shift)
        size = np.ones_like(slope)
        for _ in range(30):
            new = np.clip(slope - size * step[0], 0.0, _PLATT_MOST), shift - size * step[1]
            fresh = _loss(z, smooth, *new)
            worse = fresh > loss
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        better = fresh < loss
        slope, shift = np.where(better, new[0], slope), np.where(better, new[1], shift)
        gained, loss = float(np.max(loss - fresh, initial=0.0)), np.minimum(fresh, loss)
        if gained < 1e-10:
            break
    return slope / spread, shift - slope * centre / spread


def _loss(z: Array, smooth: Array, slope: Array, shift: Array) -> Array:
    logits = slope * z + shift
    found: Array = (np.logaddexp(0.0, logits) - smooth * logits).mean(axis=0)
    return found


def _step(z: Array, smooth: Array, slope: Array, shift: Array) -> tuple[Array, Array]:
    """Newton's step for each label. Shapes: (K,) twice."""
    p = expit(slope * z + shift)
    error, heavy = p - smooth, p * (1 - p)
    g = (error * z).mean(axis=0), error.mean(axis=0)
    aa, ab = (heavy * z * z).mean(axis=0) + _STEADY, (heavy * z).mean(axis=0)
    bb = heavy.mean(axis=0) + _STEADY
    det = aa * bb - ab * ab
    return (bb * g[0] - ab * g[1]) / det, (aa * g[1] - ab * g[0]) / det


Labels = NDArray[np.int64]

LEAST_FOR_BIAS = 20  # examples in the smallest class; below, a bias fits noise (RECIPE §2)
_MOST = 1e3
# Not zero: where no score tells anything the answer is still that of the highest one, at even odds.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """softmax(scale * scores + bias). Shapes: bias (K,).

    `scale` is one over the temperature (Guo et al. 2017, "On Calibration", §4.2).

    `slopes` (K,), where labels are calibrated each by itself, are factors of their scores.
    """

    scale: float
    bias: Array
    slopes: Array | None = None

    @property
    def temperature(self) -> float:
        """What scores are divided by.

        >>> Calibration(4.0, np.zeros(1)).temperature
        0.25
        """
        return 1.0 / max(self.scale, 1e-9)

    def scaled(self, scores: Array) -> Array:
        """scale * slopes * scores + bias. Shapes: (n, K) to (n, K).

        >>> Calibration(2.0, np.ones(1), np.array([3.0])).scaled(np.ones((1, 1))).tolist()
        [[7.0]]
        """
        found: Array = self.scale * (1.0 if self.slopes is None else self.slopes) * scores
        return found + self.bias


def log_probabilities(scores: Array, calibration: Calibration) -> Array:
    """Calibrated log-probabilities. Shapes: scores (n, K) to (n, K).

    >>> flat = Calibration(1.0, np.zeros(2))
    >>> np.exp(log_probabilities(np.zeros((1, 2)), flat)).tolist()
    [[0.5, 0.5]]
    """
    # In place: of many rows and classes each array made in passing is as large as the scores.
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
    >>> 1 < fit_temperature(scores, np.array([0, 0, 1, 1])).scale < 10
    True
    """
    zero, targets = np.zeros(scores.shape[1]), _targets(labels, scores.shape[1], weights)
    right = (targets * scores).sum(axis=1)
    value, loss = 1.0, np.inf
    logs = log_probabilities(scores, Calibration(value, zero))
    base = _loss_of(logs, targets, weights)
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
            if new_loss <= base:
                break
            step /= 2
        else:
            new, new_loss, ahead = value, base, logs
        if loss - new_loss < 1e-10:
            return Calibration(new, zero)
        value, loss, base, logs = new, new_loss, new_loss, ahead
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
