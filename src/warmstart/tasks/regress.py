"""A number: squared error on the standardised target, R², intervals by left-out errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from warmstart.records.data import Task
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.tasks.task import Operators, Target, Truth
from warmstart.tasks.words import NUMBER_WORDS, Words

BINS, LEAST_A_BIN = 10, 5  # equally full bins that stratify folds and samples
_LEAST = 1e-12


def as_text(value: float) -> str:
    """A number in records: the shortest text that reads back the same.

    >>> as_text(3.50), as_text(0.1 + 0.2)
    ('3.5', '0.30000000000000004')
    """
    return f"{value:.17g}" if float(f"{value:.12g}") != value else f"{value:.12g}"


@dataclass(frozen=True, slots=True)
class Regression(Target):
    """Truth: (value - mean) / spread of the training rows, (n,).

    So losses are squared errors as shares of the variance, whatever the unit. The scores of a
    ridge are answers, without calibration; `natural` converts answers to the user's unit.
    """

    mean: float = 0.0
    spread: float = 1.0

    task: ClassVar[Task] = "regress"
    metric: ClassVar[str] = "r2"
    words: ClassVar[Words] = NUMBER_WORDS

    @classmethod
    def of(cls, values: Array) -> Regression:
        """The target with mean and spread of values (n,), not all equal.

        >>> Regression.of(np.array([1.0, 3.0]))
        Regression(mean=2.0, spread=1.0)
        """
        return cls(float(values.mean()), float(values.std()))

    def natural(self, answers: Array) -> Array:
        """Values in the user's unit. Shapes: any, kept.

        >>> Regression(mean=10.0, spread=2.0).natural(np.array([1.0])).tolist()
        [12.0]
        """
        return np.asarray(self.mean + self.spread * answers)

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        return (np.array([float(label) for label in labels]) - self.mean) / self.spread

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        return np.asarray(truth[:, None])

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        return Calibration(1.0, np.zeros(scores.shape[1]))

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        return np.asarray(calibration.scale * scores + calibration.bias)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        return np.asarray((answers[:, 0] - truth) ** 2)

    def model_calibration(self, calibration: Calibration) -> Calibration:
        return Calibration(self.spread * calibration.scale, self.natural(calibration.bias))

    def credits(self, answers: Array, truth: Truth) -> Array:
        """1 - squared error / variance of these rows; the mean is R².

        >>> Regression().credits(np.array([[1.0], [0.0]]), np.array([1.0, -1.0])).tolist()
        [1.0, 0.0]
        """
        return 1 - self.answer_losses(answers, truth) / max(float(truth.var()), _LEAST)

    def score_error(self, score: float, n: float) -> float:
        """For large n: Olkin & Finn 1995, "Correlations redux", eq. 4."""
        r2 = float(np.clip(score, 0.0, 1.0))
        return float(np.sqrt(4 * r2 / n) * (1 - r2))

    def blind_loss(self, truth: Truth) -> float:
        return float(truth.var())

    def fold_strata(self, truth: Truth) -> Labels:
        return self.strata(truth)

    def strata(self, truth: Truth) -> Labels:
        """Bins of about as many rows each, by size.

        >>> values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 9.0, 8.0, 7.0, 6.0])
        >>> Regression().strata(values).tolist()
        [1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
        """
        bins = int(np.clip(len(truth) // LEAST_A_BIN, 1, BINS))
        rank = np.argsort(np.argsort(truth, kind="stable"), kind="stable")
        return np.asarray(rank * bins // len(truth), dtype=np.int64)

    def identities(self, truth: Truth) -> Labels:
        return np.unique(truth, return_inverse=True)[1]

    def blind_score(self, truth: Truth) -> float:
        return 0.0

    def n_outputs(self, truth: Truth) -> int:
        return 1

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        values = np.unique(truth)[draws].astype(np.float32)  # (n, m)
        total = ((values - values.mean(axis=0)) ** 2).sum(axis=0, dtype=np.float64)
        squares = np.stack(
            [((operator @ values) ** 2).sum(axis=0, dtype=np.float64) for operator in operators]
        )
        best = squares.min(axis=0)
        return -best, 1 - best / np.maximum(total, _LEAST)
