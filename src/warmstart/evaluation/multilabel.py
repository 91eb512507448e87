"""Predictions of several labels: mean average precision, F1, thresholds, confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation import metrics
from warmstart.evaluation.metrics import Method
from warmstart.records.answer import LabelCalibration
from warmstart.records.data import SEPARATOR, Example
from warmstart.records.summary import Estimate, LabelPrediction, LabelScore, LabelScores
from warmstart.stats.average_precision import precisions
from warmstart.stats.intervals import Groups, Values, effective_size
from warmstart.stats.selective import confident_threshold, error_bound
from warmstart.tasks.multilabel import MULTILABEL

Truth = NDArray[Any]
LEAST = 10  # rows with a label, below which its threshold stays at 0.5


def best_thresholds(answers: Values, truth: Truth) -> Values:
    """For each label the threshold of best F1, half way to the next probability below.

    Lipton, Elkan & Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1
    measure": on calibrated probabilities it is half the F1 that it reaches, so never above 0.5.
    Shapes: (n, K) both; returns (K,), each between 0 and 1.

    >>> p = np.linspace(0.02, 1.0, 50)[:, None]
    >>> best_thresholds(p, (p > 0.4).astype(float)).round(2).tolist()
    [0.41]
    """
    thresholds = np.full(answers.shape[1], 0.5)
    for k in np.flatnonzero(truth.sum(axis=0) >= LEAST):
        order = np.argsort(-answers[:, k], kind="stable")
        p, has = answers[order, k], truth[order, k] > 0
        last = np.append(p[1:] < p[:-1], True)  # ties are named together
        f1 = 2 * np.cumsum(has) / (np.arange(1, len(p) + 1) + has.sum())
        best = int(np.where(last, f1, -1.0).argmax())
        below = p[best + 1] if best + 1 < len(p) else 0.0
        thresholds[k] = (p[best] + below) / 2
    return thresholds


def f1_of(named: NDArray[np.bool_], has: NDArray[np.bool_]) -> Values:
    """F1 of each column; 0 where no label is predicted or true. Shapes: (n, K); returns (K,).

    >>> f1_of(np.array([[True], [True]]), np.array([[True], [False]])).round(3).tolist()
    [0.667]
    """
    both = (named & has).sum(axis=0)
    return np.asarray(2 * both / np.maximum(named.sum(axis=0) + has.sum(axis=0), 1))


@dataclass(frozen=True, slots=True)
class LabelCertainty:
    """The threshold of each label, and from which confidence on a whole set is confident."""

    thresholds: Values
    confident_from: float | None
    promised_error: float

    def record(self, **calibration: Any) -> LabelCalibration:
        return LabelCalibration(
            confident_from=self.confident_from,
            promised_error=self.promised_error,
            thresholds=tuple(float(t) for t in self.thresholds),
            **calibration,
        )


def confidence(answers: Values, thresholds: Values) -> Values:
    """The confidence of each row's least confident label. Shapes: (n, K), (K,); returns (n,).

    It is the probability of a predicted label, else that of its absence.

    >>> confidence(np.array([[0.9, 0.2]]), np.array([0.5, 0.5])).tolist()
    [0.8]
    """
    named = answers >= thresholds
    return np.asarray(np.where(named, answers, 1 - answers).min(axis=1))


class LabelMeasure:
    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        return metrics.mean_estimate("mAP", credits, groups, method)

    def certainty(self, answers: Values, truth: Truth, groups: Groups) -> LabelCertainty:
        """A set is right where every label is."""
        thresholds = best_thresholds(answers, truth)
        correct = ((answers >= thresholds) == (truth > 0)).all(axis=1).astype(float)
        least, n_effective = confidence(answers, thresholds), effective_size(correct, groups)
        return LabelCertainty(
            thresholds=thresholds,
            confident_from=confident_threshold(least, correct, n_effective),
            promised_error=error_bound(1 - float(correct.mean())),
        )

    def scores(
        self,
        answers: Values,
        truth: Truth,
        groups: Groups,
        certainty: LabelCertainty,
        names: Sequence[str] = (),
    ) -> LabelScores:
        score = self.estimate(MULTILABEL.credits(answers, truth), groups, "holdout")
        named, has = answers >= certainty.thresholds, truth > 0
        occurs = has.any(axis=0) | named.any(axis=0)
        f1 = f1_of(named, has)
        return LabelScores(
            n=len(truth),
            mAP=score.value,
            low=score.low,
            high=score.high,
            macro_f1=float(f1[occurs].mean()) if occurs.any() else 0.0,
            micro_f1=float(f1_of(named.reshape(-1, 1), has.reshape(-1, 1))[0]),
            exact=float((named == has).all(axis=1).mean()),
            log_loss=float(MULTILABEL.answer_losses(answers, truth).mean()),
            ece=calibration_error(answers, truth),
            labels=per_label(answers, truth, names, certainty.thresholds) if names else (),
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Values,
        names: Sequence[str],
        certainty: LabelCertainty,
    ) -> LabelPrediction:
        named = tuple(names[k] for k in np.flatnonzero(answer >= certainty.thresholds).tolist())
        return LabelPrediction(
            **metrics.line_fields(example, fold),
            label=SEPARATOR.join(named),
            labels=named,
            scores=metrics.rounded(names, answer),
        )


def per_label(
    answers: Values, truth: Truth, names: Sequence[str], thresholds: Values
) -> tuple[LabelScore, ...]:
    """The scores of each label. Shapes: (n, K) both, thresholds (K,)."""
    named, has = answers >= thresholds, truth > 0
    f1, scores = f1_of(named, has), []
    for k, name in enumerate(names):
        both, n = int((named[:, k] & has[:, k]).sum()), int(has[:, k].sum())
        average = float(precisions(answers[:, k], has[:, k])[has[:, k]].mean()) if n else None
        scores.append(
            LabelScore(
                label=name,
                n=n,
                average_precision=average,
                f1=float(f1[k]),
                precision=both / max(int(named[:, k].sum()), 1),
                recall=both / max(n, 1),
                threshold=float(thresholds[k]),
            )
        )
    return tuple(scores)


def calibration_error(answers: Values, truth: Truth) -> float:
    """Mean gap between probability and frequency over 15 bins, the mean over labels.

    Shapes: (n, K) both. Source: Guo et al. 2017, eq. 3, for each label as a pair of classes.

    >>> calibration_error(np.array([[0.5], [0.5]]), np.array([[1.0], [0.0]]))
    0.0
    """
    gaps = [metrics.calibration_gap(p, has) for p, has in zip(answers.T, truth.T, strict=True)]
    return float(np.mean(gaps))
