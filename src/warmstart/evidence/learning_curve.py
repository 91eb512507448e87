"""Would more examples help? The head's learning curve, extrapolated to twice as many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.evidence.probe import LeftOut, not_measured
from warmstart.records.summary import Estimate, Evidence
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.learning_curve import PowerLaw, expected_gain
from warmstart.stats.permutation import spread_order
from warmstart.tasks.task import Target, Truth

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
DRAWS = 10
LEAST_SIZES = 3  # distinct sizes that a curve needs
LEAST_ROWS = 40  # below, the smallest subsets hold next to nothing
MOST_BEYOND = 2.5  # times the rows measured: no extrapolation beyond
FLAT = 0.01  # gain of a doubling below which the curve is called flat


def learning_curve(
    kernel: Array,
    head: LeftOut,
    labels: Truth,
    group_rows: Sequence[Rows],
    n_all: int,
    rng: np.random.Generator,
) -> Evidence:
    """Accuracy gain of twice as many examples, by a power law of the odds through six sizes.

    Shapes: kernel (n, n), labels (n,); groups partition the rows; `head` is the ridge on this
    kernel, whose penalty serves every size. `n_all` is the number of examples, more than n where
    the rows are a sample; there is no value far beyond the rows measured.
    """
    n, k = len(labels), head.scores.shape[1]
    if n < LEAST_ROWS or n_all > MOST_BEYOND * n:
        reason = "too few examples" if n < LEAST_ROWS else "far more examples than were measured"
        return not_measured("learning_curve", n, f"Not measured: {reason}.")
    orders = [spread_order(head.target.strata(labels), group_rows, rng) for _ in range(DRAWS)]
    targets = [max(round(share * n), 2 * k) for share in SHARES]
    # Whole groups that hold at least `size` rows; one group is left over.
    stops = np.array(
        [
            [int(ends[min(int(np.searchsorted(ends, size)), len(ends) - 2)]) for size in targets]
            for _, ends in orders
        ]
    )
    sizes = stops.mean(axis=0)
    if len(np.unique(sizes)) < LEAST_SIZES:
        reason = "classes or groups leave too few sizes to compare"
        return not_measured("learning_curve", n, f"Not measured: {reason}.")
    pairs = zip(orders, stops, strict=True)
    curves = np.array(
        [[_accuracy(kernel, head, labels, rows, at) for at in ends] for (rows, _), ends in pairs]
    )
    gain = expected_gain(sizes, curves, n_all, 2 * n_all, rng)
    means = curves.mean(axis=0)
    details: dict[str, float | int | str] = {
        f"accuracy.{round(size)}": float(a) for size, a in zip(sizes, means, strict=True)
    }
    details |= {"scale": gain.law.scale, "exponent": gain.law.exponent}
    return _evidence(gain.value, gain.low, gain.high, n, n_all, k, head.target, details)


def anchored(
    evidence: Evidence, estimate: Estimate, n_fit: int, n_all: int, n_classes: int, target: Target
) -> Evidence:
    """Shift the curve so that it ends in the linear probe's cross-validated score.

    Its points come from one feature set and a cheap fit; the selected head is better. All points
    move by the same log-odds. `n_fit`: training examples in each fold of `estimate`.
    """
    scale, exponent = evidence.details.get("scale"), evidence.details.get("exponent")
    if evidence.value is None or not isinstance(scale, float) or not isinstance(exponent, float):
        return evidence
    law = PowerLaw(scale, exponent)
    least = 0.5 / n_fit
    value = min(max(estimate.value, least), 1 - least)
    factor = value / (1 - value) / max(law.scale * n_fit**law.exponent, 1e-12)
    moved = PowerLaw(law.scale * factor, law.exponent)
    gain = moved.at(2 * n_all) - moved.at(n_all)
    below = evidence.value - (evidence.low or 0.0)
    above = (evidence.high or 0.0) - evidence.value
    low, high = max(gain - below, 0.0), gain + above
    details: dict[str, float | int | str] = {}
    for key, point in evidence.details.items():
        if key.startswith("accuracy."):
            share = min(max(float(point), least), 1 - least)
            odds = factor * share / (1 - share)
            details[key] = odds / (1 + odds)
    details[f"accuracy.{n_fit}"] = estimate.value
    details |= {"scale": moved.scale, "exponent": moved.exponent}
    return _evidence(gain, low, high, evidence.n, n_all, n_classes, target, details)


def _evidence(
    value: float,
    low: float,
    high: float,
    n: int,
    n_all: int,
    n_classes: int,
    target: Target,
    details: dict[str, float | int | str],
) -> Evidence:
    more = f"{max(round(n_all / n_classes), 1):,} {target.words.more}"
    if high < FLAT:
        meaning = (
            f"More examples of this kind would hardly help: {more} would add less than "
            f"{100 * FLAT:.0f} point."
        )
    else:
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        meaning = f"About {more} would add {100 * value:.1f} points ({interval})."
    return Evidence(
        name="learning_curve",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=meaning,
        details=details,
    )


def _accuracy(kernel: Array, head: LeftOut, labels: Truth, rows: Rows, stop: int) -> float:
    """Accuracy on the other rows of a head fitted on the first `stop` of `rows`."""
    train, rest = rows[:stop], rows[stop:]
    if 2 * len(train) > len(rows):  # leaving few rows out costs less than fitting many
        scores = ridge.left_out(head.dual, [rest])[rest]
    else:
        inner = kernel[np.ix_(train, train)]
        dual = ridge.fit(inner, head.dual.targets[train], head.penalty)
        scores = kernel[np.ix_(rest, train)] @ dual.coefficients
        scores = scores + ridge.intercept(inner, dual, head.penalty)
    return float(head.target.credits(scores, labels[rest]).mean())
