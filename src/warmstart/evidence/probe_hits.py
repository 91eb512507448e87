"""Which rows a simple head gets right without having seen them or their block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve import ridge
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Dual, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth

PENALTIES = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A head of least log-loss, and what it says of each row without its block.

    Shapes: scores (n, K). `number` is the kernel's place among those tried.
    """

    number: int
    penalty: float
    dual: Dual
    scores: Array
    calibration: Calibration
    target: Target = CLASSIFICATION

    def hits(self, labels: Truth) -> Array:
        """1 where the row is named right, else 0; what each row adds to the score elsewhere.

        Shapes: labels (n,), or as the target takes them; returns (n,).
        """
        return self.target.credits(self.scores, labels)

    def probabilities(self) -> Array:
        """Calibrated probabilities, each row's without its block. Shapes: (n, K)."""
        return self.target.answers(self.scores, self.calibration)


def best_left_out(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> LeftOut:
    """Ridge on each kernel at each penalty; the pair of least log-loss is kept.

    Shapes: kernels (n, n), labels (n,); groups partition the rows. The choice flatters a
    little, alike in whatever is compared.
    """
    targets = target.coded(labels, n_classes)
    # One by one: each holds an inverse as large as its kernel.
    tried = (
        _left_out(number, kernel, penalty, targets, labels, group_rows, target)
        for number, kernel in enumerate(kernels)
        for penalty in PENALTIES
    )
    return min(tried, key=lambda pair: pair[0])[1]


def best_probabilities(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> Array:
    """What the head that `best_left_out` finds says of each row; its inverse is let go.

    Shapes: kernels (n, n), labels (n,); returns (n, K).
    """
    targets = target.coded(labels, n_classes)
    least, found = np.inf, np.full(targets.shape, np.nan)
    for number, kernel in enumerate(kernels):
        for penalty in PENALTIES:
            loss, head = _left_out(number, kernel, penalty, targets, labels, group_rows, target)
            if loss < least:
                least, found = loss, head.probabilities()
            del head  # before the next inverse is made
    return found


def _left_out(
    number: int,
    kernel: Array,
    penalty: float,
    targets: Array,
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target,
) -> tuple[float, LeftOut]:
    """The log-loss of one head, and the head."""
    dual = ridge.fit(kernel, targets, penalty)
    scores = ridge.left_out(dual, group_rows)
    calibration = target.calibrate(scores, labels)
    loss = float(target.losses(scores, labels, calibration).mean())
    return loss, LeftOut(number, penalty, dual, scores, calibration, target)
