"""One of several classes: probabilities by softmax, log-loss, accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from warmstart.records.data import Task
from warmstart.solve.calibration import (
    Calibration,
    Labels,
    fit_temperature,
    fit_temperature_and_bias,
    log_losses,
    probabilities,
)
from warmstart.solve.ridge import Array
from warmstart.stats.permutation import class_statistics
from warmstart.tasks.task import Operators, Truth
from warmstart.tasks.words import CLASS_WORDS

LEAST = 1e-12  # a probability of zero for the truth costs 27.6 nats, not infinity


def entropy(class_shares: Sequence[float]) -> float:
    """The loss, in nats, of always answering how frequent the classes are.

    Shares need not add up to 1: counts will do.

    >>> round(entropy([10, 10]), 3), entropy([5, 0])
    (0.693, 0.0)
    """
    total = sum(class_shares)
    shares = [share / total for share in class_shares if share > 0]
    return sum(-share * math.log(share) for share in shares)


class Classification:
    """The target of classification. Truth: class numbers (n,) in 0..K-1."""

    task: Task = "classify"
    metric = "accuracy"
    tells_classes = True
    words = CLASS_WORDS

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """Class numbers (n,)."""
        number = {name: index for index, name in enumerate(names)}
        return np.array([number[label] for label in labels], dtype=np.int64)

    def coded(self, truth: Truth, n_outputs: int) -> Array:
        """One-hot."""
        return np.eye(n_outputs)[truth]

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A temperature."""
        return fit_temperature(scores, truth)

    def settle(self, scores: Array, truth: Truth) -> Calibration:
        """And a bias a class, where there are examples enough."""
        return fit_temperature_and_bias(scores, truth)

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A temperature."""
        return fit_temperature(scores, truth)

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        """Probabilities."""
        return probabilities(scores, calibration)

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        """Log-loss, in nats."""
        return log_losses(scores, truth, calibration)

    def said_losses(self, answers: Array, truth: Truth) -> Array:
        """Log-loss of probabilities."""
        found: Array = -np.log(np.maximum(answers[np.arange(len(truth)), truth], LEAST))
        return found

    def delivered(self, calibration: Calibration) -> Calibration:
        """As it is."""
        return calibration

    def scores_of(self, answers: Array) -> Array:
        """Log-probabilities."""
        found: Array = np.log(np.maximum(answers, LEAST))
        return found

    def scale(self, scores: Array, truth: Truth) -> float:
        """The temperature."""
        return fit_temperature(scores, truth).scale

    def credits(self, answers: Array, truth: Truth) -> Array:
        """1 where the row is named right, else 0.

        >>> Classification().credits(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])).tolist()
        [1.0, 0.0]
        """
        right: Array = (answers.argmax(axis=1) == truth).astype(float)
        return right

    def score_error(self, score: float, n: float) -> float:
        """Of a share."""
        return float(np.sqrt(score * (1 - score) / n))

    def blind_loss(self, truth: Truth) -> float:
        """The entropy of the classes, in nats."""
        return entropy((np.bincount(truth) / len(truth)).tolist())

    def folding(self, truth: Truth) -> Truth:
        """The classes."""
        return truth

    def strata(self, truth: Truth) -> Labels:
        """The classes."""
        return truth

    def identities(self, truth: Truth) -> Labels:
        """The classes."""
        return truth

    def among(self, truth: Truth) -> Truth:
        """Numbered anew where a class is missing.

        >>> Classification().among(np.array([4, 2, 4])).tolist()
        [1, 0, 1]
        """
        numbers: Labels = np.unique(truth, return_inverse=True)[1]
        return numbers

    def blind_score(self, truth: Truth) -> float:
        """The share of the largest class."""
        return float(np.bincount(truth).max() / len(truth))

    def n_outputs(self, truth: Truth) -> int:
        """The number of classes."""
        return int(truth.max()) + 1

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """Class-weighted squared residuals, and accuracy."""
        return class_statistics(operators, draws)


CLASSIFICATION = Classification()
