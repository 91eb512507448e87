"""Whether a model's probabilities are calibrated, and the temperature that would calibrate them."""

from __future__ import annotations

import numpy as np

from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.comparison import Confidence, ConfidenceBin, Reliability
from warmstart.solve.calibration import Calibration, fit_temperature, probabilities
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import Groups, accuracy_interval
from warmstart.stats.metrics import Labels, Probabilities, expected_calibration_error, log_loss
from warmstart.stats.paired import mean_interval

FOLDS = 5
BINS = 10  # of equally many predictions, where there are enough
LEAST_IN_BIN = 20
LEAST = 20  # groups; a temperature fitted on fewer says more about them than about the model
LEAST_FACTOR = 0.01  # on the logits; a smaller one means that they are uninformative


def reliability(
    scores: Array, labels: Labels, groups: Groups, rng: np.random.Generator
) -> Reliability:
    """Mean confidence against accuracy, and the temperature that would bring them together.

    The temperature is fitted on all rows; its effect is cross-validated over whole groups.
    Shapes: scores (n, K) are logits or log-probabilities, labels and groups (n,).

    >>> scores, labels = np.eye(2)[np.arange(80) % 2] * 9.0, np.arange(80) % 2
    >>> labels[::4] = 1 - labels[::4]
    >>> result = reliability(scores, labels, np.arange(80), np.random.default_rng(0))
    >>> round(result.gap, 2), result.temperature > 5, result.ece_after < result.ece
    (0.25, True, True)
    """
    p = probabilities(scores, Calibration(1.0, np.zeros(scores.shape[1])))
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == labels).astype(float)
    gap, low, high = mean_interval(confidence - right, groups)
    is_enough = len(np.unique(groups)) >= LEAST
    factor = fit_temperature(scores, labels).scale if is_enough else 0.0
    after = None
    if factor >= LEAST_FACTOR:
        after = _cross_calibrate(scores, labels, groups, rng)
    has_interval = bool(np.isfinite([low, high]).all())
    return Reliability(
        ece=expected_calibration_error(p, labels),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        gap=gap,
        low=low if has_interval else None,
        high=high if has_interval else None,
        temperature=None if after is None else 1 / factor,
        ece_after=None if after is None else expected_calibration_error(after, labels),
        log_loss_after=None if after is None else log_loss(after, labels),
        sentence=_sentence(float(confidence.mean()), float(right.mean()), low, high),
    )


def certainty(
    confidence: Array, right: Array, groups: Groups, nouns: Nouns = IMAGE.nouns
) -> Confidence:
    """Accuracy by confidence, in bins of about equally many predictions.

    Shapes: confidence, right (0 or 1) and groups (n,), n >= 1.

    >>> result = certainty(np.full(40, 0.9), np.arange(40) % 2 * 1.0, np.arange(40))
    >>> [(b.confidence, b.accuracy, b.n) for b in result.bins], result.sentence[:39]
    ([(0.9, 0.5, 20), (0.9, 0.5, 20)], 'Mean confidence 90 %, accuracy 50 %: ov')
    """
    order = np.argsort(confidence, kind="stable")
    n_bins = min(max(len(order) // LEAST_IN_BIN, 1), BINS)
    bins = []
    for rows in np.array_split(order, n_bins):
        share, low, high = accuracy_interval(right[rows], groups[rows])
        mean = round(float(confidence[rows].mean()), 6)
        bins.append(ConfidenceBin(confidence=mean, accuracy=share, low=low, high=high, n=len(rows)))
    _, low, high = mean_interval(confidence - right, groups)
    sentence = _sentence(float(confidence.mean()), float(right.mean()), low, high, nouns)
    return Confidence(sentence=sentence, bins=tuple(bins))


def _cross_calibrate(
    scores: Array, labels: Labels, groups: Groups, rng: np.random.Generator
) -> Probabilities:
    """Probabilities of each row by a temperature fitted without its group. Shapes: (n, K)."""
    numbers, index = np.unique(groups, return_inverse=True)
    fold = rng.permutation(np.arange(len(numbers)) % FOLDS)[index]
    p = np.empty(scores.shape)
    for number in range(FOLDS):
        held = fold == number
        p[held] = probabilities(scores[held], fit_temperature(scores[~held], labels[~held]))
    return p


def _sentence(
    confidence: float, accuracy: float, low: float, high: float, nouns: Nouns = IMAGE.nouns
) -> str:
    """Mean confidence against accuracy, in words; low and high are of the gap.

    >>> _sentence(0.93, 0.81, 0.08, 0.16)
    'Mean confidence 93 %, accuracy 81 %: overconfident by 12 points (95 % CI 8 to 16).'
    >>> _sentence(0.80, 0.81, -0.02, -0.004)
    'Mean confidence 80 %, accuracy 81 %: underconfident by 1 point (95 % CI 0 to 2).'
    """
    means = f"Mean confidence {100 * confidence:.0f} %, accuracy {100 * accuracy:.0f} %"
    n = f"{100 * abs(confidence - accuracy):.0f}"
    gap = f"{n} point{'' if n == '1' else 's'}"
    if low > 0:
        return f"{means}: overconfident by {gap} (95 % CI {100 * low:.0f} to {100 * high:.0f})."
    if high < 0:
        return f"{means}: underconfident by {gap} (95 % CI {-100 * high:.0f} to {-100 * low:.0f})."
    if not np.isfinite([low, high]).all():
        return f"{means}: all of these {nouns.many} form one group, so the gap has no interval."
    ends = f"95 % CI {100 * low:+.0f} to {100 * high:+.0f} points"
    return f"{means}: no significant difference ({ends}).".replace("-", "−")
