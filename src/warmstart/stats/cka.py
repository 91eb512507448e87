"""What fine-tuning leaves of a network: similarity of features, agreement of predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]
LEAST = 4  # rows: with fewer the unbiased estimate does not exist


def cka(before: Matrix, after: Matrix) -> float:
    """Linear centred kernel alignment of two feature matrices of the same rows, debiased.

    1: equal up to rotation and scale; about 0: nothing in common; a little below 0 by chance.
    Two constant matrices give 1, one of them 0, and so do values that are not finite.

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", §3, with the
    unbiased products of Song et al. 2012, "Feature Selection via Dependence Maximization", §2.3,
    as in Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same Things?", §3: the plain
    form comes near 1 where features outnumber rows. Time and memory grow with n².
    Shapes: before (n, d1), after (n, d2).
    Raises: ValueError for fewer than 4 rows, or unequal numbers of rows.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 500))
    >>> round(cka(x, 3 * x[:, ::-1]), 3), round(abs(cka(x, rng.normal(size=(60, 300)))), 1)
    (1.0, 0.0)
    """
    if len(before) != len(after) or len(before) < LEAST:
        raise ValueError(
            f"{len(before)} and {len(after)} rows of features; give the same {LEAST} or more."
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return 0.0
    one, two = _centred(before), _centred(after)
    own = (float((one * one).sum()), float((two * two).sum()))
    if not all(own):
        return float(own[0] == own[1])
    return float((one * two).sum()) / float(np.sqrt(own[0]) * np.sqrt(own[1]))


def agreement(before: Matrix, after: Matrix) -> float:
    """Share of rows whose largest score is in the same column. Shapes: (n, K) both.

    >>> agreement(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.4, 0.6], [0.3, 0.7]]))
    0.5
    """
    return float((before.argmax(axis=1) == after.argmax(axis=1)).mean())


def _centred(features: Matrix) -> NDArray[np.float64]:
    """The U-centred Gram matrix of features of unit size: (n, n), diagonal 0.

    Székely & Rizzo 2014, "Partial Distance Correlation with Methods for Dissimilarities", §2.
    """
    n = len(features)
    values = features.astype(np.float64)
    values = values - values.mean(axis=0)
    size = np.sqrt((values**2).mean())
    # Rounding of a mean is no difference between rows.
    if size <= 1e-9 * np.abs(features).max(initial=0.0):
        return np.zeros((n, n))
    values /= size
    gram: NDArray[np.float64] = values @ values.T
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(axis=0) / (n - 2)
    gram += gram.sum() / ((n - 1) * (n - 2)) - rows[:, None] - rows
    np.fill_diagonal(gram, 0.0)
    return gram
