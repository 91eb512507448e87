"""A linear head on weighted rows: penalty and certainty chosen by rows left out.

For rows that count more or less than one. Everything that is fitted to them (means, weights,
the choice of the penalty, the calibration) is fitted as if a row stood there as often as its
weight says; a row is left out whole. Penalties are in units of the weights: scale those to
mean 1, so that the fit does not depend on their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array, Rows
from warmstart.solve.temperature import (
    Calibration,
    fit_temperature,
    fit_temperature_and_bias,
    log_losses,
)
from warmstart.solve.weighted import Spread, left_out, solve, spread_out


@dataclass(frozen=True, slots=True)
class LinearFit:
    """logits = temperature * (x W + b) + class_bias. Shapes: weights (d, K), bias (K,)."""

    weights: Array
    bias: Array
    calibration: Calibration
    penalty: float

    def calibrated(self) -> tuple[Array, Array]:
        """One matrix and one bias that give the logits. Shapes: (d, K), (K,)."""
        warmth = self.calibration.temperature
        return warmth * self.weights, warmth * self.bias + self.calibration.bias


@dataclass(frozen=True, slots=True)
class Weighed:
    """Labelled rows that count.

    Shapes: features (n, d), labels (n,) in 0..n_classes-1, each of which occurs, weights (n,)
    above zero. `groups` partition the rows into dependent blocks; without them every row, and
    everything that it stands for, is a block of its own.
    """

    features: Array
    labels: NDArray[np.int64]
    n_classes: int
    weights: Array
    groups: tuple[Rows, ...] | None = None

    @property
    def shares(self) -> Array:
        """How much of the weight each class has. Shapes: (K,)."""
        counts = np.bincount(self.labels, self.weights, minlength=self.n_classes)
        result: Array = counts / counts.sum()
        return result


def fit_linear(rows: Weighed, penalties: Sequence[float]) -> LinearFit:
    """Choose among penalties (weakest first) by rows left out, calibrate on the same, refit.

    Where no row left out is told better than by guessing, the answers are the classes' shares.

    >>> x = np.array([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
    >>> rows = Weighed(x, np.array([0, 0, 0, 1, 1, 1]), 2, np.ones(6))
    >>> W, b = fit_linear(rows, (0.01, 0.1, 1.0)).calibrated()
    >>> (x @ W + b).argmax(axis=1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    spread, targets = spread_out(rows.features, rows.weights), np.eye(rows.n_classes)[rows.labels]
    penalty, scores = _chosen(rows, spread, targets, penalties)
    weights, bias = solve(spread, targets, penalty)
    calibration = fit_temperature_and_bias(scores, rows.labels, rows.weights)
    if calibration.temperature == 0:
        calibration = Calibration(0.0, np.log(rows.shares))
    return LinearFit(weights, bias, calibration, penalty)


def _chosen(
    rows: Weighed, spread: Spread, targets: Array, penalties: Sequence[float]
) -> tuple[float, Array]:
    """The strongest penalty within one standard error of the best, and its left-out scores."""
    tried = [left_out(spread, targets, penalty, rows.groups) for penalty in penalties]
    losses = [_losses(scores, rows) for scores in tried]
    means = [spread.average(each[:, None]).item() for each in losses]
    best = int(np.argmin(means))
    gaps = [each - losses[best] for each in losses]
    for place in reversed(range(best + 1, len(tried))):
        if means[place] - means[best] <= _error(gaps[place], rows):
            return penalties[place], tried[place]
    return penalties[best], tried[best]


def _losses(scores: Array, rows: Weighed) -> Array:
    """Calibrated log-loss of each row. Shapes: scores (n, K); returns (n,)."""
    return log_losses(scores, rows.labels, fit_temperature(scores, rows.labels, rows.weights))


def _error(gaps: Array, rows: Weighed) -> float:
    """Standard error of the weighted mean of paired gaps, blocks whole. Shapes: gaps (n,)."""
    weights, total = rows.weights, rows.weights.sum()
    off = gaps - weights @ gaps / total
    if rows.groups is None:
        n, squares = float(len(weights)), float(weights**2 @ off**2)
    else:
        n = float(len(rows.groups))
        squares = float(sum((weights[one] @ off[one]) ** 2 for one in rows.groups))
    return float(np.sqrt(squares / total**2 * n / (n - 1))) if n > 1 else float("inf")
