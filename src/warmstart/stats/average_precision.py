"""Average precision, label by label, and what each row adds to its mean.

The average precision of a label is the mean, over the rows that have it, of the precision among
all rows ranked as high (Everingham et al. 2010, "The PASCAL VOC challenge", without interpolation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from warmstart.solve.ridge import Array


def precision_shares(answers: Array, truth: Array) -> Array:
    """What each row adds to the mean average precision: the mean of these shares.

    A share is the mean average precision plus the deviations of the precision at the row's own
    labels. Labels without a row count nothing; rows that tie are ranked together.
    Shapes: answers (n, K), truth (n, K) of 0 and 1; returns (n,).

    >>> answers, truth = np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]])
    >>> precision_shares(answers, truth).round(3).tolist()
    [1.083, 0.833, 0.583]
    """
    n, deviations, total = len(truth), np.zeros(len(truth)), 0.0
    labels = np.flatnonzero(truth.any(axis=0))
    for label in labels:
        has = truth[:, label] > 0
        own = precisions(answers[:, label], has)[has]
        total += float(own.mean())
        deviations[has] += (own - own.mean()) / has.sum()
    k = max(len(labels), 1)
    shares: Array = total / k + deviations * n / k
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
    result = np.empty(len(scores))
    result[order] = hits[last] / (last + 1)
    return result


def quick_precisions(scores: NDArray[np.float32], truth: NDArray[np.float32]) -> Array:
    """Mean average precision of many draws at once, ties ignored. Shapes: (n, m, K) both; (m,)."""
    order = np.argsort(-scores, axis=0)
    has = np.take_along_axis(truth, order, axis=0)
    ranked = np.cumsum(has, axis=0) / np.arange(1, len(scores) + 1)[:, None, None]
    positives = has.sum(axis=0)
    precision = (ranked * has).sum(axis=0) / np.maximum(positives, 1)
    mean: Array = precision.sum(axis=1) / np.maximum((positives > 0).sum(axis=1), 1)
    return mean
