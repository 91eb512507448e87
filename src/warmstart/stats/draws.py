"""Random draws of whole blocks that keep the classes in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Rows


def spread_order(
    labels: NDArray[np.int64], groups: Sequence[Rows], rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Rows in a random order of whole blocks, and where each block ends.

    Every prefix holds the classes in about their proportions. Shapes: labels (n,), groups
    partition the n rows into G blocks; returns (n,) and (G,).

    >>> pairs = [np.array([0, 1]), np.array([2]), np.array([3])]
    >>> rows, ends = spread_order(np.array([0, 0, 1, 1]), pairs, np.random.default_rng(0))
    >>> sorted(rows.tolist()), int(ends[-1])
    ([0, 1, 2, 3], 4)
    """
    first = np.array([labels[rows[0]] for rows in groups])
    place = np.empty(len(groups))
    for label in np.unique(first):
        members = rng.permutation(np.flatnonzero(first == label))
        place[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    ordered = [groups[block] for block in np.argsort(place)]
    return np.concatenate(ordered), np.cumsum([len(rows) for rows in ordered])
