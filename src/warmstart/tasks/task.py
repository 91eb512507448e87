"""What every task offers to the stages: coding, calibration, loss, score, words.

A stage is given a `Target` and never asks which one it is. What stands for the truth of a row
is the target's own: a class number (n,), labels as 0 and 1 (n, K), a standardised number (n,).
The first axis is always the rows. Answers are what a calibrated model says: probabilities
(n, K), or standardised numbers (n, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.records.data import Task
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.tasks.words import Words

Truth = NDArray[Any]
Operators = Sequence[NDArray[np.float32]]  # leave-block-out residuals of targets, (n, n) each


class Target(Protocol):
    """One task."""

    @property
    def task(self) -> Task:
        """Its name in records."""
        ...

    @property
    def metric(self) -> str:
        """The score that estimates and the evidence are in."""
        ...

    @property
    def words(self) -> Words:
        """How sentences speak of that score."""
        ...

    @property
    def tells_classes(self) -> bool:
        """Whether each row has one class: class means, older outputs make sense."""
        ...

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """The truth of rows from their labels as records hold them; `names` of the outputs."""
        ...

    def coded(self, truth: Truth, n_outputs: int) -> Array:
        """What a ridge learns, uncentred. Shapes: returns (n, K)."""
        ...

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """For scores (n, K) of rows that were left out."""
        ...

    def settle(self, scores: Array, truth: Truth) -> Calibration:
        """The same for a head that is finished: with all that the rows allow."""
        ...

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """For scores of networks trained without these rows, which are on the scale of answers.

        A number or two for all outputs. More would follow how often each output is among the
        rows, of which those that are answered have more where the others have fewer.
        """
        ...

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        """Shapes: (n, K) to (n, K)."""
        ...

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        """The loss of each row, which choices are made by. Shapes: returns (n,)."""
        ...

    def said_losses(self, answers: Array, truth: Truth) -> Array:
        """The same of answers."""
        ...

    def delivered(self, calibration: Calibration) -> Calibration:
        """The calibration that a finished model carries."""
        ...

    def scores_of(self, answers: Array) -> Array:
        """Scores that answer this with nothing to calibrate. Shapes: (n, K) to (n, K)."""
        ...

    def scale(self, scores: Array, truth: Truth) -> float:
        """By what scores are multiplied to stand on the scale of answers."""
        ...

    def credits(self, answers: Array, truth: Truth) -> Array:
        """What each row adds to the score: their mean is the score. Shapes: returns (n,)."""
        ...

    def score_error(self, score: float, n: float) -> float:
        """Standard error of a score that n independent rows give."""
        ...

    def blind_loss(self, truth: Truth) -> float:
        """The loss of the best answer that is the same for every row."""
        ...

    def folding(self, truth: Truth) -> NDArray[Any]:
        """What folds are kept alike in. Shapes: (n,), or (n, K) of 0 and 1."""
        ...

    def strata(self, truth: Truth) -> Labels:
        """One number a row: what draws are kept alike in. Shapes: (n,)."""
        ...

    def identities(self, truth: Truth) -> Labels:
        """Equal numbers for equal truths, from 0. Shapes: (n,)."""
        ...

    def among(self, truth: Truth) -> Truth:
        """The truth of some rows, as if there were no others: classes are numbered anew."""
        ...

    def blind_score(self, truth: Truth) -> float:
        """The score of the best answer that is the same for every row."""
        ...

    def n_outputs(self, truth: Truth) -> int:
        """Columns of the answers to a truth that was taken among some rows."""
        ...

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """The signal test's statistic, best over operators, and that member's score.

        Shapes: draws (n, m) of `identities`, permuted; truth (n,) or (n, K), not permuted;
        returns (m,) twice.
        """
        ...
