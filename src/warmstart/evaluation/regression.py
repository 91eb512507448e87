"""Predictions that are numbers: R², errors in the user's unit, intervals that keep a promise.

An interval is the prediction plus and minus a quantile of the absolute errors of held-out rows:
the jackknife with folds of Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference
with the jackknife+", §1.2. One network ships, not one for each fold, so its predictions stand for
those around which the jackknife+ lays its intervals: true of a head that a fold hardly moves, and
measured (`bench run tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import Method, line_fields, mean_estimate
from warmstart.records.answer import NumberCalibration
from warmstart.records.data import Example
from warmstart.records.summary import Estimate, NumberPrediction, NumberScores
from warmstart.stats.intervals import Groups, Values
from warmstart.stats.selective import PROMISED, margin
from warmstart.tasks.regress import Regression


@dataclass(frozen=True, slots=True)
class NumberCertainty:
    """Half the width of an interval, in the user's unit; None: too few examples for any."""

    half_width: float | None

    def record(self, **calibration: Any) -> NumberCalibration:
        return NumberCalibration(
            confident_from=None,
            promised_error=1 - PROMISED,
            half_width=self.half_width,
            **calibration,
        )


@dataclass(frozen=True, slots=True)
class NumberMeasure:
    """Answers and truth are standardised as in `target`."""

    target: Regression

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        return mean_estimate("r2", credits, groups, method)

    def certainty(self, answers: Values, truth: NDArray[Any], groups: Groups) -> NumberCertainty:
        half = margin(np.abs(answers[:, 0] - truth), groups)
        return NumberCertainty(None if half is None else half * self.target.spread)

    def scores(
        self,
        answers: Values,
        truth: NDArray[Any],
        groups: Groups,
        certainty: NumberCertainty,
        names: Sequence[str] = (),
    ) -> NumberScores:
        score = self.estimate(self.target.credits(answers, truth), groups, "holdout")
        off = self.target.spread * np.abs(answers[:, 0] - truth)
        half = certainty.half_width
        return NumberScores(
            n=len(truth),
            r2=score.value,
            low=score.low,
            high=score.high,
            mae=float(off.mean()),
            rmse=float(np.sqrt((off**2).mean())),
            coverage=None if half is None else float((off <= half).mean()),
            promised=PROMISED,
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Values,
        names: Sequence[str],
        certainty: NumberCertainty,
    ) -> NumberPrediction:
        value, half = float(self.target.natural(answer)[0]), certainty.half_width
        return NumberPrediction(
            **line_fields(example, fold),
            label=f"{value:.6g}",
            scores={},
            value=value,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
        )
