"""Predictions of one class: accuracy, and when they are confident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation import metrics
from warmstart.evaluation.metrics import Labels, Method
from warmstart.records.answer import CalibrationRecord
from warmstart.records.data import Example
from warmstart.records.summary import ClassScore, Estimate, Prediction, Scores
from warmstart.stats.intervals import Groups, Values, accuracy_interval, effective_size
from warmstart.stats.selective import confident_threshold, error_bound


@dataclass(frozen=True, slots=True)
class ClassCertainty:
    """The least probability that counts as confident, and the error promised above it."""

    confident_from: float | None
    promised_error: float

    def record(self, **calibration: Any) -> CalibrationRecord:
        return CalibrationRecord(
            confident_from=self.confident_from, promised_error=self.promised_error, **calibration
        )


class ClassMeasure:
    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        return metrics.hits_estimate(credits, groups, method)

    def certainty(self, answers: Values, truth: NDArray[Any], groups: Groups) -> ClassCertainty:
        correct = (answers.argmax(axis=1) == truth).astype(float)
        n_effective = effective_size(correct, groups)
        return ClassCertainty(
            confident_from=confident_threshold(answers.max(axis=1), correct, n_effective),
            promised_error=error_bound(1 - float(correct.mean())),
        )

    def scores(
        self,
        answers: Values,
        truth: NDArray[Any],
        groups: Groups,
        certainty: object,
        names: Sequence[str],
    ) -> Scores:
        return metrics.scores(answers, truth, groups)

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Values,
        names: Sequence[str],
        certainty: object,
    ) -> Prediction:
        label = names[int(answer.argmax())]
        return Prediction(
            **metrics.line_fields(example, fold), label=label, scores=metrics.rounded(names, answer)
        )


def per_class(
    predicted: Labels, labels: Labels, groups: Groups, names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Recall with its cluster-robust 95 % interval, precision, and the commonest mistake.

    Classes without an image are left out; among equally common mistakes the first in the order
    of the outputs counts. Shapes: predicted, labels and groups (n,), names (K,).

    >>> rows = per_class(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), np.arange(4), "ab")
    >>> [(row.label, row.recall, row.precision, row.confused_with) for row in rows]
    [('a', 0.5, 1.0, 'b'), ('b', 1.0, 0.6666666666666666, None)]
    """
    answers = np.bincount(predicted, minlength=len(names))
    rows = []
    for number in np.unique(labels):
        members = labels == number
        hits = predicted[members] == number
        recall, low, high = accuracy_interval(hits.astype(float), groups[members])
        wrong = np.bincount(predicted[members][~hits], minlength=len(names))
        n_answers, n_confused = int(answers[number]), int(wrong.max())
        rows.append(
            ClassScore(
                label=names[number],
                n=int(members.sum()),
                recall=recall,
                low=low,
                high=high,
                precision=int(hits.sum()) / n_answers if n_answers else None,
                answers=n_answers,
                confused_with=names[int(wrong.argmax())] if n_confused else None,
                n_confused=n_confused,
            )
        )
    return tuple(rows)
