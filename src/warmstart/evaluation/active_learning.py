"""Which unlabelled examples to label next: in doubt, unlike each other, typical of many.

1. Doubt of an example: 1 minus the gap between its two most probable classes.
2. The ten times as many examples as are asked for with the most doubt are candidates.
3. They are grouped by k-means in the features that the head listens to, weighted by doubt,
   into as many groups as examples are asked for; the first centres are the candidates with
   the largest doubt * (distance to what is labelled, or a centre already)^2.
4. The candidate nearest to the centre of each group is asked about,
5. the group with the most doubt in it first.

Doubt alone asks for twenty pictures of the same thing; distance alone asks for oddities.
Sources: Zhdanov 2019, "Diverse mini-batch active learning" (steps 2 to 4, and the ten);
doubt by the margin, Scheffer et al. 2001; first centres by the farthest example, Gonzalez
1985. Measured by `bench run suggest`; what other rules reached is in
bench/results/failed_ideas.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

Rows = NDArray[np.intp]
Values = NDArray[np.float64]
Points = NDArray[np.float32]

CANDIDATES = 10  # per example asked for
_LEAST_DOUBT = 1e-6  # where the model is certain of all, distance alone decides
_BLOCK = 1024  # candidates whose distances to all known points are held at once


def doubt(probabilities: NDArray[np.floating]) -> Values:
    """1 minus the gap between the two largest probabilities, in 0..1. Shapes: (m, K) to (m,).

    >>> doubt(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])).tolist()
    [1.0, 0.5, 0.0]
    """
    best = np.partition(probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(1.0 - (best[:, 1] - best[:, 0]))


def choose_queries(
    probabilities: NDArray[np.floating],
    points: Points,
    known: Points,
    count: int,
    doubts: Values | None = None,
) -> Rows:
    """Rows to label next, the most telling first; all of them where there are no more.

    Shapes: probabilities (m, K), calibrated, K >= 2; points (m, d), the same examples in the
    features that the head listens to; known (n, d), the labelled ones, n >= 1. Nothing is
    drawn: ties go to the earlier row. `doubts` (m,) stand for those of
    classes. Memory grows with m, never with m^2 or m * n.

    >>> p = np.array([[0.5, 0.5], [0.6, 0.4], [0.5, 0.5], [1.0, 0.0]])
    >>> x = np.float32([[3.0], [3.1], [-3.0], [9.0]])
    >>> choose_queries(p, x, np.float32([[0.0]]), 2).tolist()
    [0, 2]
    """
    weights = np.maximum(doubt(probabilities) if doubts is None else doubts, _LEAST_DOUBT)
    candidates = np.argsort(-weights, kind="stable")[: CANDIDATES * count]
    weights, inner = weights[candidates], points[candidates].astype(np.float64)
    first = _spread(weights, inner, _to_nearest(inner, known.astype(np.float64)), count)
    chosen = _typical(weights, inner, first) if len(first) else first
    # Copies of what is known or chosen are asked about only where nothing else is left.
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    return np.asarray(candidates[np.concatenate([chosen, rest])[:count]])


def _spread(weights: Values, points: Values, gaps: Values, count: int) -> Rows:
    """Rows by the largest weight * squared distance to what came before, while there is any.

    Shapes: weights (m,), points (m, d), gaps (m,): squared distances to what is known.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        scores = weights * gaps
        row = int(scores.argmax())
        if scores[row] <= 0.0:
            break
        chosen.append(row)
        gaps = np.minimum(gaps, ((points - points[row]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.intp)


def _typical(weights: Values, points: Values, first: Rows) -> Rows:
    """The row nearest to the centre of each group, the group with the most weight first."""
    groups = KMeans(len(first), init=points[first], n_init=1).fit(points, sample_weight=weights)
    sums = np.bincount(groups.labels_, weights=weights)
    chosen = []
    for group in np.argsort(-sums, kind="stable"):
        rows = np.flatnonzero(groups.labels_ == group)
        if len(rows):
            gaps = ((points[rows] - groups.cluster_centers_[group]) ** 2).sum(axis=1)
            chosen.append(rows[gaps.argmin()])
    return np.array(chosen, dtype=np.intp)


def _to_nearest(points: Values, known: Values) -> Values:
    """Squared distance of each point to the nearest known one. Shapes: (m, d), (n, d) to (m,)."""
    lengths = (known**2).sum(axis=1)
    nearest = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        rows = points[start : start + _BLOCK]
        crossed = lengths - 2.0 * (rows @ known.T)
        nearest[start : start + _BLOCK] = (rows**2).sum(axis=1) + crossed.min(axis=1)
    return np.maximum(nearest, 0.0)
