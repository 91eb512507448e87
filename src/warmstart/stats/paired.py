"""Two models on the same examples: differences with intervals, p-values, many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.stats.intervals import Groups, Interval, Values, kish, standard_error

_PICKS = 1_000_000  # groups drawn at a time


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a - b over the same rows, its 95 % interval and a two-sided p."""

    value: float
    low: float
    high: float
    p: float


def difference(
    a: Values, b: Values, groups: Groups, rng: np.random.Generator, draws: int = 2000
) -> Difference:
    """Paired bootstrap over groups: percentile interval, p by the shifted distribution.

    Shapes: a, b, groups (n,). Source: Efron & Tibshirani 1993, ch. 16.

    >>> same = np.ones(8)
    >>> difference(same, same, np.arange(8), np.random.default_rng(0)).p
    1.0
    """
    gap = a - b
    _, index = np.unique(groups, return_inverse=True)
    n_groups = int(index.max()) + 1
    sums = np.bincount(index, weights=gap, minlength=n_groups)
    sizes = np.bincount(index, minlength=n_groups)
    means = np.empty(draws)
    count = max(_PICKS // n_groups, 1)
    for start in range(0, draws, count):
        # Some at a time: the same random numbers as all at once.
        picks = rng.integers(n_groups, size=(min(count, draws - start), n_groups))
        means[start : start + count] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    value = float(gap.mean())
    low, high = (float(q) for q in np.quantile(means, [0.025, 0.975]))
    extreme = int((np.abs(means - value) >= abs(value) - 1e-12).sum())
    return Difference(value, low, high, (1 + extreme) / (draws + 1))


def mean_interval(values: Values, groups: Groups) -> Interval:
    """Mean with its 95 % t interval, cluster-robust: (value, low, high).

    >>> mean_interval(np.array([1.0, 1.0, 1.0]), np.arange(3))
    (1.0, 1.0, 1.0)
    """
    from scipy.special import stdtrit  # here: help texts name tasks and wait for no scipy

    value, error = float(values.mean()), standard_error(values, groups)
    degrees = kish(groups) - 1
    if degrees < 1:
        return value, float("-inf"), float("inf")
    half = float(stdtrit(degrees, 0.975)) * error
    return value, value - half, value + half


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down adjustment, in their order. Source: Holm 1979.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


# ---- The difference of two accuracies on the same examples, where few of them differ.


def hits_difference(a: Values, b: Values, groups: Groups, inflation: float = 1.0) -> Difference:
    """Accuracy of a minus that of b with its 95 % t interval, cluster-robust, and its p-value.

    One example that only a has right is added, and one that only b has right: two models that
    agree on n examples have an interval of about ±3/n, where a bootstrap says ±0. The interval
    excludes 0 exactly where p < 0.05. `inflation` is the variance of the estimate over that of
    independent examples. Shapes: a, b and groups (n,).
    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data"; here with groups and a t quantile for few of them.

    >>> same = hits_difference(np.ones(100), np.ones(100), np.arange(100))
    >>> same.value, round(same.low, 3), round(same.high, 3), same.p
    (0.0, -0.028, 0.028, 1.0)
    """
    from scipy.special import stdtr

    value = float((a - b).mean())
    gap = np.append(a - b, [1.0, -1.0])
    groups = np.append(groups, groups.max() + np.array([1, 2]))
    degrees, factor = kish(groups) - 1, float(np.sqrt(inflation))
    middle, low, high = mean_interval(gap, groups)
    if degrees < 1:
        return Difference(value, -1.0, 1.0, 1.0)
    low, high = (middle + factor * (end - middle) for end in (low, high))
    p = 2 * float(stdtr(degrees, -abs(middle) / (standard_error(gap, groups) * factor)))
    return Difference(value, max(low, -1.0), min(high, 1.0), p)


# ---- Several models on the same examples: their order, and which of them tie.


@dataclass(frozen=True, slots=True)
class ModelRanking:
    """Row numbers of models from best to worst.

    `to_best[i]` is model `order[i]` minus the best. `ties` partitions the models: the members of
    each tie with its first, the best of them.
    """

    order: tuple[int, ...]
    to_best: tuple[Difference, ...]
    ties: tuple[tuple[int, ...], ...]


def rank_models(
    hits: NDArray[np.float64], groups: Groups, rng: np.random.Generator, inflation: float = 1.0
) -> ModelRanking:
    """Order models by their mean, equal means by row, and group those that tie.

    Two models tie where the 95 % interval of their paired difference contains 0. Ties are not
    transitive: the best forms one with all that tie with it, then the best of the rest, and so
    on. `inflation` is the variance of the estimate over that of independent examples.
    Shapes: hits (M, n), groups (n,).

    >>> hits = np.array([[1.0, 1, 1, 0] * 9, [0.0, 0, 0, 1] * 9, [1.0, 1, 1, 1] * 9])
    >>> ranking = rank_models(hits, np.arange(36), np.random.default_rng(0))
    >>> ranking.order, ranking.ties
    ((2, 0, 1), ((2,), (0,), (1,)))
    """

    def minus(i: int, best: int) -> Difference:
        return widen(difference(hits[i], hits[best], groups, rng), inflation)

    order = [int(i) for i in np.argsort(-hits.mean(axis=1), kind="stable")]
    to_best = [minus(i, order[0]) for i in order]
    ties, rest, gaps = [], order, to_best
    while rest:
        tie = tuple(i for i, gap in zip(rest, gaps, strict=True) if gap.low <= 0 <= gap.high)
        ties.append(tie)
        rest = [i for i in rest if i not in tie]
        gaps = [minus(i, rest[0]) for i in rest]
    return ModelRanking(tuple(order), tuple(to_best), tuple(ties))


def widen(gap: Difference, inflation: float) -> Difference:
    """The difference with an interval √inflation times as wide.

    >>> round(widen(Difference(0.1, 0.0, 0.3, 0.05), 4.0).high, 9)
    0.5
    """
    factor = float(np.sqrt(inflation))
    low = gap.value - factor * (gap.value - gap.low)
    return replace(gap, low=low, high=gap.value + factor * (gap.high - gap.value))
