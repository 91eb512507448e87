"""Calibration of scores that were held out, so that no row is calibrated by itself."""

from __future__ import annotations

import numpy as np

from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.tasks.classify import CLASSES
from warmstart.tasks.task import Target, Truth

LEAST = 10  # held-out rows below which the fitted head's calibration says more
PARTS = 5


def cross_parts(blocks: Labels) -> Labels:
    """Which of five parts each held-out row is in; blocks stay whole, neighbours are apart.

    Not the folds of the trainings: of two networks that learnt from a half each one is surer of
    itself, and a scale set by one is wrong for the other. A part has rows of both.

    >>> cross_parts(np.array([7, 7, 9, 12, 30, 31, 40])).tolist()
    [0, 0, 1, 2, 3, 4, 0]
    """
    numbers: Labels = np.unique(blocks, return_inverse=True)[1]
    return numbers % PARTS


def cross_calibrated(
    scores: Array,
    labels: Truth,
    fold: Labels,
    blocks: Labels,
    before: Calibration,
    target: Target = CLASSES,
) -> tuple[Array, Calibration]:
    """Probabilities of held-out rows, each calibrated on other parts, and the calibration of all.

    A temperature alone: what one training leans to, of two that learnt from a half each, the
    other leans away from, so that a bias a class says nothing of the network that ships.
    Where few rows were held out, `before`, the calibration of the head that training began with,
    is kept. Shapes: scores (n, K), labels and blocks (n,), fold (n,) with -1 for rows that no
    fold holds out (their probabilities are NaN); returns (n, K).

    >>> scores, labels = np.eye(2)[np.arange(24) % 2], np.arange(24) % 2
    >>> fold = np.where(np.arange(24) < 22, np.arange(24) % 3, -1)
    >>> p, _ = cross_calibrated(scores, labels, fold, np.arange(24), Calibration(1.0, np.zeros(2)))
    >>> bool(p[0, 0] > 0.5), bool(np.isnan(p[23]).all())
    (True, True)
    """
    held = np.flatnonzero(fold >= 0)
    part = cross_parts(blocks[held])
    if len(held) < LEAST or len(np.unique(part)) < 2:
        kept = np.full(scores.shape, np.nan)
        kept[held] = target.answers(scores[held], before)
        return kept, before
    probabilities = np.full(scores.shape, np.nan)
    for number in np.unique(part):
        inside, others = held[part == number], held[part != number]
        calibration = target.recalibrate(scores[others], labels[others])
        probabilities[inside] = target.answers(scores[inside], calibration)
    return probabilities, target.recalibrate(scores[held], labels[held])
