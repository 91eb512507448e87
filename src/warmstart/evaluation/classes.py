"""Answers that name one class: accuracy, when they are sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import Labels, Method, hits_estimate, scores
from warmstart.records.answer import CalibrationRecord
from warmstart.records.comparison import ClassScore
from warmstart.records.data import Example
from warmstart.records.summary import Estimate, Prediction, Scores
from warmstart.stats.intervals import Groups, Values, effective_size, proportion
from warmstart.stats.selective import confident_threshold, error_bound


@dataclass(frozen=True, slots=True)
class ClassCertainty:
    """The least probability that counts as sure, and the error promised above it."""

    confident_from: float | None
    promised_error: float

    def record(
        self,
        *,
        temperature: float,
        class_bias: tuple[float, ...],
        ood_from: float,
        nearest: int,
    ) -> CalibrationRecord:
        """For model/calibration.json."""
        return CalibrationRecord(
            temperature=temperature,
            class_bias=class_bias,
            confident_from=self.confident_from,
            promised_error=self.promised_error,
            ood_from=ood_from,
            nearest=nearest,
        )


class ClassMeasure:
    """Of classification."""

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        """Accuracy."""
        return hits_estimate(credits, groups, method)

    def certainty(
        self, answers: NDArray[np.float64], truth: NDArray[Any], groups: Groups
    ) -> ClassCertainty:
        """Shapes: answers (n, K), truth (n,)."""
        correct = (answers.argmax(axis=1) == truth).astype(float)
        n_effective = effective_size(correct, groups)
        return ClassCertainty(
            confident_from=confident_threshold(answers.max(axis=1), correct, n_effective),
            promised_error=error_bound(1 - float(correct.mean())),
        )

    def scores(
        self,
        answers: NDArray[np.float64],
        truth: NDArray[Any],
        groups: Groups,
        certainty: object,
        names: Sequence[str] = (),
    ) -> Scores:
        """All metrics."""
        return scores(answers, truth, groups)

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: NDArray[np.float64],
        names: Sequence[str],
        certainty: object,
    ) -> Prediction:
        """The likeliest class, and all probabilities."""
        return Prediction(
            id=example.id,
            split="test" if fold is None else "oof",
            fold=fold,
            target=example.label,
            label=names[int(answer.argmax())],
            scores={name: round(float(p), 6) for name, p in zip(names, answer, strict=True)},
        )


# ---- One line a class: how many of its images are found, and what they are taken for.


def per_class(
    predicted: Labels, labels: Labels, groups: Groups, names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Recall with its cluster-robust 95 % interval, precision, and the commonest mistake.

    Classes without an image are left out. Of mistakes that are equally common the first in
    the order of the outputs is named. Shapes: predicted, labels and blocks (n,), names (K,).

    >>> rows = per_class(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), np.arange(4), "ab")
    >>> [(row.label, row.recall, row.precision, row.confused_with) for row in rows]
    [('a', 0.5, 1.0, 'b'), ('b', 1.0, 0.6666666666666666, None)]
    """
    answers = np.bincount(predicted, minlength=len(names))
    return tuple(
        _score(number, predicted, labels, groups, names, int(answers[number]))
        for number in np.unique(labels)
    )


def _score(
    number: int,
    predicted: Labels,
    labels: Labels,
    groups: Groups,
    names: Sequence[str],
    answers: int,
) -> ClassScore:
    own = labels == number
    hits = predicted[own] == number
    recall, low, high = proportion(hits.astype(float), groups[own])
    wrong = np.bincount(predicted[own][~hits], minlength=len(names))
    n_confused = int(wrong.max())
    return ClassScore(
        label=names[number],
        n=int(own.sum()),
        recall=recall,
        low=low,
        high=high,
        precision=int(hits.sum()) / answers if answers else None,
        answers=answers,
        confused_with=names[int(wrong.argmax())] if n_confused else None,
        n_confused=n_confused,
    )
