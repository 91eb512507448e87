"""What every task offers to the stages: encoding, calibration, loss, score, words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.records.data import Task
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.tasks.words import Words

Truth = NDArray[Any]
Operators = Sequence[NDArray[Any]]  # leave-group-out residuals of targets, (n, n) float32 each


class Target(Protocol):
    """One task; a stage gets a target and never asks which one it is.

    The truth of a row is the target's own: a class number (n,), labels as 0 and 1 (n, K), a
    standardised number (n,). The first axis is always the rows. Answers are what a calibrated
    model predicts: probabilities (n, K), or standardised numbers (n, 1).
    """

    task: ClassVar[Task]
    metric: ClassVar[str]  # the score of estimates and evidence
    words: ClassVar[Words]
    has_classes: ClassVar[bool] = False  # one class a row: class means and prior heads make sense

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """The truth of rows, from their labels in records; `names` of the outputs."""

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        """The uncentred targets of a ridge. Shapes: returns (n, K)."""

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """Fit on scores (n, K) of held-out rows."""

    def calibrate_final(self, scores: Array, truth: Truth) -> Calibration:
        """Fit for a finished head, with all parameters that the rows allow."""
        return self.calibrate(scores, truth)

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """Fit on scores of networks trained without these rows, which are on the answers' scale.

        One or two numbers for all outputs: more would follow how often each output occurs among
        the training rows, of which there are more where the held-out rows have fewer.
        """
        return self.calibrate(scores, truth)

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        """Shapes: (n, K) to (n, K)."""

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        """The loss of each row, by which choices are made. Shapes: returns (n,)."""
        return self.answer_losses(self.answers(scores, calibration), truth)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        """`losses` of calibrated answers."""

    def model_calibration(self, calibration: Calibration) -> Calibration:
        """The calibration in a finished model, which answers in the user's unit."""
        return calibration

    def scores_of(self, answers: Array) -> Array:
        """Scores that give these answers without calibration. Shapes: (n, K) to (n, K)."""
        return answers

    def scale(self, scores: Array, truth: Truth) -> float:
        """The factor that brings scores to the answers' scale."""
        return self.recalibrate(scores, truth).scale

    def credits(self, answers: Array, truth: Truth) -> Array:
        """What each row adds to the score, which is their mean. Shapes: returns (n,)."""

    def score_error(self, score: float, n: float) -> float:
        """Standard error of a score on n independent rows."""
        return float(np.sqrt(score * (1 - score) / n))

    def blind_loss(self, truth: Truth) -> float:
        """The loss of the best constant prediction."""

    def fold_strata(self, truth: Truth) -> Truth:
        """What folds are stratified by. Shapes: (n,), or (n, K) of 0 and 1."""
        return truth

    def strata(self, truth: Truth) -> Labels:
        """What samples are stratified by, one number a row. Shapes: (n,)."""
        return truth

    def identities(self, truth: Truth) -> Labels:
        """Equal numbers for equal truths, from 0. Shapes: (n,)."""

    def restrict(self, truth: Truth) -> Truth:
        """The truth of some rows, as if there were no others: classes are renumbered."""
        return truth

    def blind_score(self, truth: Truth) -> float:
        """The score of the best constant prediction."""

    def n_outputs(self, truth: Truth) -> int:
        """Columns of the answers, for a truth from `restrict`."""

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """The permutation test's statistic, best over operators, and that member's score.

        Shapes: draws (n, m) of `identities`, permuted; truth (n,) or (n, K), not permuted;
        returns (m,) twice.
        """
