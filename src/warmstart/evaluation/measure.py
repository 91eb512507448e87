"""From a target to what is measured of its answers: estimate, metrics, certainty, lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.classes import ClassMeasure
from warmstart.evaluation.metrics import Method
from warmstart.evaluation.multilabel import LabelMeasure
from warmstart.evaluation.regression import NumberMeasure
from warmstart.records.answer import CalibrationRecord
from warmstart.records.data import Example, Task
from warmstart.records.summary import Estimate, Prediction, TestScores
from warmstart.stats.intervals import Groups, Values
from warmstart.tasks.regress import Regression
from warmstart.tasks.task import Target, Truth

Answers = NDArray[np.float64]


class AnswerCertainty(Protocol):
    """What left-out rows promise of answers to come."""

    def record(
        self,
        *,
        temperature: float,
        class_bias: tuple[float, ...],
        ood_from: float,
        nearest: int,
    ) -> CalibrationRecord:
        """For model/calibration.json."""
        ...


class Measure(Protocol):
    """Measures the answers of one target."""

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        """The score with its 95 % interval, from what each row adds to it. Shapes: (n,)."""
        ...

    def certainty(self, answers: Answers, truth: Truth, groups: Groups) -> AnswerCertainty:
        """From rows that were left out. Shapes: answers (n, K)."""
        ...

    def scores(
        self,
        answers: Answers,
        truth: Truth,
        groups: Groups,
        certainty: Any,
        names: Sequence[str] = (),
    ) -> TestScores:
        """All metrics of rows that no choice has seen."""
        ...

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: NDArray[np.float64],
        names: Sequence[str],
        certainty: Any,
    ) -> Prediction:
        """One line of predictions.jsonl. Shapes: answer (K,)."""
        ...


def _numbers(target: Target) -> NumberMeasure:
    return NumberMeasure(target if isinstance(target, Regression) else Regression())


_MEASURES: dict[Task, Callable[[Target], Measure]] = {
    "classify": lambda target: ClassMeasure(),
    "multilabel": lambda target: LabelMeasure(),
    "regress": _numbers,
}


def measure_of(target: Target) -> Measure:
    """How answers of a target are measured."""
    return _MEASURES[target.task](target)
