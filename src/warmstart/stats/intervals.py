"""Confidence intervals (95 %) for proportions and means of dependent examples.

Examples of one group are not independent: n of them count as n_eff <= n independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Groups = NDArray[np.int64]
Interval = tuple[float, float, float]  # value, low, high


def gap(one: Interval, other: Interval) -> Interval:
    """The difference of two proportions of independent examples, with its interval.

    Source: Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10.

    >>> [round(x, 3) for x in gap((0.5, 0.4, 0.6), (0.3, 0.2, 0.4))]
    [0.2, 0.059, 0.341]
    """
    (p, low, high), (q, least, most) = one, other
    value = p - q
    return value, value - math.hypot(p - low, most - q), value + math.hypot(high - p, q - least)


def number_groups(group_rows: Sequence[NDArray[np.intp]]) -> Groups:
    """The group number of each row, from the rows of each group. Shapes: returns (n,).

    >>> number_groups([np.array([0, 2]), np.array([1])]).tolist()
    [0, 1, 0]
    """
    numbers = np.empty(sum(len(rows) for rows in group_rows), dtype=np.int64)
    for number, rows in enumerate(group_rows):
        numbers[rows] = number
    return numbers


def kish(groups: Groups) -> float:
    """Kish's effective sample size (sum m)^2 / sum m^2 of the group sizes m.

    >>> kish(np.array([0, 0, 1, 1]))
    2.0
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def standard_error(values: Values, groups: Groups) -> float:
    """Cluster-robust standard error of the mean, with the factor G / (G - 1).

    Infinite for a single group. Shapes: values (n,), groups (n,).

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
    """The number of independent examples with the same variance of a proportion.

    p(1-p) over the cluster variance, clipped to Kish's size and n; Kish's size where the variance
    is zero. Shapes: correct (n,) of 0 and 1, groups (n,).

    >>> effective_size(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    2.0
    """
    p, n, least = _share(correct), len(correct), kish(groups)
    error = standard_error(correct, groups)
    if error == 0 or not np.isfinite(error):
        return least
    return float(np.clip(p * (1 - p) / error**2, least, n))


def _share(values: Values) -> float:
    return float(np.clip(values.mean(), 0.0, 1.0))  # shares of a mean may lie beyond 0 and 1


def wilson(p: float, n: float, degrees: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, with a t quantile for few groups.

    `n` may be fractional (an effective size); `degrees` of freedom below 1 give (0, 1).
    Source: Wilson 1927; t for few clusters: Dean & Pagano 2015.

    >>> low, high = wilson(0.5, 100, 1e9)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    from scipy.special import stdtrit  # here: help texts name tasks and wait for no scipy

    if degrees < 1 or n <= 0:
        return 0.0, 1.0
    t = float(stdtrit(degrees, 0.5 + confidence / 2))
    middle = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * np.sqrt(p * (1 - p) / n + t * t / (4 * n * n))
    # Rounding must not put an end on the wrong side of the value itself.
    return float(np.clip(middle - half, 0.0, p)), float(np.clip(middle + half, p, 1.0))


def accuracy_interval(correct: Values, groups: Groups, inflation: float = 1.0) -> Interval:
    """Share of correct rows with its 95 % interval: (value, low, high).

    Shapes: correct (n,) of 0 and 1, groups (n,). `inflation` is the variance of the estimate over
    that of independent examples; the effective size is divided by it.

    >>> value, low, high = accuracy_interval(np.ones(50), np.arange(50))
    >>> value, round(low, 2), high
    (1.0, 0.93, 1.0)
    """
    value = _share(correct)
    size = effective_size(correct, groups) / inflation
    low, high = wilson(value, size, kish(groups) - 1)
    return value, low, high
