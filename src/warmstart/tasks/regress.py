"""A number: squared error on the standardised target, R², intervals by left-out errors.

An interval is the prediction plus and minus a quantile of the absolute errors of held-out rows:
the jackknife with folds of Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference
with the jackknife+", §1.2. One network ships, not one for each fold, so its predictions stand for
those around which the jackknife+ lays its intervals: true of a head that a fold hardly moves, and
measured (`bench run tasks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, UsageError
from warmstart.nouns import Wording
from warmstart.records.answer import Answer, CalibrationRecord, NumberAnswer, NumberCalibration
from warmstart.records.data import Example, Task
from warmstart.records.summary import NumberPrediction, NumberScores, Prediction, TestScores
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import Groups
from warmstart.stats.metrics import line_fields
from warmstart.stats.selective import PROMISED, margin
from warmstart.tasks.task import (
    AnswerPlace,
    Certainty,
    Credit,
    Form,
    LabelAgreement,
    Operators,
    Target,
    Truth,
)
from warmstart.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor

BINS, LEAST_A_BIN = 10, 5  # equally full bins that stratify folds and samples
MAX_VALUE = 1e100  # of numbers to learn, whose squares are added up
CLOSE = 0.25  # standard deviations by which the numbers of one picture may differ
LEAST_NUMBERS = 3  # pictures with numbers to begin with
_LEAST = 1e-12
_WORDS = Words(
    tag="image-feature-extraction",
    metric="r2",
    name="R²",
    title="R²",
    short="R²",
    score="variance explained (R²)",
    right="of the variance explained",
    be="explain {} of the variance (R²)",
    does="explains {} of the variance (R²)",
    before="explained {} of the variance",
    than="{} points of explained variance better",
    tie="about as accurate as the linear probe, with slightly smaller errors",
    hardly="by much",
    answers="numbers",
    output="{} number",
    one="number",
    many="numbers",
    target="the number",
    unit="number",
    ask="predict the number of {an}",
    summary="Predicts a number from {an}",
    apart="predicts the number",
    blind="always predicting the mean",
    idle="always predicting the mean explains {}",
    label="number",
    more="more examples",
    crop="a smaller crop changes what is large, near or many",
    mirror="a mirrored image may have another number, such as an angle; set training.flip=true "
    "where it has the same",
)


def as_text(value: float) -> str:
    """A number in records: the shortest text that reads back the same.

    >>> as_text(3.50), as_text(0.1 + 0.2)
    ('3.5', '0.30000000000000004')
    """
    return f"{value:.17g}" if float(f"{value:.12g}") != value else f"{value:.12g}"


def _parsed(label: str, id: str, source: str) -> str:
    try:
        value = float(label)
    except ValueError:
        raise DataError(
            f'{source}: the label of {id} is "{label}", which is not a number; correct it, '
            "or use --task classify"
        ) from None
    if not math.isfinite(value):
        raise DataError(f"{source}: the label of {id} is {label}; fill it in or remove the row")
    return as_text(value)


def _within(close: float, some: Sequence[str]) -> bool:
    values = [float(label) for label in some]
    return max(values) - min(values) <= close


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberCertainty(Certainty):
    """Intervals of one width."""

    half_width: float | None  # in the user's unit; None: too few examples for any


def _interval(value: float, half: float | None) -> dict[str, Any]:
    """The fields of an answer; `half` the width of its interval."""
    return {
        "label": f"{value:.6g}",
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
    }


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
    words: ClassVar[Words] = _WORDS
    has_numbers: ClassVar[bool] = True
    is_crop_invariant: ClassVar[bool] = False
    is_mirror_invariant: ClassVar[bool] = False
    score_record: ClassVar[type[TestScores]] = NumberScores
    calibration_record: ClassVar[type[CalibrationRecord]] = NumberCalibration
    answer_record: ClassVar[type[Answer]] = NumberAnswer
    form: ClassVar[Form] = "numbers"
    no_sets: ClassVar[str] = (
        " and --task regress takes one number; name one column with --label, or use --task "
        "multilabel"
    )
    line_metric: ClassVar[str] = "r2"
    outputs: ClassVar[tuple[str, ...]] = ("value",)
    output_meaning: ClassVar[str] = "value: the number, in the unit of the data"
    output_text: ClassVar[str] = "`value`, (N, 1)"
    link: ClassVar[str] = ""

    @classmethod
    def of(cls, values: Array) -> Regression:
        """The target with mean and spread of values (n,), not all equal.

        >>> Regression.of(np.array([1.0, 3.0]))
        Regression(mean=2.0, spread=1.0)
        """
        return cls(float(values.mean()), float(values.std()))

    def fit(self, labels: Sequence[str]) -> Regression:
        return self.of(np.array([float(label) for label in labels]))

    def natural(self, answers: Array) -> Array:
        """Values in the user's unit. Shapes: any, kept.

        >>> Regression(mean=10.0, spread=2.0).natural(np.array([1.0])).tolist()
        [12.0]
        """
        return np.asarray(self.mean + self.spread * answers)

    def standardised(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((values - self.mean) / self.spread)

    def parse(
        self, labels: Sequence[str], ids: Sequence[str], source: str, *, are_corrections: bool
    ) -> Sequence[str]:
        return [_parsed(label, id, source) for label, id in zip(labels, ids, strict=True)]

    def check(
        self, labels: Sequence[str], outputs: Sequence[str], wording: Wording
    ) -> tuple[str, ...]:
        source = wording.source
        if not labels:
            raise DataError(f"{source} holds no training {wording.noun}; add some with numbers")
        if len(set(labels)) == 1:
            raise DataError(
                f"{source}: all {len(labels):,} numbers are {labels[0]}, so there is nothing to "
                "learn; name another column with --label"
            )
        largest = max(labels, key=lambda label: abs(float(label)))
        if abs(float(largest)) > MAX_VALUE:
            raise DataError(
                f"{source}: a number is {largest}, too large to be squared; divide all of them by "
                "a power of ten"
            )
        return tuple(outputs[:1]) or ("value",)

    def agreement(self, labels: Sequence[str]) -> LabelAgreement:
        """
        >>> numbers = REGRESSION.agreement(["0", "10", "20"])
        >>> numbers.agree(["10", "10.5"]), numbers.agree(["10", "19"])
        (True, False)
        """
        values = np.sort(np.array([float(label) for label in labels]))
        close = CLOSE * float(values.std()) if len(values) else 0.0
        near = np.searchsorted(values, values + close, "right") - np.searchsorted(
            values, values - close
        )
        chance = float(near.mean() / len(values)) if len(values) else 0.0
        return LabelAgreement(partial(_within, close), chance, "numbers far apart", "numbers")

    def typed(self, label: str) -> str:
        """
        >>> REGRESSION.typed(" 3.50 ")
        '3.5'
        """
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(
                f"{label.strip()[:40] or 'nothing'} is not a number; enter one like 3.5."
            )
        return as_text(value)

    def typed_name(self, name: str) -> str:
        raise UsageError("pictures have numbers here, not classes.")

    def too_few(self, labels: Sequence[str]) -> str:
        if len(labels) < LEAST_NUMBERS:
            return f"{LEAST_NUMBERS} pictures with numbers are needed to begin."
        return "" if len(set(labels)) > 1 else "All numbers are equal: there is nothing to learn."

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        return self.standardised(np.array([float(label) for label in labels]))

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        return np.asarray(truth[:, None])

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        return Calibration(1.0, np.zeros(scores.shape[1]))

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        return np.asarray(calibration.scale * scores + calibration.bias)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        return np.asarray((answers[:, 0] - truth) ** 2)

    def summed_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        from torch.nn.functional import mse_loss

        return mse_loss(outputs[:, 0], truth.to(outputs.dtype), reduction="sum")

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

    def certainty(self, answers: Array, truth: Truth, groups: Groups) -> NumberCertainty:
        half = margin(np.abs(answers[:, 0] - truth), groups)
        return NumberCertainty(
            confident_from=None,
            promised_error=1 - PROMISED,
            half_width=None if half is None else half * self.spread,
        )

    def scores(
        self,
        answers: Array,
        truth: Truth,
        groups: Groups,
        certainty: NumberCertainty | NumberCalibration,
        names: Sequence[str] = (),
    ) -> NumberScores:
        score = self.estimate(self.credits(answers, truth), groups, "holdout")
        off = self.spread * np.abs(answers[:, 0] - truth)
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

    def other_metrics(self, scores: NumberScores) -> str:
        inside = ""
        if scores.coverage is not None:
            inside = (
                f", {100 * scores.coverage:.1f} % inside their intervals "
                f"({100 * scores.promised:.0f} % promised)"
            )
        return (
            f"mean absolute error {scores.mae:.4g}, root mean squared error "
            f"{scores.rmse:.4g}{inside}."
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Array,
        names: Sequence[str],
        certainty: NumberCertainty,
    ) -> Prediction:
        value = float(self.natural(answer)[0])
        return NumberPrediction(
            **line_fields(example, fold), scores={}, **_interval(value, certainty.half_width)
        )

    def line_credits(self, labels: Sequence[str], names: Sequence[str]) -> Credit:
        values = np.array([float(label) for label in labels])
        variance = max(float(values.var()), 1e-300)
        return lambda line: 1 - (float(line["value"]) - float(line["target"])) ** 2 / variance

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs

    def answer(
        self,
        place: AnswerPlace,
        scores: Array,
        names: Sequence[str],
        calibration: NumberCalibration,
    ) -> Answer:
        return NumberAnswer(
            path=place.path,
            probability=None,
            confident=False if place.ood else None,
            ood=place.ood,
            scores={},
            nearest=place.nearest,
            **_interval(float(scores[0]), calibration.half_width),
        )

    def evaluate(
        self,
        scores: Array,
        labels: Sequence[str],
        groups: Groups,
        names: Sequence[str],
        calibration: NumberCalibration,
    ) -> TestScores:
        # On the scale of training, which the calibration converts to the user's unit.
        target = type(self)(calibration.class_bias[0], 1 / calibration.temperature)
        answers, truth = target.standardised(scores), target.read(labels, ())
        return target.scores(answers, truth, groups, calibration)

    def uncertainty(self, scores: NDArray[np.floating]) -> Array:
        return np.ones(len(scores))  # equal for all: the intervals have one width


REGRESSION = Regression()
