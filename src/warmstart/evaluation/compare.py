"""Runs on the same examples: how right each is, every pair, who wins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.records.comparison import ComparedRows, Pair
from warmstart.records.summary import Estimate
from warmstart.stats.intervals import Blocks, proportion
from warmstart.stats.paired import hits_difference, holm, mean_interval

Accuracy = tuple[float, float, float]  # value, low, high
SIGNIFICANT = 0.05


def inflation_of(rows: ComparedRows, claims: Sequence[Estimate | None]) -> float:
    """Variance of a difference over that of independent hits.

    1 on a test part, or a hold-out that the user set apart: there the finished models
    themselves, or ones that differ little from them, are compared. Elsewhere every row was
    answered by a model that learnt without it.
    """
    is_held = all(claim is not None and claim.method == "holdout" for claim in claims)
    return 1.0 if rows == "test" or is_held else MODEL_VARIANCE


def accuracies(hits: NDArray[np.float64], blocks: Blocks, inflation: float = 1.0) -> list[Accuracy]:
    """Accuracy of each run with its 95 % interval. Shapes: hits (M, n), blocks (n,)."""
    return [proportion(row, blocks, inflation) for row in hits]


def means(credits: NDArray[np.float64], blocks: Blocks, inflation: float = 1.0) -> list[Accuracy]:
    """The score of each run where rows add other values than 0 and 1 to it.

    Shapes: credits (M, n), blocks (n,).
    """
    found = []
    for row in credits:
        value, low, high = mean_interval(row, blocks)
        wider = float(np.sqrt(inflation))
        found.append((value, value - wider * (value - low), value + wider * (high - value)))
    return found


def pairs(
    names: Sequence[str], hits: NDArray[np.float64], blocks: Blocks, inflation: float = 1.0
) -> tuple[Pair, ...]:
    """Every pair of runs, in the order of `names`.

    A run wins where the difference is more than chance for all pairs together (Holm).
    Shapes: hits (M, n), blocks (n,).

    >>> sure, unsure = np.ones(60), np.tile([1.0, 0.0, 1.0], 20)
    >>> found = pairs(["a", "b", "c"], np.stack([sure, unsure, unsure]), np.arange(60))
    >>> [(pair.a, pair.b, pair.winner) for pair in found]
    [('a', 'b', 'a'), ('a', 'c', 'a'), ('b', 'c', None)]
    """
    both = list(combinations(range(len(names)), 2))
    gaps = [hits_difference(hits[a], hits[b], blocks, inflation) for a, b in both]
    adjusted = holm([gap.p for gap in gaps])
    return tuple(
        Pair(
            a=names[a],
            b=names[b],
            difference=gap.value,
            low=gap.low,
            high=gap.high,
            n=hits.shape[1],
            p=p,
            winner=_winner(names[a], names[b], gap.value, p),
        )
        for (a, b), gap, p in zip(both, gaps, adjusted, strict=True)
    )


def _winner(a: str, b: str, difference: float, p: float) -> str | None:
    if p >= SIGNIFICANT:
        return None
    return a if difference > 0 else b
