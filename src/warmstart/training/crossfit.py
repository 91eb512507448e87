"""Calibration of scores that were held out, so that no row is calibrated by itself."""

from __future__ import annotations

import numpy as np

from warmstart.solve.ridge import Array
from warmstart.solve.temperature import (
    Calibration,
    Labels,
    fit_temperature_and_bias,
    log_probabilities,
)


def cross_calibrated(scores: Array, labels: Labels, fold: Labels) -> tuple[Array, Calibration]:
    """Probabilities of held-out rows, each calibrated on other folds, and the calibration of all.

    Where a single fold was held out, it is calibrated half by half. Shapes: scores (n, K),
    labels (n,), fold (n,) with -1 for rows that no fold holds out (their probabilities are
    NaN); returns (n, K).

    >>> scores = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> p, _ = cross_calibrated(scores, np.array([0, 1, 0, 1]), np.array([0, 0, 1, -1]))
    >>> bool(p[0, 0] > 0.5), bool(np.isnan(p[3]).all())
    (True, True)
    """
    held = np.flatnonzero(fold >= 0)
    part = fold[held]
    if len(np.unique(part)) < 2:
        part = np.arange(len(held)) % 2
    probabilities = np.full(scores.shape, np.nan)
    for number in np.unique(part):
        inside, others = held[part == number], held[part != number]
        calibration = fit_temperature_and_bias(scores[others], labels[others])
        probabilities[inside] = np.exp(log_probabilities(scores[inside], calibration))
    return probabilities, fit_temperature_and_bias(scores[held], labels[held])
