"""Several models on the same examples: their order, and which of them tie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.stats.intervals import Blocks
from warmstart.stats.paired import Difference, difference


@dataclass(frozen=True, slots=True)
class Standing:
    """Models from best to worst, by their row in what was compared.

    `to_best[i]` is model `order[i]` minus the best. `groups` partitions the models: each
    begins with its best member, the others tie with that one.
    """

    order: tuple[int, ...]
    to_best: tuple[Difference, ...]
    groups: tuple[tuple[int, ...], ...]


def stand(
    hits: NDArray[np.float64], blocks: Blocks, rng: np.random.Generator, inflation: float = 1.0
) -> Standing:
    """Order models by their mean, equal means as given, and group those that tie.

    Two models tie where the 95 % interval of their paired difference holds 0. Ties do not
    carry on from pair to pair (a may tie with b, b with c, and a be better than c), so
    groups are made from the top: the best with all that tie with it, then the best of the
    rest with all that tie with that one. `inflation` is the variance of what is estimated
    over that of independent draws. Shapes: hits (M, n), blocks (n,).

    >>> hits = np.array([[1.0, 1, 1, 0] * 9, [0.0, 0, 0, 1] * 9, [1.0, 1, 1, 1] * 9])
    >>> standing = stand(hits, np.arange(36), np.random.default_rng(0))
    >>> standing.order, standing.groups
    ((2, 0, 1), ((2,), (0,), (1,)))
    """

    def minus(i: int, best: int) -> Difference:
        return widened(difference(hits[i], hits[best], blocks, rng), inflation)

    order = [int(i) for i in np.argsort(-hits.mean(axis=1), kind="stable")]
    to_best = [minus(i, order[0]) for i in order]
    groups, left, gaps = [], order, to_best
    while left:
        ties = [gap.low <= 0 <= gap.high for gap in gaps]
        groups.append(tuple(i for i, tied in zip(left, ties, strict=True) if tied))
        left = [i for i, tied in zip(left, ties, strict=True) if not tied]
        gaps = [minus(i, left[0]) for i in left]
    return Standing(tuple(order), tuple(to_best), tuple(groups))


def widened(gap: Difference, inflation: float) -> Difference:
    """The same difference with the ends of its interval further out by √inflation.

    >>> round(widened(Difference(0.1, 0.0, 0.3, 0.05), 4.0).high, 9)
    0.5
    """
    factor = float(np.sqrt(inflation))
    low, high = (
        gap.value - factor * (gap.value - gap.low),
        gap.value + factor * (gap.high - gap.value),
    )
    return replace(gap, low=low, high=high)
