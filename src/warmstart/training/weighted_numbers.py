"""A line or a curve through weighted rows, chosen by the squared error of rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve.bends import Bends, anchors_of, bends
from warmstart.solve.ridge import Array
from warmstart.solve.weighted import left_out, solve, spread_out
from warmstart.training.choose import TIE

# Spreads of a column that curves are smooth over. On red wine (300 rows, ten splits) each of them
# explained .03 more of the variance than the line (`bench run tasks`).
WIDTHS = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class NumberFit:
    """value = x W + b, or phi(x) W + b of a curve.

    Shapes: weights (d,) or (r,); errors (n,) squared, of rows left out.
    """

    weights: Array
    bias: float
    penalty: float
    errors: Array
    curve: Bends | None = None

    def values(self, rows: Array) -> Array:
        """Shapes: (n, d) to (n,)."""
        read = rows if self.curve is None else self.curve.of(rows)
        found: Array = read @ self.weights + self.bias
        return found


def fit_numbers(
    rows: Array, values: Array, weights: Array, penalties: Sequence[float],
    widths: Sequence[float] = WIDTHS,
) -> NumberFit:  # fmt: skip
    """The curve of least left-out squared error; the line, where that is chance.

    A row of weight 2 counts as one that is given twice, and is left out whole. Shapes: rows (n, d)
    standardised, values and weights (n,), of mean 1; penalties weakest first.

    >>> x = np.array([[-1.0], [0.0], [1.0], [2.0]])
    >>> fit = fit_numbers(x, 2 * x[:, 0] + 1, np.ones(4), (1e-9, 1.0))
    >>> fit.penalty, fit.weights.round(6).tolist(), round(fit.bias, 6)
    (1e-09, [2.0], 1.0)
    """
    line, anchors = _ridge(rows, None, values, weights, penalties), anchors_of(rows)
    curves = [
        _ridge(rows, bends(anchors, width), values, weights, penalties)
        for width in (widths if len(anchors) else ())
    ]
    if not curves:
        return line
    best = min(curves, key=lambda fit: float(weights @ fit.errors))
    gap = line.errors - best.errors
    n, share = len(weights), weights / weights.sum()
    mean = float(share @ gap)
    error = np.sqrt(share**2 @ (gap - mean) ** 2 * n / max(n - 1, 1))
    return best if mean > TIE * error else line


def _ridge(
    rows: Array, curve: Bends | None, values: Array, weights: Array, penalties: Sequence[float]
) -> NumberFit:
    """Ridge with the penalty of least left-out squared error; of equals the strongest."""
    spread = spread_out(rows if curve is None else curve.of(rows), weights)
    targets = values[:, None]
    errors = [(left_out(spread, targets, one)[:, 0] - values) ** 2 for one in penalties]
    best = len(errors) - 1 - int(np.argmin([float(weights @ off) for off in errors[::-1]]))
    inner, bias = solve(spread, targets, penalties[best])
    return NumberFit(inner[:, 0], float(bias[0]), penalties[best], errors[best], curve)
