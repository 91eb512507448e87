"""One of several classes: probabilities by softmax, log-loss, accuracy."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, UsageError
from warmstart.formatting import first_few
from warmstart.nouns import Wording
from warmstart.records.answer import Answer
from warmstart.records.data import Example
from warmstart.records.run_folder import fields_of
from warmstart.records.summary import (
    ClassScore,
    Estimate,
    Prediction,
    Scores,
    ScoresByClass,
    TestScores,
)
from warmstart.solve.calibration import (
    Calibration,
    Labels,
    fit_temperature,
    fit_temperature_and_bias,
    log_losses,
    probabilities,
)
from warmstart.solve.ridge import Array
from warmstart.stats import metrics
from warmstart.stats.intervals import Groups, accuracy_interval, effective_size
from warmstart.stats.metrics import Method
from warmstart.stats.permutation import class_statistics
from warmstart.stats.selective import confident_threshold, error_bound
from warmstart.tasks.task import AnswerPlace, Certainty, Operators, Target, Truth
from warmstart.tasks.words import Words, percent

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-12  # a probability of zero for the truth costs 27.6 nats, not infinity
MOST_LETTERS = 100  # of a class name
_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

_WORDS = Words(
    tag="image-classification",
    metric="accuracy",
    name="accuracy",
    title="Accuracy",
    short="accuracy",
    score="accuracy",
    right="right",
    be="reach an accuracy of {}",
    does="has an accuracy of {}",
    before="had an accuracy of {}",
    than="{} points more accurate",
    tie="about as accurate as the linear probe, with better calibrated probabilities",
    hardly="more accurate",
    answers="probabilities",
    output="{} classes",
    one="class",
    many="classes",
    target="the class",
    unit="logit",
    ask="predict the class of {an}",
    summary="Classifies {many} into {n} classes",
    apart="separates the classes",
    blind="always predicting the largest class",
    idle="always predicting the largest class is right on {}",
    label="label",
    more="more a class",
    crop="a crop of a third or more mostly still shows its class",
    mirror="mirrored images keep their class; set training.flip=false where left and right matter",
)


def entropy(class_shares: Sequence[float]) -> float:
    """The loss, in nats, of always predicting the class frequencies; counts will do.

    >>> round(entropy([10, 10]), 3), entropy([5, 0])
    (0.693, 0.0)
    """
    total = sum(class_shares)
    shares = [share / total for share in class_shares if share > 0]
    return sum(-share * math.log(share) for share in shares)


def normalise_name(name: str) -> str:
    """A class name as it is stored. Raises: UsageError for an invalid one."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > MOST_LETTERS:
        raise UsageError(f"a class needs a name of 1 to {MOST_LETTERS} letters.")
    for letter in name:
        if unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") or letter in _BIDIRECTIONAL:
            raise UsageError(
                f"a class name cannot contain the character U+{ord(letter):04X}; remove it."
            )
    return name


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


