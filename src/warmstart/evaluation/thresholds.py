"""From which probability on a label is named: what gives the best F1 on rows left out.

Source: Lipton, Elkan & Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1
measure": on calibrated probabilities the best threshold is half the F1 that it reaches, so that
it never lies above 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.stats.intervals import Values

LEAST = 10  # rows that have a label, below which 0.5 is as good a threshold as can be told


def best_thresholds(answers: NDArray[np.float64], truth: NDArray[Any]) -> Values:
    """For each label the threshold of best F1, half way to the next probability below.

    Shapes: (n, K) both; returns (K,), each between 0 and 1.

    >>> p = np.linspace(0.02, 1.0, 50)[:, None]
    >>> best_thresholds(p, (p > 0.4).astype(float)).round(2).tolist()
    [0.41]
    """
    found = np.full(answers.shape[1], 0.5)
    for k in np.flatnonzero(truth.sum(axis=0) >= LEAST):
        order = np.argsort(-answers[:, k], kind="stable")
        p, has = answers[order, k], truth[order, k] > 0
        last = np.append(p[1:] < p[:-1], True)  # ties are named together
        f1 = 2 * np.cumsum(has) / (np.arange(1, len(p) + 1) + has.sum())
        best = int(np.where(last, f1, -1.0).argmax())
        below = p[best + 1] if best + 1 < len(p) else 0.0
        found[k] = (p[best] + below) / 2
    return found


def f1_of(named: NDArray[np.bool_], has: NDArray[np.bool_]) -> Values:
    """F1 of each column; 0 where nothing is named and nothing there. Shapes: (n, K); (K,).

    >>> f1_of(np.array([[True], [True]]), np.array([[True], [False]])).round(3).tolist()
    [0.667]
    """
    both = (named & has).sum(axis=0)
    found: Values = 2 * both / np.maximum(named.sum(axis=0) + has.sum(axis=0), 1)
    return found
