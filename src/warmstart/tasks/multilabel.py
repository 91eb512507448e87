"""Any of several labels at once: a probability each, log-loss, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from warmstart.records.data import Task, split_labels
from warmstart.solve.calibration import Calibration, Labels, fit_slopes, log_losses_of
from warmstart.solve.ridge import Array
from warmstart.stats.average_precision import precision_shares, quick_precisions
from warmstart.tasks.task import Operators, Truth
from warmstart.tasks.words import LABEL_WORDS

_LEAST = 1e-12


class Multilabel:
    """The target of multi-label classification. Truth: 0 and 1, (n, K)."""

    task: Task = "multilabel"
    metric = "mAP"
    tells_classes = False
    words = LABEL_WORDS

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """0 and 1 for each label.

        >>> Multilabel().read(["b", "a|b", ""], ["a", "b"]).tolist()
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
        """
        number = {name: index for index, name in enumerate(names)}
        found = np.zeros((len(labels), len(names)))
        for row, label in enumerate(labels):
            found[row, [number[name] for name in split_labels(label)]] = 1.0
        return found

    def coded(self, truth: Truth, n_outputs: int) -> Array:
        """As they are."""
        return np.asarray(truth, dtype=np.float64)

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift a label (Platt)."""
        slopes, shifts = fit_slopes(scores, truth)
        return Calibration(1.0, shifts, slopes)

    def settle(self, scores: Array, truth: Truth) -> Calibration:
        """The same."""
        return self.calibrate(scores, truth)

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift for all labels.

        >>> truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
        >>> found = Multilabel().recalibrate(4 * truth - 2, truth)
        >>> found.slopes is None and bool(found.bias[0] == found.bias[1])
        True
        """
        slopes, shifts = fit_slopes(scores.reshape(-1, 1), truth.reshape(-1, 1))
        return Calibration(float(slopes[0]), np.full(truth.shape[1], shifts[0]))

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        """A probability a label."""
        found: Array = expit(calibration.scaled(scores))
        return found

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        """Log-loss, the mean over labels, in nats."""
        return log_losses_of(calibration.scaled(scores), truth)

    def said_losses(self, answers: Array, truth: Truth) -> Array:
        """Log-loss of probabilities."""
        return log_losses_of(self.scores_of(answers), truth)

    def delivered(self, calibration: Calibration) -> Calibration:
        """As it is."""
        return calibration

    def scores_of(self, answers: Array) -> Array:
        """Log-odds."""
        found: Array = logit(np.clip(answers, _LEAST, 1 - _LEAST))
        return found

    def scale(self, scores: Array, truth: Truth) -> float:
        """One slope for all labels."""
        return self.recalibrate(scores, truth).scale

    def credits(self, answers: Array, truth: Truth) -> Array:
        """What each row adds to the mean average precision: the precision at its labels."""
        return precision_shares(answers, truth)

    def score_error(self, score: float, n: float) -> float:
        """About that of a share."""
        return float(np.sqrt(score * (1 - score) / n))

    def blind_loss(self, truth: Truth) -> float:
        """Mean entropy of the labels, in nats."""
        p = np.clip(truth.mean(axis=0), _LEAST, 1 - _LEAST)
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())

    def folding(self, truth: Truth) -> Truth:
        """The labels themselves: folds keep each in proportion."""
        return truth

    def strata(self, truth: Truth) -> Labels:
        """The rarest label of each row; K for one without any.

        >>> Multilabel().strata(np.array([[1, 1], [0, 1], [0, 0]])).tolist()
        [0, 1, 2]
        """
        counts = np.where(truth > 0, truth.sum(axis=0), np.inf)
        found: Labels = np.where(truth.any(axis=1), counts.argmin(axis=1), truth.shape[1])
        return found

    def identities(self, truth: Truth) -> Labels:
        """Numbers of equal sets."""
        found: Labels = np.unique(truth, axis=0, return_inverse=True)[1].reshape(-1)
        return found

    def among(self, truth: Truth) -> Truth:
        """Labels that some row has."""
        return truth[:, truth.any(axis=0)]

    def blind_score(self, truth: Truth) -> float:
        """Mean share of the labels that occur: what ranking at random reaches."""
        return float(truth.mean(axis=0)[truth.any(axis=0)].mean()) if truth.any() else 0.0

    def n_outputs(self, truth: Truth) -> int:
        """One a label."""
        return int(truth.shape[1])

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """Squared left-out residuals in variances of each label, and mean average precision."""
        sets = np.unique(truth, axis=0).astype(np.float32)[draws]  # (n, m, K)
        n, m, k = sets.shape
        share = truth.mean(axis=0)
        weights = 1.0 / np.maximum(share * (1 - share), 1.0 / n)
        best, found = np.full(m, -np.inf), np.zeros(m)
        for operator in operators:
            residual = (operator @ sets.reshape(n, m * k)).reshape(n, m, k)
            t = -((residual.astype(np.float64) ** 2).sum(axis=0) @ weights)
            better = t > best
            best = np.where(better, t, best)
            told = quick_precisions((sets - residual)[:, better], sets[:, better])
            found[better] = told
        return best, found


MULTILABEL = Multilabel()
