"""Folds of rows with several labels each: every label in proportion, blocks whole.

Source: Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label data": rows
with the label that has the fewest left come first, and go to the fold that wants it the most.
Blocks of dependent rows take the place of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def stratify(sets: NDArray[Any], block: Numbers, n_folds: int, rng: np.random.Generator) -> Numbers:
    """The fold of each block, 0..n_folds-1; none is empty.

    Shapes: sets (n, K) of 0 and 1, block (n,) in 0..G-1 with G >= n_folds; returns (G,).

    >>> sets = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> found = stratify(sets, np.arange(4), 2, np.random.default_rng(0))
    >>> sorted(found[:2].tolist()), sorted(found[2:].tolist())
    ([0, 1], [0, 1])
    """
    n_blocks, n_labels = int(block.max()) + 1, sets.shape[1]
    held = np.zeros((n_blocks, n_labels))
    np.add.at(held, block, sets.astype(float))
    sizes = np.bincount(block).astype(float)
    wanted = np.tile(held.sum(axis=0) / n_folds, (n_folds, 1))
    room = np.full(n_folds, sizes.sum() / n_folds)
    found = np.full(n_blocks, -1, dtype=np.int64)
    left = rng.permutation(n_blocks)
    while len(left):
        counts = (held[left] > 0).sum(axis=0)
        label = int(np.where(counts > 0, counts, np.inf).argmin()) if counts.any() else -1
        has = left if label < 0 else left[held[left, label] > 0]
        for one in has[np.argsort(-sizes[has], kind="stable")]:
            fold = _neediest(wanted[:, label] if label >= 0 else room, room, rng)
            found[one] = fold
            wanted[fold] -= held[one]
            room[fold] -= sizes[one]
        left = left[found[left] < 0]
    return _filled(found, sizes, n_folds)


def _neediest(
    want: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator
) -> int:
    """The fold that wants it the most; of several, the emptiest; of those, any."""
    best = np.flatnonzero(want >= want.max() - 1e-9)
    best = best[room[best] >= room[best].max() - 1e-9]
    return int(best[rng.integers(len(best))])


def _filled(found: Numbers, sizes: NDArray[np.float64], n_folds: int) -> Numbers:
    """An empty fold takes the smallest block of the fold with the most of them."""
    for fold in range(n_folds):
        if not (found == fold).any():
            fullest = int(np.bincount(found, minlength=n_folds).argmax())
            members = np.flatnonzero(found == fullest)
            found[members[sizes[members].argmin()]] = fold
    return found
