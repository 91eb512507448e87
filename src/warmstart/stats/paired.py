"""Two models on the same examples: differences with intervals, p-values, many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from warmstart.stats.intervals import Blocks, Values, kish, standard_error

_PICKS = 1_000_000  # blocks drawn at a time


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a - b over the same rows, its 95 % interval and a two-sided p."""

    value: float
    low: float
    high: float
    p: float


def difference(
    a: Values, b: Values, blocks: Blocks, rng: np.random.Generator, draws: int = 2000
) -> Difference:
    """Paired bootstrap over blocks: percentile interval, p by the shifted distribution.

    Shapes: a, b, blocks (n,). Source: Efron & Tibshirani 1993, ch. 16.

    >>> same = np.ones(8)
    >>> difference(same, same, np.arange(8), np.random.default_rng(0)).p
    1.0
    """
    gap = a - b
    _, index = np.unique(blocks, return_inverse=True)
    n_blocks = int(index.max()) + 1
    sums = np.bincount(index, weights=gap, minlength=n_blocks)
    sizes = np.bincount(index, minlength=n_blocks)
    means = np.empty(draws)
    count = max(_PICKS // n_blocks, 1)
    for start in range(0, draws, count):
        # Drawn a few at a time: the stream of numbers is the same as for all at once.
        picks = rng.integers(n_blocks, size=(min(count, draws - start), n_blocks))
        means[start : start + count] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    value = float(gap.mean())
    low, high = (float(q) for q in np.quantile(means, [0.025, 0.975]))
    extreme = int((np.abs(means - value) >= abs(value) - 1e-12).sum())
    return Difference(value, low, high, (1 + extreme) / (draws + 1))


def mean_interval(values: Values, blocks: Blocks) -> tuple[float, float, float]:
    """Mean with its 95 % t interval, cluster-robust: (value, low, high).

    >>> mean_interval(np.array([1.0, 1.0, 1.0]), np.arange(3))
    (1.0, 1.0, 1.0)
    """
    value, error = float(values.mean()), standard_error(values, blocks)
    degrees = kish(blocks) - 1
    if degrees < 1:
        return value, float("-inf"), float("inf")
    half = float(stdtrit(degrees, 0.975)) * error
    return value, value - half, value + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given. Source: Holm 1979.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
