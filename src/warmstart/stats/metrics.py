"""How good predictions are, with intervals where a single number would mislead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.records.data import Example
from warmstart.records.summary import Estimate, Scores
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import Groups, accuracy_interval
from warmstart.stats.paired import mean_interval

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]
Method = Literal["nested-cv", "holdout"]

# Variance of (estimate - accuracy of the finished model) over that of independent hits. The
# model that is shipped is not the models that were scored, and their mistakes share training
# rows (Bengio & Grandvalet 2004; Bates et al. 2023). Measured on draws of 100 images: 1.71 on
# sign_digits, 1.58 on textures10, 1.62 on trashnet; of 300 on trashnet 1.99 (bench coverage).
MODEL_VARIANCE = 1.7

RULE_OF_THREE = 3.0  # Hanley & Lippman-Hand 1983, "If nothing goes wrong, is everything all right?"
LEAST_SCORE = -1.0  # below it a score says no more than that nothing was learnt
_LEAST = 0.5  # of a mistake in all rows: where none was made, so that an interval has a width
_BINS = 15  # Guo et al. 2017
_SMALLEST = 1e-12  # a probability of zero for the truth costs 27.6 nats, not infinity


def accuracy_estimate(
    probabilities: Probabilities, labels: Labels, groups: Groups, method: Method
) -> Estimate:
    """Accuracy on held-out rows with its cluster-robust 95 % interval.

    Shapes: probabilities (n, K), labels and groups (n,).
    """
    return hits_estimate((probabilities.argmax(axis=1) == labels).astype(float), groups, method)


def hits_estimate(hits: NDArray[np.float64], groups: Groups, method: Method) -> Estimate:
    """Accuracy from how often each row was predicted right. Shapes: (n,).

    Means of sums and differences of hits, -1 to 2, may vary more than hits do: that widens their
    interval.

    >>> even, wild = np.arange(100) % 2.0, 3 * (np.arange(100) % 2.0) - 1
    >>> narrow, wide = (hits_estimate(h, np.arange(100), "holdout") for h in (even, wild))
    >>> narrow.value == wide.value == 0.5, round(narrow.low, 2), round(wide.low, 2)
    (True, 0.4, 0.24)
    """
    n, p = len(hits), float(np.clip(hits.mean(), 0.0, 1.0))
    inflation = 1.0 if method == "holdout" else MODEL_VARIANCE
    inflation *= max(float(hits.var()) / max(p * (1 - p), _LEAST / n), 1.0)
    value, low, high = accuracy_interval(hits, groups, inflation)
    return Estimate(metric="accuracy", value=value, low=low, high=high, n=n, method=method)


def mean_estimate(
    metric: str, credits: NDArray[np.float64], groups: Groups, method: Method
) -> Estimate:
    """A score that is the mean of its rows' credits, at most 1, with its 95 % interval.

    Shapes: (n,). The interval is that of a mean of dependent rows, widened as `hits_estimate`
    does where the models that were scored are not the one that ships.

    >>> credits = np.tile([1.0, 0.8, 0.9, 0.7], 25)
    >>> estimate = mean_estimate("r2", credits, np.arange(100), "holdout")
    >>> round(estimate.value, 2), round(estimate.low, 2), round(estimate.high, 2)
    (0.85, 0.82, 0.88)
    """
    value, low, high = mean_interval(credits, groups)
    wider = 1.0 if method == "holdout" else float(np.sqrt(MODEL_VARIANCE))
    least = RULE_OF_THREE / len(credits)  # a score that never varied may have been lucky
    low = max(value - max(wider * (value - low), least), LEAST_SCORE)
    high = min(value + max(wider * (high - value), least), 1.0)
    n = len(credits)
    return Estimate(metric=metric, value=value, low=low, high=high, n=n, method=method)


def scores(probabilities: Probabilities, labels: Labels, groups: Groups) -> Scores:
    """All metrics of a test set. Class means leave out classes without an example there.

    Shapes: probabilities (n, K), labels and groups (n,).

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> result = scores(p, np.array([0, 1, 1]), np.arange(3))
    >>> round(result.accuracy, 3), round(result.balanced_accuracy, 3), round(result.macro_f1, 3)
    (0.667, 0.75, 0.667)
    """
    predicted = probabilities.argmax(axis=1)
    value, low, high = accuracy_interval((predicted == labels).astype(float), groups)
    return Scores(
        n=len(labels),
        accuracy=value,
        low=low,
        high=high,
        balanced_accuracy=balanced_accuracy(predicted, labels),
        macro_f1=macro_f1(predicted, labels),
        log_loss=log_loss(probabilities, labels),
        ece=expected_calibration_error(probabilities, labels),
    )


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """Mean recall of the classes. Shapes: (n,)."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def macro_f1(predicted: Labels, labels: Labels) -> float:
    """Mean F1 over the classes that occur in truth or prediction. Shapes: (n,)."""
    f1 = []
    for c in np.union1d(labels, predicted):
        hits = int(((predicted == c) & (labels == c)).sum())
        f1.append(2 * hits / int((predicted == c).sum() + (labels == c).sum()))
    return float(np.mean(f1))


