"""Any of several labels at once: a probability each, log-loss, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from warmstart.records.data import split_labels
from warmstart.solve.calibration import Calibration, Labels, fit_platt, log_losses_of
from warmstart.solve.ridge import Array
from warmstart.stats.average_precision import precision_shares, quick_precisions
from warmstart.tasks.task import Operators, Target, Truth
from warmstart.tasks.words import LABEL_WORDS

_LEAST = 1e-12


class Multilabel(Target):
    """Truth: 0 and 1, (n, K). Losses are means over labels of log-losses, in nats."""

    task = "multilabel"
    metric = "mAP"
    words = LABEL_WORDS

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """0 and 1 for each label.

        >>> Multilabel().read(["b", "a|b", ""], ["a", "b"]).tolist()
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
        """
        number = {name: index for index, name in enumerate(names)}
        truth = np.zeros((len(labels), len(names)))
        for row, label in enumerate(labels):
            truth[row, [number[name] for name in split_labels(label)]] = 1.0
        return truth

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        return np.asarray(truth, dtype=np.float64)

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift for each label (Platt)."""
        slopes, shifts = fit_platt(scores, truth)
        return Calibration(1.0, shifts, slopes)

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift for all labels.

        >>> truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
        >>> calibration = Multilabel().recalibrate(4 * truth - 2, truth)
        >>> calibration.slopes is None and bool(calibration.bias[0] == calibration.bias[1])
        True
        """
        slopes, shifts = fit_platt(scores.reshape(-1, 1), truth.reshape(-1, 1))
        return Calibration(float(slopes[0]), np.full(truth.shape[1], shifts[0]))

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        return np.asarray(expit(calibration.scaled(scores)))

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        return log_losses_of(calibration.scaled(scores), truth)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        return log_losses_of(self.scores_of(answers), truth)

    def scores_of(self, answers: Array) -> Array:
        return np.asarray(logit(np.clip(answers, _LEAST, 1 - _LEAST)))

    def credits(self, answers: Array, truth: Truth) -> Array:
        """Shares of the mean average precision: the precision at the labels of the row."""
        return precision_shares(answers, truth)

    def blind_loss(self, truth: Truth) -> float:
        p = np.clip(truth.mean(axis=0), _LEAST, 1 - _LEAST)
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())

    def strata(self, truth: Truth) -> Labels:
        """The rarest label of each row; K for one without any.

        >>> Multilabel().strata(np.array([[1, 1], [0, 1], [0, 0]])).tolist()
        [0, 1, 2]
        """
        counts = np.where(truth > 0, truth.sum(axis=0), np.inf)
        rarest = counts.argmin(axis=1)
        return np.asarray(np.where(truth.any(axis=1), rarest, truth.shape[1]))

    def identities(self, truth: Truth) -> Labels:
        return np.unique(truth, axis=0, return_inverse=True)[1].reshape(-1)

    def restrict(self, truth: Truth) -> Truth:
        return truth[:, truth.any(axis=0)]

    def blind_score(self, truth: Truth) -> float:
        """Mean share of the labels that occur: the score of a random ranking."""
        return float(truth.mean(axis=0)[truth.any(axis=0)].mean()) if truth.any() else 0.0

    def n_outputs(self, truth: Truth) -> int:
        return int(truth.shape[1])

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """Squared leave-out residuals in variances of each label, and mean average precision."""
        sets = np.unique(truth, axis=0).astype(np.float32)[draws]  # (n, m, K)
        n, m, k = sets.shape
        share = truth.mean(axis=0)
        weights = 1.0 / np.maximum(share * (1 - share), 1.0 / n)
        best, score = np.full(m, -np.inf), np.zeros(m)
        for operator in operators:
            residual = (operator @ sets.reshape(n, m * k)).reshape(n, m, k)
            t = -((residual.astype(np.float64) ** 2).sum(axis=0) @ weights)
            better = t > best
            best = np.where(better, t, best)
            score[better] = quick_precisions((sets - residual)[:, better], sets[:, better])
        return best, score


MULTILABEL = Multilabel()
