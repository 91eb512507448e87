"""What every task offers: labels, coding, calibration, loss, score, answers, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.nouns import Wording
from warmstart.records.answer import Answer, CalibrationRecord
from warmstart.records.data import Example, Task
from warmstart.records.summary import Estimate, Prediction, TestScores
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import Groups
from warmstart.stats.metrics import Method, mean_estimate
from warmstart.tasks.words import Words

if TYPE_CHECKING:  # planning, which reads tasks, stays free of torch
    from torch import Tensor

Truth = NDArray[Any]
Operators = Sequence[NDArray[Any]]  # leave-group-out residuals of targets, (n, n) float32 each
Form = Literal["texts", "sets", "numbers"]  # of labels in a source; sets are names joined by `|`
Line = Mapping[str, Any]  # of predictions.jsonl
# What a line adds to a comparison of runs; None: 1 where its label is its target, else 0.
Credit = Callable[[Line], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """What held-out rows promise of answers to come: fields of model/calibration.json."""

    confident_from: float | None  # least confidence; None: nothing can be promised
    promised_error: float


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """The name of an input, whether it is out of distribution, its nearest training examples."""

    path: str
    ood: bool
    nearest: tuple[str, ...]

    def fields(self, scores: Array, names: Sequence[str]) -> dict[str, Any]:
        """The fields of an `Answer` that do not depend on the task; the best scores first."""
        order = np.argsort(-scores, kind="stable")
        return {
            "path": self.path,
            "label": names[order[0]],
            "probability": float(scores[order[0]]),
            "ood": self.ood,
            "scores": {names[i]: float(scores[i]) for i in order},
            "nearest": self.nearest,
        }


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """Whether labels of copies agree, the `chance` that two do, and words for disagreement."""

    agree: Callable[[Sequence[str]], bool]
    chance: float
    apart: str
    many: str


class Target(Protocol):
    """One task; a stage gets a target and never asks which one it is.

    The truth of a row is the target's own: a class number (n,), labels as 0 and 1 (n, K), a
    standardised number (n,). The first axis is always the rows. Answers are what a calibrated
    model predicts: probabilities (n, K), or standardised numbers (n, 1).
    """

    task: ClassVar[Task]
    metric: ClassVar[str]  # the score of estimates and evidence; a field of `score_record`
    words: ClassVar[Words]

    # What a row has: one class, any of several labels, or a number.
    has_classes: ClassVar[bool] = False
    has_label_sets: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = False
    is_crop_invariant: ClassVar[bool] = True  # whether a crop of a third still has the label
    is_mirror_invariant: ClassVar[bool] = True

    score_record: ClassVar[type[TestScores]]
    calibration_record: ClassVar[type[CalibrationRecord]] = CalibrationRecord
    answer_record: ClassVar[type[Answer]] = Answer

    def fit(self, labels: Sequence[str]) -> Target:
        """The target for training rows with these labels, as in records."""
        return self

    # ---- Labels as texts: in sources, in records, on the studio's board.

    form: ClassVar[Form]
    no_sets: ClassVar[str] = ""  # after "X has several labels an image", where that is refused

    def parse(
        self, labels: Sequence[str], ids: Sequence[str], source: str, *, are_corrections: bool
    ) -> Sequence[str]:
        """The labels of a source as records hold them.

        `are_corrections`: a person or `label_issues.csv` wrote them, and there may be few.
        Raises: DataError for an invalid one.
        """
        return labels

    def names(self, label: str) -> tuple[str, ...]:
        """The names of outputs in a label as records hold it."""
        return ()

    def check(
        self, labels: Sequence[str], outputs: Sequence[str], wording: Wording
    ) -> tuple[str, ...]:
        """The names of the outputs; `outputs` are those that the source names itself.

        Raises: DataError if these labels of the training set cannot teach them.
        """

    def text(self, label: str) -> str:
        """A label in a record, for people."""
        return label

    def contradiction(self, label: str, suggested: str) -> str:
        """A label issue: the label, and what the example looks like instead."""
        return f"labelled {self.text(label)}, looks like {self.text(suggested)}"

    def agreement(self, labels: Sequence[str]) -> LabelAgreement:
        """When copies of one picture agree on their label; `labels` of a training set."""
        counts = Counter(labels)
        chance = sum(n * n for n in counts.values()) / max(len(labels), 1) ** 2
        return LabelAgreement(lambda some: len(set(some)) < 2, chance, "different labels", "labels")

    def typed(self, label: str) -> str:
        """A label that a person typed, as records hold it. Raises: UsageError if invalid."""

    def typed_name(self, name: str) -> str:
        """The name of one output that a person typed. Raises: UsageError if invalid."""

    def rename(self, label: str, old: str, new: str) -> str:
        """The label with the name `old` replaced."""
        return label

    def without(self, label: str, name: str) -> str | None:
        """The label without a name; None where nothing remains."""
        return label

    def too_few(self, labels: Sequence[str]) -> str:
        """Why nothing can be trained on labelled pictures yet; empty if something can."""

    # ---- Coding, calibration, loss.

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

    def summed_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """The loss of fine-tuning. Shapes: outputs (B, K); returns one number, the sum over B."""

    def model_calibration(self, calibration: Calibration) -> Calibration:
        """The calibration in a finished model, which answers in the user's unit."""
        return calibration

    def natural(self, answers: Array) -> Array:
        """Answers in the user's unit. Shapes: any, kept."""
        return answers

    def standardised(self, values: NDArray[Any]) -> NDArray[Any]:
        """The answers of values in the user's unit. Shapes: any, kept."""
        return values

    def scores_of(self, answers: Array) -> Array:
        """Scores that give these answers without calibration. Shapes: (n, K) to (n, K)."""
        return answers

    def scale(self, scores: Array, truth: Truth) -> float:
        """The factor that brings scores to the answers' scale."""
        return self.recalibrate(scores, truth).scale

    # ---- The score, its evidence and its interval.

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

    def estimate(self, credits: Array, groups: Groups, method: Method) -> Estimate:
        """The score with its 95 % interval, from what each row adds to it. Shapes: (n,)."""
        return mean_estimate(self.metric, credits, groups, method)

    def certainty(self, answers: Array, truth: Truth, groups: Groups) -> Certainty:
        """From held-out rows. Shapes: answers (n, K)."""

    def scores(
        self, answers: Array, truth: Truth, groups: Groups, certainty: Any, names: Sequence[str]
    ) -> TestScores:
        """All metrics of rows that no choice has seen; `names` of the outputs, or none.

        `certainty` has the fields that `certainty` returns, as a calibration record does.
        """

    def other_metrics(self, scores: Any) -> str:
        """All metrics but the score, as one sentence without its first word."""

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Array,
        names: Sequence[str],
        certainty: Any,
    ) -> Prediction:
        """One line of predictions.jsonl. Shapes: answer (K,)."""

    line_metric: ClassVar[str]  # what the mean of `line_credits` is

    def line_credits(self, labels: Sequence[str], names: Sequence[str]) -> Credit:
        """`labels` are those of the training rows, `names` those of the outputs."""
        return lambda line: None

    # ---- A finished model; its outputs are calibrated, in the user's unit.

    outputs: ClassVar[tuple[str, ...]] = ("logits", "probabilities")  # of an exported graph
    output_meaning: ClassVar[str]
    output_text: ClassVar[str] = "`logits` and `probabilities`, (N, {k}) each, calibrated"
    link: ClassVar[str]  # from outputs to answers, as code in plain torch

    def activate(self, outputs: Tensor) -> Tensor:
        """A model's outputs, logits or values, as it answers. Shapes: (B, K) to (B, K)."""

    def answer(
        self, place: AnswerPlace, scores: Array, names: Sequence[str], calibration: Any
    ) -> Answer:
        """The answer for one input; `calibration` is that of the model. Shapes: scores (K,)."""

    def evaluate(
        self,
        scores: Array,
        labels: Sequence[str],
        groups: Groups,
        names: Sequence[str],
        calibration: Any,
    ) -> TestScores:
        """Metrics of a model's answers (n, K) to inputs with these labels, as in records."""
        return self.scores(scores, self.read(labels, names), groups, calibration, names)

    def uncertainty(self, scores: NDArray[np.floating]) -> Array:
        """How uncertain each answer is, 0 to 1. Shapes: (m, K) to (m,)."""
