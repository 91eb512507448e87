"""A leave-one-group-out probe, which the measurements share: which rows does it get right?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.records.summary import Evidence
from warmstart.solve import ridge
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Dual, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth

PENALTIES = (0.1, 1.0)


def not_measured(name: str, n: int, reason: str) -> Evidence:
    """Evidence without a value; `reason` is a sentence."""
    return Evidence(name=name, value=None, low=None, high=None, n=n, meaning=reason)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The probe of lowest log-loss and its scores (n, K), each row's without its group.

    `number` is the index of its kernel.
    """

    number: int
    penalty: float
    dual: Dual
    scores: Array
    calibration: Calibration
    target: Target = CLASSIFICATION

    def hits(self, labels: Truth) -> Array:
        """1 for each correct row, else 0; for other tasks each row's share of the score.

        Shapes: labels (n,), or as the target takes them; returns (n,).
        """
        return self.target.credits(self.scores, labels)

    def probabilities(self) -> Array:
        """Calibrated probabilities, each row's without its group. Shapes: (n, K)."""
        return self.target.answers(self.scores, self.calibration)


def best_left_out(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> LeftOut:
    """Fit ridge on each kernel at each penalty; return the fit of lowest log-loss.

    Shapes: kernels (n, n), labels (n,); groups partition the rows. The choice is slightly
    optimistic, equally so in everything that is compared.
    """
    targets = target.encode(labels, n_classes)
    # One by one: each holds an inverse as large as its kernel.
    fits = (
        _left_out(number, kernel, penalty, targets, labels, group_rows, target)
        for number, kernel in enumerate(kernels)
        for penalty in PENALTIES
    )
    return min(fits, key=lambda fit: fit[0])[1]


def best_probabilities(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> Array:
    """Probabilities of the probe that `best_left_out` returns, without keeping its inverse.

    Shapes: kernels (n, n), labels (n,); returns (n, K).
    """
    targets = target.encode(labels, n_classes)
    least, probabilities = np.inf, np.full(targets.shape, np.nan)
    for number, kernel in enumerate(kernels):
        for penalty in PENALTIES:
            loss, head = _left_out(number, kernel, penalty, targets, labels, group_rows, target)
            if loss < least:
                least, probabilities = loss, head.probabilities()
            del head  # before the next inverse is made
    return probabilities


def _left_out(
    number: int,
    kernel: Array,
    penalty: float,
    targets: Array,
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target,
) -> tuple[float, LeftOut]:
    """The log-loss of one probe, and the probe."""
    dual = ridge.fit(kernel, targets, penalty)
    scores = ridge.left_out(dual, group_rows)
    calibration = target.calibrate(scores, labels)
    loss = float(target.losses(scores, labels, calibration).mean())
    return loss, LeftOut(number, penalty, dual, scores, calibration, target)
