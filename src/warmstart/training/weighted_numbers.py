"""A linear function on weighted rows: its penalty chosen by the squared error of rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve.ridge import Array
from warmstart.solve.weighted import left_out, solve, spread_out


@dataclass(frozen=True, slots=True)
class NumberFit:
    """value = x W + b. Shapes: weights (d,), bias a number."""

    weights: Array
    bias: float
    penalty: float


def fit_numbers(
    features: Array, values: Array, weights: Array, penalties: Sequence[float]
) -> NumberFit:
    """Ridge with the penalty of least left-out squared error; of equals the strongest.

    A row of weight 2 counts as one that is given twice. Shapes: features (n, d), values and
    weights (n,); penalties weakest first.

    >>> x = np.array([[-1.0], [0.0], [1.0], [2.0]])
    >>> fit = fit_numbers(x, 2 * x[:, 0] + 1, np.ones(4), (1e-9, 1.0))
    >>> fit.penalty, fit.weights.round(6).tolist(), round(fit.bias, 6)
    (1e-09, [2.0], 1.0)
    """
    spread, targets = spread_out(features, weights), values[:, None]
    errors = []
    for penalty in penalties:
        off = (left_out(spread, targets, penalty)[:, 0] - values) ** 2
        errors.append(float(weights @ off / weights.sum()))
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    inner, bias = solve(spread, targets, penalties[best])
    return NumberFit(inner[:, 0], float(bias[0]), penalties[best])
