"""One of several classes: probabilities by softmax, log-loss, accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

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
from warmstart.tasks.task import Operators, Target, Truth
from warmstart.tasks.words import CLASS_WORDS

LEAST = 1e-12  # a probability of zero for the truth costs 27.6 nats, not infinity


def entropy(class_shares: Sequence[float]) -> float:
    """The loss, in nats, of always predicting the class frequencies; counts will do.

    >>> round(entropy([10, 10]), 3), entropy([5, 0])
    (0.693, 0.0)
    """
    total = sum(class_shares)
    shares = [share / total for share in class_shares if share > 0]
    return sum(-share * math.log(share) for share in shares)


class Classification(Target):
    """Truth: class numbers (n,) in 0..K-1. Losses are log-losses, in nats."""

    task = "classify"
    metric = "accuracy"
    words = CLASS_WORDS
    has_classes = True

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


CLASSIFICATION = Classification()