def log_loss(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-probability of the truth, in nats. Shapes: (n, K), (n,)."""
    truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(truth, _SMALLEST)).mean())


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of confidence.

    Shapes: (n, K), (n,). Source: Guo et al. 2017, eq. 3.

    >>> expected_calibration_error(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1]))
    0.0
    """
    return calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def calibration_gap(confidence: NDArray[np.float64], right: NDArray[Any]) -> float:
    """Mean gap between confidence and how often it is right, 0 or 1, over 15 bins. Shapes: (n,)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = np.abs(np.bincount(bins, weights=confidence - right, minlength=_BINS))
    return float(gap.sum() / len(right))


def line_fields(example: Example, fold: int | None) -> dict[str, Any]:
    """The fields of a line of predictions.jsonl that do not depend on the task."""
    split = "test" if fold is None else "oof"
    return {"id": example.id, "split": split, "fold": fold, "target": example.label}


def rounded(names: Sequence[str], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Probabilities by name, to six digits. Shapes: (K,)."""
    return {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=True)}


# ---- Average precision, label by label, and what each row adds to its mean.
#
# The average precision of a label is the mean, over the rows that have it, of the precision among
# all rows ranked as high (Everingham et al. 2010, "The PASCAL VOC challenge", uninterpolated).


def precision_shares(answers: Array, truth: Array) -> Array:
    """What each row adds to the mean average precision: the mean of these shares.

    A share is the mean average precision plus the deviations of the precision at the row's own
    labels. Labels without a row count nothing; rows that tie are ranked together.
    Shapes: answers (n, K), truth (n, K) of 0 and 1; returns (n,).

    >>> answers, truth = np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]])
    >>> precision_shares(answers, truth).round(3).tolist()
    [1.083, 0.833, 0.583]
    """
    n, deviations, total = len(truth), np.zeros(len(truth)), 0.0
    labels = np.flatnonzero(truth.any(axis=0))
    for label in labels:
        has = truth[:, label] > 0
        own = precisions(answers[:, label], has)[has]
        total += float(own.mean())
        deviations[has] += (own - own.mean()) / has.sum()
    k = max(len(labels), 1)
    shares: Array = total / k + deviations * n / k
    return shares


def precisions(scores: Array, has: NDArray[np.bool_]) -> Array:
    """The precision among all rows with a score as high as each row's. Shapes: (n,) all.

    >>> precisions(np.array([0.5, 0.5, 0.9]), np.array([True, False, True])).round(3).tolist()
    [0.667, 0.667, 1.0]
    """
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    last = np.searchsorted(falling, falling, side="right") - 1  # of those that tie
    hits = np.cumsum(has[order])
    result = np.empty(len(scores))
    result[order] = hits[last] / (last + 1)
    return result


def quick_precisions(scores: NDArray[np.float32], truth: NDArray[np.float32]) -> Array:
    """Mean average precision of many draws at once, ties ignored. Shapes: (n, m, K) both; (m,)."""
    order = np.argsort(-scores, axis=0)
    has = np.take_along_axis(truth, order, axis=0)
    ranked = np.cumsum(has, axis=0) / np.arange(1, len(scores) + 1)[:, None, None]
    positives = has.sum(axis=0)
    precision = (ranked * has).sum(axis=0) / np.maximum(positives, 1)
    mean: Array = precision.sum(axis=1) / np.maximum((positives > 0).sum(axis=1), 1)
    return mean
