"""Answers that name one class: accuracy, when they are sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import Method, hits_estimate, scores
from warmstart.records import CalibrationRecord, Estimate, Example, Prediction, Scores
from warmstart.stats.intervals import Blocks, Values, effective_size
from warmstart.stats.selective import promise, sure_threshold


@dataclass(frozen=True, slots=True)
class ClassCertainty:
    """The least probability that counts as sure, and the error promised above it."""

    sure_from: float | None
    promised_error: float

    def record(
        self, *, temperature: float, class_bias: tuple[float, ...], unknown_from: float,
        nearest: int,
    ) -> CalibrationRecord:  # fmt: skip
        """For model/calibration.json."""
        return CalibrationRecord(
            temperature=temperature, class_bias=class_bias, sure_from=self.sure_from,
            promised_error=self.promised_error, unknown_from=unknown_from, nearest=nearest,
        )  # fmt: skip


class ClassMeasure:
    """Of classification."""

    def estimate(self, credits: Values, blocks: Blocks, method: Method) -> Estimate:
        """Accuracy."""
        return hits_estimate(credits, blocks, method)

    def certainty(
        self, answers: NDArray[np.float64], truth: NDArray[Any], blocks: Blocks
    ) -> ClassCertainty:
        """Shapes: answers (n, K), truth (n,)."""
        correct = (answers.argmax(axis=1) == truth).astype(float)
        n_effective = effective_size(correct, blocks)
        return ClassCertainty(
            sure_from=sure_threshold(answers.max(axis=1), correct, n_effective),
            promised_error=promise(1 - float(correct.mean())),
        )

    def scores(
        self, answers: NDArray[np.float64], truth: NDArray[Any], blocks: Blocks,
        certainty: object, names: Sequence[str] = (),
    ) -> Scores:  # fmt: skip
        """All metrics."""
        return scores(answers, truth, blocks)

    def line(
        self, example: Example, fold: int | None, answer: NDArray[np.float64],
        names: Sequence[str], certainty: object,
    ) -> Prediction:  # fmt: skip
        """The likeliest class, and all probabilities."""
        return Prediction(
            id=example.id,
            split="test" if fold is None else "oof",
            fold=fold,
            target=example.label,
            label=names[int(answer.argmax())],
            scores={name: round(float(p), 6) for name, p in zip(names, answer, strict=True)},
        )
