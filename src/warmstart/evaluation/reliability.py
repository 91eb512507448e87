"""Are a model's probabilities what they say, and what would mend them."""

from __future__ import annotations

import numpy as np

from warmstart.evaluation.metrics import Labels, Probabilities, expected_calibration_error, log_loss
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.comparison import Confidence, ConfidenceBin, Reliability
from warmstart.solve.calibration import Calibration, fit_temperature, probabilities
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import Groups, proportion
from warmstart.stats.paired import mean_interval

FOLDS = 5
BINS = 10  # of as many answers each, where there are enough of them
LEAST_IN_BIN = 20
LEAST = 20  # blocks; a temperature fitted on fewer says more about them than about the model
LEAST_FACTOR = 0.01  # on the logits; what is fitted below says that they know nothing


def reliability(
    scores: Array, labels: Labels, groups: Groups, rng: np.random.Generator
) -> Reliability:
    """Mean confidence against accuracy, and the temperature that would bring them together.

    The temperature is fitted on all rows; its effect is measured on rows, whole blocks of them,
    that it was not fitted on. Shapes: scores (n, K) are logits or log-probabilities, labels and
    blocks (n,).

    >>> sure, labels = np.eye(2)[np.arange(80) % 2] * 9.0, np.arange(80) % 2
    >>> labels[::4] = 1 - labels[::4]
    >>> found = reliability(sure, labels, np.arange(80), np.random.default_rng(0))
    >>> round(found.gap, 2), found.temperature > 5, found.ece_after < found.ece
    (0.25, True, True)
    """
    p = probabilities(scores, Calibration(1.0, np.zeros(scores.shape[1])))
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == labels).astype(float)
    gap, low, high = mean_interval(confidence - right, groups)
    factor = fit_temperature(scores, labels).scale if _is_enough(groups) else 0.0
    after = _left_out(scores, labels, groups, rng) if factor >= LEAST_FACTOR else None
    is_known = bool(np.isfinite([low, high]).all())
    return Reliability(
        ece=expected_calibration_error(p, labels),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        gap=gap,
        low=low if is_known else None,
        high=high if is_known else None,
        temperature=None if after is None else 1 / factor,
        ece_after=None if after is None else expected_calibration_error(after, labels),
        log_loss_after=None if after is None else log_loss(after, labels),
        sentence=_sentence(float(confidence.mean()), float(right.mean()), low, high),
    )


def certainty(confidence: Array, right: Array, groups: Groups, nouns: Nouns = IMAGES) -> Confidence:
    """How often answers are right, by how sure they are: bins of about as many answers each.

    Shapes: confidence, right (0 or 1) and blocks (n,), n >= 1.

    >>> found = certainty(np.full(40, 0.9), np.arange(40) % 2 * 1.0, np.arange(40))
    >>> [(b.confidence, b.accuracy, b.n) for b in found.bins], found.sentence[:44]
    ([(0.9, 0.5, 20), (0.9, 0.5, 20)], 'On average it is 90 % sure and right 50 % of')
    """
    order = np.argsort(confidence, kind="stable")
    n_bins = min(max(len(order) // LEAST_IN_BIN, 1), BINS)
    bins = []
    for rows in np.array_split(order, n_bins):
        accuracy, low, high = proportion(right[rows], groups[rows])
        mean = round(float(confidence[rows].mean()), 6)
        bins.append(
            ConfidenceBin(confidence=mean, accuracy=accuracy, low=low, high=high, n=len(rows))
        )
    _, low, high = mean_interval(confidence - right, groups)
    words = _sentence(float(confidence.mean()), float(right.mean()), low, high, nouns)
    return Confidence(sentence=words, bins=tuple(bins))


def _is_enough(groups: Groups) -> bool:
    return len(np.unique(groups)) >= LEAST


def _left_out(
    scores: Array, labels: Labels, groups: Groups, rng: np.random.Generator
) -> Probabilities:
    """Probabilities of each row by a temperature fitted without its block. Shapes: (n, K)."""
    numbers, index = np.unique(groups, return_inverse=True)
    fold = rng.permutation(np.arange(len(numbers)) % FOLDS)[index]
    found = np.empty(scores.shape)
    for number in range(FOLDS):
        held = fold == number
        found[held] = probabilities(scores[held], fit_temperature(scores[~held], labels[~held]))
    return found


def _sentence(
    confidence: float, accuracy: float, low: float, high: float, nouns: Nouns = IMAGES
) -> str:
    """How sure the model is and how often it is right, in words; low and high are of the gap.

    >>> _sentence(0.93, 0.81, 0.08, 0.16)
    'On average it is 93 % sure and right 81 % of the time: over-confident by 12 points (8 to 16).'
    """
    says = f"On average it is {100 * confidence:.0f} % sure and right {100 * accuracy:.0f} % of"
    gap = f"{100 * abs(confidence - accuracy):.0f} points"
    if low > 0:
        return f"{says} the time: over-confident by {gap} ({100 * low:.0f} to {100 * high:.0f})."
    if high < 0:
        return f"{says} the time: under-confident by {gap} ({-100 * high:.0f} to {-100 * low:.0f})."
    if not np.isfinite([low, high]).all():
        all_of = f"all of these {nouns.many} belong together"
        return f"{says} the time: {all_of}, so that it tells nothing."
    return (
        f"{says} the time: no difference that chance does not explain "
        f"({100 * low:+.0f} to {100 * high:+.0f} points).".replace("-", "−")
    )
