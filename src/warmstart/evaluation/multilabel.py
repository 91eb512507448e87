"""Answers that name any of several labels: mean average precision, F1, thresholds, surety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import Method, mean_estimate
from warmstart.records.answer import LabelCalibration
from warmstart.records.data import SEPARATOR, Example
from warmstart.records.summary import Estimate, LabelPrediction, LabelScore, LabelScores
from warmstart.stats.average_precision import precisions
from warmstart.stats.intervals import Groups, Values, effective_size
from warmstart.stats.selective import confident_threshold, error_bound
from warmstart.tasks.multilabel import MULTILABEL

# ---- From which probability on a label is named: what gives the best F1 on rows left out.
#
# Source: Lipton, Elkan & Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1
# measure": on calibrated probabilities the best threshold is half the F1 that it reaches, so that
# it never lies above 0.5.


LEAST = 10  # rows that have a label, below which 0.5 is as good a threshold as can be told


def best_thresholds(answers: NDArray[np.float64], truth: NDArray[Any]) -> Values:
    """For each label the threshold of best F1, half way to the next probability below.

    Shapes: (n, K) both; returns (K,), each between 0 and 1.

    >>> p = np.linspace(0.02, 1.0, 50)[:, None]
    >>> best_thresholds(p, (p > 0.4).astype(float)).round(2).tolist()
    [0.41]
    """
    found = np.full(answers.shape[1], 0.5)
    for k in np.flatnonzero(truth.sum(axis=0) >= LEAST):
        order = np.argsort(-answers[:, k], kind="stable")
        p, has = answers[order, k], truth[order, k] > 0
        last = np.append(p[1:] < p[:-1], True)  # ties are named together
        f1 = 2 * np.cumsum(has) / (np.arange(1, len(p) + 1) + has.sum())
        best = int(np.where(last, f1, -1.0).argmax())
        below = p[best + 1] if best + 1 < len(p) else 0.0
        found[k] = (p[best] + below) / 2
    return found


def f1_of(named: NDArray[np.bool_], has: NDArray[np.bool_]) -> Values:
    """F1 of each column; 0 where nothing is named and nothing there. Shapes: (n, K); (K,).

    >>> f1_of(np.array([[True], [True]]), np.array([[True], [False]])).round(3).tolist()
    [0.667]
    """
    both = (named & has).sum(axis=0)
    found: Values = 2 * both / np.maximum(named.sum(axis=0) + has.sum(axis=0), 1)
    return found


_BINS = 15

Answers = NDArray[np.float64]
Truth = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LabelCertainty:
    """From which probability on each label is named, and from when on a whole set is sure."""

    thresholds: Values
    confident_from: float | None
    promised_error: float

    def record(
        self,
        *,
        temperature: float,
        class_bias: tuple[float, ...],
        ood_from: float,
        nearest: int,
    ) -> LabelCalibration:
        """For model/calibration.json."""
        return LabelCalibration(
            temperature=temperature,
            class_bias=class_bias,
            confident_from=self.confident_from,
            promised_error=self.promised_error,
            ood_from=ood_from,
            nearest=nearest,
            thresholds=tuple(float(t) for t in self.thresholds),
        )


def confidence(answers: Answers, thresholds: Values) -> Values:
    """How sure the least sure label of each row is. Shapes: (n, K), (K,); returns (n,).

    Of a label that is named its probability, else that of its absence.

    >>> confidence(np.array([[0.9, 0.2]]), np.array([0.5, 0.5])).tolist()
    [0.8]
    """
    named = answers >= thresholds
    found: Values = np.where(named, answers, 1 - answers).min(axis=1)
    return found


class LabelMeasure:
    """Of multi-label classification."""

    def estimate(self, credits: Values, groups: Groups, method: Method) -> Estimate:
        """Mean average precision."""
        return mean_estimate("mAP", credits, groups, method)

    def certainty(self, answers: Answers, truth: Truth, groups: Groups) -> LabelCertainty:
        """Thresholds of best F1; sets are right where every label is. Shapes: (n, K) both."""
        thresholds = best_thresholds(answers, truth)
        correct = ((answers >= thresholds) == (truth > 0)).all(axis=1).astype(float)
        n_effective = effective_size(correct, groups)
        return LabelCertainty(
            thresholds=thresholds,
            confident_from=confident_threshold(
                confidence(answers, thresholds), correct, n_effective
            ),
            promised_error=error_bound(1 - float(correct.mean())),
        )

    def scores(
        self,
        answers: Answers,
        truth: Truth,
        groups: Groups,
        certainty: LabelCertainty,
        names: Sequence[str] = (),
    ) -> LabelScores:
        """All metrics; the thresholds come from other rows."""
        claim = self.estimate(MULTILABEL.credits(answers, truth), groups, "holdout")
        named, has = answers >= certainty.thresholds, truth > 0
        seen = has.any(axis=0) | named.any(axis=0)
        f1 = f1_of(named, has)
        return LabelScores(
            n=len(truth),
            mAP=claim.value,
            low=claim.low,
            high=claim.high,
            macro_f1=float(f1[seen].mean()) if seen.any() else 0.0,
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
        """The labels named, and all probabilities."""
        named = tuple(
            n for n, is_on in zip(names, answer >= certainty.thresholds, strict=True) if is_on
        )
        return LabelPrediction(
            id=example.id,
            split="test" if fold is None else "oof",
            fold=fold,
            target=example.label,
            label=SEPARATOR.join(named),
            labels=named,
            scores={name: round(float(p), 6) for name, p in zip(names, answer, strict=True)},
        )


def per_label(
    answers: Answers, truth: Truth, names: Sequence[str], thresholds: Values
) -> tuple[LabelScore, ...]:
    """Each label by itself. Shapes: (n, K) both, thresholds (K,)."""
    named, has = answers >= thresholds, truth > 0
    f1, found = f1_of(named, has), []
    for k, name in enumerate(names):
        both, n = int((named[:, k] & has[:, k]).sum()), int(has[:, k].sum())
        average = float(precisions(answers[:, k], has[:, k])[has[:, k]].mean()) if n else None
        found.append(
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
    return tuple(found)


def calibration_error(answers: Answers, truth: Truth) -> float:
    """Mean gap between probability and frequency over 15 bins, the mean over labels.

    Shapes: (n, K) both. Source: Guo et al. 2017, eq. 3, for each label as a pair of classes.

    >>> calibration_error(np.array([[0.5], [0.5]]), np.array([[1.0], [0.0]]))
    0.0
    """
    found = []
    for p, has in zip(answers.T, truth.T, strict=True):
        bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
        found.append(np.abs(np.bincount(bins, weights=p - has, minlength=_BINS)).sum() / len(p))
    return float(np.mean(found))