class Classification(Target):
    """Truth: class numbers (n,) in 0..K-1. Losses are log-losses, in nats."""

    task = "classify"
    metric = "accuracy"
    words = _WORDS
    has_classes = True
    score_record = Scores

    form = "texts"
    no_sets = "; use --task multilabel, or name one column of classes with --label"

    def names(self, label: str) -> tuple[str, ...]:
        return (label,)

    def check(
        self, labels: Sequence[str], outputs: Sequence[str], wording: Wording
    ) -> tuple[str, ...]:
        sizes, source, noun = Counter(labels), wording.source, wording.noun
        if not sizes:
            raise DataError(f"{source} holds no training {noun}; add at least 2 for each class")
        if len(sizes) == 1:
            remedy = wording.one_class or "add examples of a second one"
            raise DataError(f'{source} has one class ("{min(sizes)}") and 2 are needed; {remedy}')
        small = sorted(label for label, size in sizes.items() if size < 2)
        if len(small) == 1:
            raise DataError(
                f"{wording.place(small[0])} has 1 training {noun}; a class needs at least 2. "
                f"Add one or remove {wording.remove}."
            )
        if small:
            raise DataError(
                f"{source}: {len(small):,} of {len(sizes):,} classes have 1 training {noun} "
                f"({first_few(small)}); a class needs at least 2. Add {noun}s, or check which "
                "column or folder holds the label."
            )
        return tuple(sorted(sizes))

    def typed(self, label: str) -> str:
        return normalise_name(label)

    def typed_name(self, name: str) -> str:
        return normalise_name(name)

    def rename(self, label: str, old: str, new: str) -> str:
        return new if label == old else label

    def without(self, label: str, name: str) -> str | None:
        return None if label == name else label

    def too_few(self, labels: Sequence[str]) -> str:
        sizes = Counter(labels)
        rare = next((name for name, n in sizes.items() if n < 2), None)
        if len(sizes) < 2:
            return "Two classes with two pictures each are needed to begin."
        if rare is not None:
            return f"{rare} has 1 picture; a class needs at least 2. Add one, or take it off."
        return ""

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        number = {name: index for index, name in enumerate(names)}
        return np.array([number[label] for label in labels], dtype=np.int64)

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        return np.eye(n_outputs)[truth]

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        return fit_temperature(scores, truth)

    def calibrate_final(self, scores: Array, truth: Truth) -> Calibration:
        return fit_temperature_and_bias(scores, truth)

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        return probabilities(scores, calibration)

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        return log_losses(scores, truth, calibration)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        return np.asarray(-np.log(np.maximum(answers[np.arange(len(truth)), truth], LEAST)))

    def scores_of(self, answers: Array) -> Array:
        return np.asarray(np.log(np.maximum(answers, LEAST)))

    def summed_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, truth, reduction="sum")

    def credits(self, answers: Array, truth: Truth) -> Array:
        """1 where the class is right, else 0.

        >>> Classification().credits(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])).tolist()
        [1.0, 0.0]
        """
        return np.asarray(answers.argmax(axis=1) == truth, dtype=float)

    def blind_loss(self, truth: Truth) -> float:
        return entropy((np.bincount(truth) / len(truth)).tolist())

    def identities(self, truth: Truth) -> Labels:
        return truth

    def restrict(self, truth: Truth) -> Truth:
        """Renumbered where a class is missing.

        >>> Classification().restrict(np.array([4, 2, 4])).tolist()
        [1, 0, 1]
        """
        return np.unique(truth, return_inverse=True)[1]

    def blind_score(self, truth: Truth) -> float:
        return float(np.bincount(truth).max() / len(truth))

    def n_outputs(self, truth: Truth) -> int:
        return int(truth.max()) + 1

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        return class_statistics(operators, draws)

    def estimate(self, credits: Array, groups: Groups, method: Method) -> Estimate:
        return metrics.hits_estimate(credits, groups, method)

    def certainty(self, answers: Array, truth: Truth, groups: Groups) -> Certainty:
        correct = (answers.argmax(axis=1) == truth).astype(float)
        n_effective = effective_size(correct, groups)
        return Certainty(
            confident_from=confident_threshold(answers.max(axis=1), correct, n_effective),
            promised_error=error_bound(1 - float(correct.mean())),
        )

    def scores(
        self, answers: Array, truth: Truth, groups: Groups, certainty: Any, names: Sequence[str]
    ) -> TestScores:
        return metrics.scores(answers, truth, groups)

    def other_metrics(self, scores: Scores) -> str:
        return (
            f"balanced accuracy {percent(scores.balanced_accuracy, 1)}, macro F1 "
            f"{scores.macro_f1:.3f}, log-loss {scores.log_loss:.3f}, calibration error (ECE) "
            f"{scores.ece:.3f}."
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Array,
        names: Sequence[str],
        certainty: Any,
    ) -> Prediction:
        label = names[int(answer.argmax())]
        return Prediction(
            **metrics.line_fields(example, fold), label=label, scores=metrics.rounded(names, answer)
        )

    line_metric = "accuracy"
    output_meaning = "logits: calibrated; probabilities: their softmax"
    link = ".softmax(1)"

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)

    def answer(
        self, place: AnswerPlace, scores: Array, names: Sequence[str], calibration: Any
    ) -> Answer:
        threshold = calibration.confident_from
        is_confident = None if threshold is None else bool(scores.max() >= threshold)
        return Answer(**place.fields(scores, names), confident=False if place.ood else is_confident)

    def evaluate(
        self,
        scores: Array,
        labels: Sequence[str],
        groups: Groups,
        names: Sequence[str],
        calibration: Any,
    ) -> TestScores:
        truth = self.read(labels, names)
        classes = per_class(scores.argmax(axis=1), truth, groups, names)
        return ScoresByClass(**fields_of(metrics.scores(scores, truth, groups)), classes=classes)

    def uncertainty(self, scores: NDArray[np.floating]) -> Array:
        """1 minus the gap between the two largest probabilities.

        >>> CLASSIFICATION.uncertainty(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])).tolist()
        [1.0, 0.5, 0.0]
        """
        best = np.partition(scores, -2, axis=1)[:, -2:].astype(np.float64)
        return np.asarray(1.0 - (best[:, 1] - best[:, 0]))


CLASSIFICATION = Classification()
