"""Is there any signal? A permutation test of leave-one-out error, exact at every size.

The statistic is the class-weighted squared leave-group-out residual of ridge fits, best over a
small grid; every permutation takes the same maximum. Dependent examples are permuted as groups.
Sources: Ojala & Garriga 2010, "Permutation Tests for Studying Classifier Performance";
early stop: Besag & Clifford 1991, "Sequential Monte Carlo p-values".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import Groups, number_groups


def spread_order(
    labels: NDArray[np.int64], group_rows: Sequence[Rows], rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Rows in a random order of whole groups, and where each group ends.

    Every prefix holds the classes in about their proportions. Shapes: labels (n,), G groups
    partition the n rows; returns (n,) and (G,).

    >>> pairs = [np.array([0, 1]), np.array([2]), np.array([3])]
    >>> rows, ends = spread_order(np.array([0, 0, 1, 1]), pairs, np.random.default_rng(0))
    >>> sorted(rows.tolist()), int(ends[-1])
    ([0, 1, 2, 3], 4)
    """
    first = np.array([labels[rows[0]] for rows in group_rows])
    place = np.empty(len(group_rows))
    for label in np.unique(first):
        members = rng.permutation(np.flatnonzero(first == label))
        place[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    ordered = [group_rows[group] for group in np.argsort(place)]
    return np.concatenate(ordered), np.cumsum([len(rows) for rows in ordered])


ENOUGH = 20  # exceedances after which the p-value is settled (Besag & Clifford)
# Permutations without any exceedance that settle it too, at p = 0.005. At a level of 0.01 this adds
# 0.0005 to the false positive rate.
PLENTY = 199
SAME = 0.02  # share of permutations that change no label above which no p-value comes near 0.01
LEAST = 100  # null accuracies in any case: their 99th percentile is reported
TIE = 1e-5  # share of the statistic that rounding in float32 may move: ties count as exceedances
_BATCH = 50  # permutations solved in one matrix product


Operators = Sequence[NDArray[np.float32]]
# From leave-group-out operators and draws (n, m) of labels to the statistic and the score (m,).
Statistics = Callable[[Operators, Labels], tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """p-value, and scores of the best grid member under the true and permuted labels."""

    p: float
    accuracy: float
    null_accuracies: NDArray[np.float64]
    permutations: int
    moved: float  # how freely labels could be permuted, 0 to 1


def group_shuffler(labels: Labels, groups: Groups) -> Callable[[np.random.Generator], Labels]:
    """Shuffle labels among groups of equal size; inside them where most rows lie in mixed ones.

    A group's labels travel together, in any order within it, so that one mixed group (an image
    filed under two classes) is a group like others. Shapes: labels, groups (n,).

    >>> pairs = np.array([0, 0, 1, 1])
    >>> out = group_shuffler(pairs, pairs)(np.random.default_rng(1))
    >>> bool(out[0] == out[1] and out[2] == out[3])
    True
    """
    _, index = np.unique(groups, return_inverse=True)
    n_groups = int(index.max()) + 1
    if n_groups == len(labels):
        return lambda rng: rng.permutation(labels)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    by_size = [
        np.stack([rows for rows in members if len(rows) == size])
        for size in {len(rows) for rows in members}
    ]

    def shuffle_inside(rng: np.random.Generator) -> Labels:
        shuffled = labels.copy()
        for rows in members:
            shuffled[rows] = rng.permutation(labels[rows])
        return shuffled

    def shuffle_among(rng: np.random.Generator) -> Labels:
        shuffled = labels.copy()
        for same in by_size:  # (groups, size)
            sources = same[rng.permutation(len(same))]
            if same.shape[1] == 1:
                shuffled[same] = labels[sources]
                continue
            for rows, source in zip(same, sources, strict=True):
                shuffled[rows] = rng.permutation(labels[source])
        return shuffled

    n_mixed = sum(len(rows) for rows in members if len(np.unique(labels[rows])) > 1)
    return shuffle_inside if 2 * n_mixed > len(labels) else shuffle_among


def movable(labels: Labels, draws: Labels) -> float:
    """Share of labels that permutations change, over that of free ones: 1 for groups of one.

    Shapes: labels (n,), draws (n, m).
    """
    shares = np.bincount(labels) / len(labels)
    free = 1.0 - float((shares**2).sum())
    return float((draws != labels[:, None]).mean()) / max(free, 1e-12)


def permutation_test(
    inverses: Sequence[Array],
    labels: Labels,
    group_rows: Sequence[Rows],
    rng: np.random.Generator,
    permutations: int,
    statistics: Statistics | None = None,
) -> PermutationTest:
    """Test the labels against permutations of themselves.

    Shapes: inverses, one (n, n) matrix G of `solve.ridge` per grid member; labels (n,) in
    0..K-1; groups of dependent rows partition the n. `statistics`: by default those of classes.
    """
    statistics = statistics or class_statistics
    operators = [_leave_out_operator(G, group_rows) for G in inverses]
    shuffle = group_shuffler(labels, number_groups(group_rows))
    true_t, true_accuracy = statistics(operators, labels[:, None])
    least = float(true_t[0]) - TIE * abs(float(true_t[0]))
    nulls, accuracies = np.empty(0), np.empty(0)
    p, moved, same = None, 1.0, 0
    while len(nulls) < permutations and (p is None or len(nulls) < LEAST):
        batch = min(_BATCH, permutations - len(nulls))
        draws = np.stack([shuffle(rng) for _ in range(batch)], axis=1)
        moved = movable(labels, draws)
        same += int((draws == labels[:, None]).all(axis=0).sum())
        t, accuracy = statistics(operators, draws)
        nulls, accuracies = np.append(nulls, t), np.append(accuracies, accuracy)
        exceed = np.cumsum(nulls >= least)
        if p is None and exceed[-1] >= ENOUGH:
            p = ENOUGH / (1 + int(np.searchsorted(exceed, ENOUGH)))
        if len(nulls) >= PLENTY and not exceed[-1]:
            break
    if p is None:
        p = (1 + int((nulls >= least).sum())) / (len(nulls) + 1)
    if len(group_rows) < len(labels) and same > SAME * len(nulls):
        moved = 0.0  # so few groups that they have hardly any other order
    return PermutationTest(p, float(true_accuracy[0]), accuracies, len(nulls), moved)


def _leave_out_operator(G: Array, group_rows: Sequence[Rows]) -> NDArray[np.float32]:
    """R with R Y = leave-group-out residuals for any Y. Shapes: (n, n)."""
    operator = G / np.diag(G)[:, None]
    for rows in group_rows:
        if len(rows) > 1:
            operator[rows] = np.linalg.solve(G[np.ix_(rows, rows)], G[rows])
    return operator.astype(np.float32)


def class_statistics(
    operators: Operators, draws: Labels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best statistic over the grid, and that member's accuracy. Shapes: draws (n, m); both (m,)."""
    n, m = draws.shape
    k = int(draws.max()) + 1
    onehot = np.eye(k, dtype=np.float32)[draws]  # (n, m, K)
    weights = 1.0 / np.bincount(draws[:, 0], minlength=k)[draws]  # permuting keeps the counts
    best, accuracy = np.full(m, -np.inf), np.zeros(m)
    for operator in operators:
        residual = (operator @ onehot.reshape(n, m * k)).reshape(n, m, k)
        t = -(weights * (residual.astype(np.float64) ** 2).sum(axis=2)).sum(axis=0)
        correct = ((onehot - residual).argmax(axis=2) == draws).mean(axis=0)
        is_better = t > best
        best = np.where(is_better, t, best)
        accuracy = np.where(is_better, correct, accuracy)
    return best, accuracy
