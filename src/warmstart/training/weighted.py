"""Linear heads on weighted rows: penalty and calibration chosen by left-out rows.

Everything is fitted as if each row were repeated as often as its weight says; a row is left out
whole. Penalties are in units of the weights: scale those to mean 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.calibration import (
    Calibration,
    fit_temperature,
    fit_temperature_and_bias,
    log_losses,
)
from warmstart.solve.kernels import LaplaceFeatures, anchors_of, fit_laplace_features
from warmstart.solve.primal_ridge import FeatureSpread, spread_rows
from warmstart.solve.ridge import Array, Rows
from warmstart.training.head_families import TIE


@dataclass(frozen=True, slots=True)
class LinearFit:
    """logits = scale * (x W + b) + class_bias. Shapes: weights (d, K), bias (K,)."""

    weights: Array
    bias: Array
    calibration: Calibration
    penalty: float

    def calibrated(self) -> tuple[Array, Array]:
        """Weights and bias of the logits. Shapes: (d, K), (K,)."""
        scale = self.calibration.scale
        return scale * self.weights, scale * self.bias + self.calibration.bias


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """Labelled rows with weights.

    Shapes: features (n, d), labels (n,) in 0..n_classes-1, each of which occurs, weights (n,)
    above zero. `group_rows` partition the rows; without them every row is a group.
    """

    features: Array
    labels: NDArray[np.int64]
    n_classes: int
    weights: Array
    group_rows: tuple[Rows, ...] | None = None


def fit_linear(rows: WeightedRows, penalties: Sequence[float]) -> LinearFit:
    """Choose among penalties (weakest first) by left-out rows, calibrate on them, refit.

    Where left-out rows are predicted no better than by guessing, it predicts the class shares.

    >>> x = np.array([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
    >>> rows = WeightedRows(x, np.array([0, 0, 0, 1, 1, 1]), 2, np.ones(6))
    >>> W, b = fit_linear(rows, (0.01, 0.1, 1.0)).calibrated()
    >>> (x @ W + b).argmax(axis=1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    spread, targets = spread_rows(rows.features, rows.weights), np.eye(rows.n_classes)[rows.labels]
    penalty, scores = _choose_penalty(rows, spread, targets, penalties)
    weights, bias = spread.solve(targets, penalty)
    calibration = fit_temperature_and_bias(scores, rows.labels, rows.weights)
    if calibration.scale == 0:
        counts = np.bincount(rows.labels, rows.weights, minlength=rows.n_classes)
        calibration = Calibration(0.0, np.log(counts / counts.sum()))
    return LinearFit(weights, bias, calibration, penalty)


def _choose_penalty(
    rows: WeightedRows, spread: FeatureSpread, targets: Array, penalties: Sequence[float]
) -> tuple[float, Array]:
    """The strongest penalty within one standard error of the best, and its left-out scores."""
    labels, weights = rows.labels, rows.weights
    scores = [spread.left_out(targets, penalty, rows.group_rows) for penalty in penalties]
    losses = [log_losses(one, labels, fit_temperature(one, labels, weights)) for one in scores]
    means = [spread.average(row_losses[:, None]).item() for row_losses in losses]
    best = int(np.argmin(means))
    for place in reversed(range(best + 1, len(scores))):
        error = _standard_error(losses[place] - losses[best], rows)
        if means[place] - means[best] <= error:
            return penalties[place], scores[place]
    return penalties[best], scores[best]


def _standard_error(gaps: Array, rows: WeightedRows) -> float:
    """Of the weighted mean of paired gaps, by group. Shapes: gaps (n,)."""
    weights, total = rows.weights, rows.weights.sum()
    off = gaps - weights @ gaps / total
    if rows.group_rows is None:
        n, squares = float(len(weights)), float(weights**2 @ off**2)
    else:
        n = float(len(rows.group_rows))
        squares = float(sum((weights[one] @ off[one]) ** 2 for one in rows.group_rows))
    return float(np.sqrt(squares / total**2 * n / (n - 1))) if n > 1 else float("inf")


# Spreads of a column that curves are smooth over. On red wine (300 rows, ten splits) each of them
# explained .03 more of the variance than the line (`bench run tasks`).
WIDTHS = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class NumberFit:
    """value = x W + b, or phi(x) W + b. Shapes: weights (d,) or (r,), errors (n,) squared."""

    weights: Array
    bias: float
    penalty: float
    errors: Array
    curve: LaplaceFeatures | None = None

    def values(self, rows: Array) -> Array:
        """Shapes: (n, d) to (n,)."""
        features = rows if self.curve is None else self.curve.of(rows)
        values: Array = features @ self.weights + self.bias
        return values


def fit_numbers(
    rows: Array, values: Array, weights: Array, penalties: Sequence[float]
) -> NumberFit:
    """The curve of least left-out squared error; the line, where the difference may be chance.

    Shapes: rows (n, d) standardised, values and weights (n,), of mean 1; penalties weakest first.

    >>> x = np.array([[-1.0], [0.0], [1.0], [2.0]])
    >>> fit = fit_numbers(x, 2 * x[:, 0] + 1, np.ones(4), (1e-9, 1.0))
    >>> fit.penalty, fit.weights.round(6).tolist(), round(fit.bias, 6)
    (1e-09, [2.0], 1.0)
    """
    targets = values[:, None]

    def ridge(curve: LaplaceFeatures | None) -> NumberFit:
        """Ridge with the penalty of least left-out squared error; the strongest in a tie."""
        spread = spread_rows(rows if curve is None else curve.of(rows), weights)
        errors = [(spread.left_out(targets, one)[:, 0] - values) ** 2 for one in penalties]
        best = len(errors) - 1 - int(np.argmin([float(weights @ off) for off in errors[::-1]]))
        inner, bias = spread.solve(targets, penalties[best])
        return NumberFit(inner[:, 0], float(bias[0]), penalties[best], errors[best], curve)

    line, anchors = ridge(None), anchors_of(rows)
    if not len(anchors):
        return line
    curves = [ridge(fit_laplace_features(anchors, width)) for width in WIDTHS]
    best = min(curves, key=lambda fit: float(weights @ fit.errors))
    gap = line.errors - best.errors
    n, share = len(weights), weights / weights.sum()
    mean = float(share @ gap)
    error = np.sqrt(share**2 @ (gap - mean) ** 2 * n / max(n - 1, 1))
    return best if mean > TIE * error else line
