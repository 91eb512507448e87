"""Answers that are numbers: R², errors in the user's unit, intervals that keep a promise.

An interval is the answer plus and minus a quantile of the absolute errors of rows that were left
out: the jackknife with folds of Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference
with the jackknife+", §1.2. One network ships, not one for each fold, so the answers around which
their jackknife+ lays its intervals are taken to be that network's: true of a head that a fold
hardly moves, and measured (`bench run tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import Method, mean_estimate
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

    def record(
        self,
        *,
        temperature: float,
        class_bias: tuple[float, ...],
        ood_from: float,
        nearest: int,
    ) -> NumberCalibration:
        """For model/calibration.json."""
        return NumberCalibration(
            temperature=temperature,
            class_bias=class_bias,
            confident_from=None,
            promised_error=1 - PROMISED,
            ood_from=ood_from,
            nearest=nearest,
            half_width=self.half_width,
        )


@dataclass(frozen=True, slots=True)
class NumberMeasure:
    """Of regression; answers and truth are standardised as `target` says."""

    target: Regression

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        """R²."""
        return mean_estimate("r2", credits, groups, method)

    def certainty(
        self, answers: NDArray[np.float64], truth: NDArray[Any], groups: Groups
    ) -> NumberCertainty:
        """Shapes: answers (n, 1), truth (n,)."""
        found = margin(np.abs(answers[:, 0] - truth), groups)
        return NumberCertainty(None if found is None else found * self.target.spread)

    def scores(
        self,
        answers: NDArray[np.float64],
        truth: NDArray[Any],
        groups: Groups,
        certainty: NumberCertainty,
        names: Sequence[str] = (),
    ) -> NumberScores:
        """All metrics."""
        claim = self.estimate(self.target.credits(answers, truth), groups, "holdout")
        off = self.target.spread * np.abs(answers[:, 0] - truth)
        half = certainty.half_width
        return NumberScores(
            n=len(truth),
            r2=claim.value,
            low=claim.low,
            high=claim.high,
            mae=float(off.mean()),
            rmse=float(np.sqrt((off**2).mean())),
            coverage=None if half is None else float((off <= half).mean()),
            promised=PROMISED,
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: NDArray[np.float64],
        names: Sequence[str],
        certainty: NumberCertainty,
    ) -> NumberPrediction:
        """The value with its interval."""
        value, half = float(self.target.natural(answer)[0]), certainty.half_width
        return NumberPrediction(
            id=example.id,
            split="test" if fold is None else "oof",
            fold=fold,
            target=example.label,
            label=f"{value:.6g}",
            scores={},
            value=value,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
        )
