"""Which unlabelled examples to label next: uncertain, diverse, typical of many.

1. The uncertainty of an example is 1 minus the gap between its two most probable classes.
2. Candidates are the most uncertain examples, ten times as many as to choose.
3. k-means clusters them in the features of the head, weighted by uncertainty, one cluster for
   each example to choose; the first centres have the largest uncertainty * (distance to the
   labelled examples and the centres before)^2.
4. The candidate nearest to each centre is chosen, the cluster with the most uncertainty first.

Uncertainty alone chooses twenty images of the same thing, distance alone outliers. Sources:
Zhdanov 2019, "Diverse mini-batch active learning" (steps 2 to 4, and the ten); margin, Scheffer
et al. 2001; farthest-first centres, Gonzalez 1985. Measured by `bench run suggest`; other rules
are in bench/results/failed_ideas.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from warmstart.tasks.classify import CLASSIFICATION

Rows = NDArray[np.intp]
Values = NDArray[np.float64]
Points = NDArray[np.float32]

CANDIDATES = 10  # per example to choose
_LEAST_WEIGHT = 1e-6  # where the model is certain of all, distance alone decides
_CHUNK = 1024  # candidates whose distances to all labelled points are in memory at once


def choose_queries(
    probabilities: NDArray[np.floating],
    points: Points,
    labelled: Points,
    count: int,
    uncertainties: Values | None = None,
) -> Rows:
    """Up to `count` rows to label next, the most informative first.

    Shapes: probabilities (m, K), calibrated, K >= 2; points (m, d), the same examples in the
    features of the head; labelled (n, d), n >= 1; uncertainties (m,), by default those of the
    probabilities. Deterministic: ties go to the earlier row. Memory grows with m, not m^2 or m * n.

    >>> p = np.array([[0.5, 0.5], [0.6, 0.4], [0.5, 0.5], [1.0, 0.0]])
    >>> x = np.float32([[3.0], [3.1], [-3.0], [9.0]])
    >>> choose_queries(p, x, np.float32([[0.0]]), 2).tolist()
    [0, 2]
    """
    if uncertainties is None:
        uncertainties = CLASSIFICATION.uncertainty(probabilities)
    weights = np.maximum(uncertainties, _LEAST_WEIGHT)
    candidates = np.argsort(-weights, kind="stable")[: CANDIDATES * count]
    weights, inner = weights[candidates], points[candidates].astype(np.float64)
    gaps = _nearest_gaps(inner, labelled.astype(np.float64))
    first = _first_centres(weights, inner, gaps, count)
    chosen = _nearest_to_centres(weights, inner, first) if len(first) else first
    # Copies of labelled or chosen examples come last.
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    return np.asarray(candidates[np.concatenate([chosen, rest])[:count]])


def _first_centres(weights: Values, points: Values, gaps: Values, count: int) -> Rows:
    """Rows by the largest weight * squared distance, while there is any.

    Shapes: weights (m,), points (m, d), gaps (m,): squared distances to labelled points.
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


def _nearest_to_centres(weights: Values, points: Values, first: Rows) -> Rows:
    """The row nearest to the centre of each cluster, the cluster with the most weight first."""
    clusters = KMeans(len(first), init=points[first], n_init=1).fit(points, sample_weight=weights)
    sums = np.bincount(clusters.labels_, weights=weights)
    chosen = []
    for cluster in np.argsort(-sums, kind="stable"):
        rows = np.flatnonzero(clusters.labels_ == cluster)
        if len(rows):
            gaps = ((points[rows] - clusters.cluster_centers_[cluster]) ** 2).sum(axis=1)
            chosen.append(rows[gaps.argmin()])
    return np.array(chosen, dtype=np.intp)


def _nearest_gaps(points: Values, labelled: Values) -> Values:
    """Squared distance of each point to the nearest labelled one. Shapes: returns (m,)."""
    lengths = (labelled**2).sum(axis=1)
    nearest = np.empty(len(points))
    for first in range(0, len(points), _CHUNK):
        rows = points[first : first + _CHUNK]
        crossed = lengths - 2.0 * (rows @ labelled.T)
        nearest[first : first + _CHUNK] = (rows**2).sum(axis=1) + crossed.min(axis=1)
    return np.maximum(nearest, 0.0)
