"""Average precision, label by label, and what each row adds to its mean.

The average precision of a label is the mean, over the rows that have it, of the precision among
all rows that are ranked as high (Everingham et al. 2010, "The PASCAL VOC challenge", without
interpolation). So the mean over labels is a sum over rows, whose shares can be paired.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array


def precision_shares(answers: Array, truth: Array) -> Array:
    """What each row adds to the mean average precision, which is the mean of these.

    The average precision itself, and how far the precision at a row's own labels is from it: so
    that the spread of these is that of the score, not of how many rows have a label.
    Labels that no row has count nothing. Rows that tie are ranked together.
    Shapes: answers (n, K), truth (n, K) of 0 and 1; returns (n,).

    >>> answers, truth = np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]])
    >>> precision_shares(answers, truth).round(3).tolist()
    [1.083, 0.833, 0.583]
    """
    n, off, total = len(truth), np.zeros(len(truth)), 0.0
    seen = np.flatnonzero(truth.any(axis=0))
    for label in seen:
        has = truth[:, label] > 0
        found = precisions(answers[:, label], has)[has]
        total += float(found.mean())
        off[has] += (found - found.mean()) / has.sum()
    k = max(len(seen), 1)
    shares: Array = total / k + off * n / k
    return shares


def precisions(scores: Array, has: NDArray[np.bool_]) -> Array:
    """The precision among all rows with a score as high as each row's. Shapes: (n,) all.

    >>> precisions(np.array([0.5, 0.5, 0.9]), np.array([True, False, True])).round(3).tolist()
    [0.667, 0.667, 1.0]
    """
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    last = np.searchsorted(falling, falling, side="right") - 1  # of those that tie
    hits = np.cumsum(has[order])
    found = np.empty(len(scores))
    found[order] = hits[last] / (last + 1)
    return found


def quick_precisions(scores: NDArray[np.float32], truth: NDArray[np.float32]) -> Array:
    """Mean average precision of many draws at once; ties are not looked for.

    Shapes: (n, m, K) both; returns (m,).
    """
    order = np.argsort(-scores, axis=0)
    has = np.take_along_axis(truth, order, axis=0)
    ranked = np.cumsum(has, axis=0) / np.arange(1, len(scores) + 1)[:, None, None]
    plus = has.sum(axis=0)
    each = (ranked * has).sum(axis=0) / np.maximum(plus, 1)
    counted = np.maximum((plus > 0).sum(axis=1), 1)
    found: Array = each.sum(axis=1) / counted
    return found
