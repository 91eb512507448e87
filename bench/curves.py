"""What is measured at several sizes as a line: so much at once, so much for each one more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, kw_only=True)
class Curve:
    """`fixed + each * n`, and the largest relative difference from what was measured.

    `left_out` is how far the line through all sizes but the largest is from what was measured
    there, as a share: how well it reaches beyond what it was fitted on.
    """

    fixed: float
    each: float
    error: float
    left_out: float
    least: int
    most: int

    def at(self, n: float) -> float:
        """The value at n.

        >>> Curve(fixed=1.0, each=0.5, error=0.0, left_out=0.0, least=1, most=9).at(10)
        6.0
        """
        return self.fixed + self.each * n

    def plain(self) -> dict[str, Any]:
        """Rounded, for a file."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def fitted(sizes: Sequence[int], values: Sequence[float]) -> Curve:
    """The line of least squared *relative* differences, neither of its terms below 0.

    >>> line = fitted([10, 20, 40], [3.0, 5.0, 9.0])
    >>> round(line.fixed, 6), round(line.each, 6), round(line.error, 6), round(line.left_out, 6)
    (1.0, 0.2, 0.0, 0.0)
    """
    order = np.argsort(sizes)
    x, y = np.asarray(sizes, float)[order], np.asarray(values, float)[order]
    fixed, each = _line(x, y)
    error = float(np.max(np.abs(fixed + each * x - y) / y))
    shorter = _line(x[:-1], y[:-1])
    beyond = float(abs(shorter[0] + shorter[1] * x[-1] - y[-1]) / y[-1])
    return Curve(
        fixed=fixed, each=each, error=error, left_out=beyond, least=int(x[0]), most=int(x[-1])
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    table = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    fixed, each = nnls(table, np.ones_like(y))[0]
    return float(fixed), float(each)
