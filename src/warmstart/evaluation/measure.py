"""From a target to what is measured of its predictions: estimate, metrics, certainty, lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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


class AnswerCertainty(Protocol):
    """What held-out rows promise of predictions to come."""

    def record(self, **calibration: Any) -> CalibrationRecord:
        """For model/calibration.json, with the other fields of that record."""
        ...


class Measure(Protocol):
    """Measures the predictions of one target."""

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        """The score with its 95 % interval, from what each row adds to it. Shapes: (n,)."""
        ...

    def certainty(self, answers: Values, truth: Truth, groups: Groups) -> AnswerCertainty:
        """From held-out rows. Shapes: answers (n, K)."""
        ...

    def scores(
        self, answers: Values, truth: Truth, groups: Groups, certainty: Any, names: Sequence[str]
    ) -> TestScores:
        """All metrics of rows that no choice has seen; `names` of the outputs, or none."""
        ...

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Values,
        names: Sequence[str],
        certainty: Any,
    ) -> Prediction:
        """One line of predictions.jsonl. Shapes: answer (K,)."""
        ...


_MEASURES: dict[Task, Measure] = {"classify": ClassMeasure(), "multilabel": LabelMeasure()}


def measure_of(target: Target) -> Measure:
    """How predictions of a target are measured."""
    return NumberMeasure(target) if isinstance(target, Regression) else _MEASURES[target.task]
