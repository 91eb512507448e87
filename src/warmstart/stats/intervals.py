"""Confidence intervals (95 %) for proportions and means of dependent examples.

Examples in one block (views, duplicates, one group) are not independent: the interval
of n of them is that of n_eff <= n independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

# ---- The difference of two proportions that were measured on different examples.


Interval = tuple[float, float, float]  # value, low, high


def gap(one: Interval, other: Interval) -> Interval:
    """One less the other, with an interval made of theirs; for independent examples.

    Source: Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10.

    >>> [round(x, 3) for x in gap((0.5, 0.4, 0.6), (0.3, 0.2, 0.4))]
    [0.2, 0.059, 0.341]
    """
    (p, low, high), (q, least, most) = one, other
    return (
        p - q,
        p - q - math.hypot(p - low, most - q),
        p - q + math.hypot(high - p, q - least),
    )


Values = NDArray[np.float64]
Groups = NDArray[np.int64]


def number_groups(group_rows: Sequence[NDArray[np.intp]]) -> Groups:
    """The block number of each row, from the rows of each block. Shapes: returns (n,).

    >>> number_groups([np.array([0, 2]), np.array([1])]).tolist()
    [0, 1, 0]
    """
    numbers = np.empty(sum(len(rows) for rows in group_rows), dtype=np.int64)
    for number, rows in enumerate(group_rows):
        numbers[rows] = number
    return numbers


def group_sizes(groups: Groups) -> Values:
    """Number of rows in each block. Shapes: blocks (n,) any integers; returns (G,).

    >>> group_sizes(np.array([7, 7, 2])).tolist()
    [1.0, 2.0]
    """
    return np.unique(groups, return_counts=True)[1].astype(float)


def kish(groups: Groups) -> float:
    """Kish's effective sample size (sum m)^2 / sum m^2 of the block sizes m.

    >>> kish(np.array([0, 0, 1, 1]))
    2.0
    """
    sizes = group_sizes(groups)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def standard_error(values: Values, groups: Groups) -> float:
    """Cluster-robust standard error of the mean, with the factor G / (G - 1).

    Shapes: values (n,), blocks (n,). Infinite for a single block: nothing is known.

    >>> v = np.array([1.0, 0.0, 1.0, 0.0])
    >>> standard_error(v, np.arange(4)) == float(np.std(v, ddof=1) / 2)
    True
    """
    _, index = np.unique(groups, return_inverse=True)
    n_groups = int(index.max()) + 1
    if n_groups < 2:
        return float("inf")
    sums = np.bincount(index, weights=values - values.mean(), minlength=n_groups)
    variance = (sums**2).sum() / len(values) ** 2 * n_groups / (n_groups - 1)
    return float(np.sqrt(variance))


def effective_size(correct: Values, groups: Groups) -> float:
    """How many independent examples these are worth for a proportion.

    p(1-p) over the cluster variance, kept between Kish's size and n; Kish's size where
    the variance is zero. Shapes: correct (n,) of 0 and 1, blocks (n,).

    >>> effective_size(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    2.0
    """
    p, n, least = _share(correct), len(correct), kish(groups)
    error = standard_error(correct, groups)
    if error == 0 or not np.isfinite(error):
        return least
    return float(np.clip(p * (1 - p) / error**2, least, n))


def _share(values: Values) -> float:
    """The mean; of values that lie beyond 0 and 1 it may, too."""
    return float(np.clip(values.mean(), 0.0, 1.0))


def wilson(p: float, n: float, degrees: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, with a t quantile for few blocks.

    `n` may be fractional (an effective size); `degrees` of freedom below 1 give (0, 1).
    Source: Wilson 1927; t for few clusters: Dean & Pagano 2015.

    >>> low, high = wilson(0.5, 100, 1e9)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if degrees < 1 or n <= 0:
        return 0.0, 1.0
    t = float(stdtrit(degrees, 0.5 + confidence / 2))
    middle = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * np.sqrt(p * (1 - p) / n + t * t / (4 * n * n))
    # Rounding must not put an end on the wrong side of the value itself.
    return float(np.clip(middle - half, 0.0, p)), float(np.clip(middle + half, p, 1.0))


def proportion(
    correct: Values, groups: Groups, inflation: float = 1.0
) -> tuple[float, float, float]:
    """Share of correct rows with its 95 % interval: (value, low, high).

    Shapes: correct (n,) of 0 and 1, blocks (n,). `inflation` is the variance of what is
    estimated over that of independent draws; the effective size is divided by it.

    >>> value, low, high = proportion(np.ones(50), np.arange(50))
    >>> value, round(low, 2), high
    (1.0, 0.93, 1.0)
    """
    value = _share(correct)
    size = effective_size(correct, groups) / inflation
    low, high = wilson(value, size, kish(groups) - 1)
    return value, low, high
