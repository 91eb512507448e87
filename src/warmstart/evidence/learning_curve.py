"""Would more examples help? The head's learning curve, carried on to twice as many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.evidence.probe_hits import LeftOut
from warmstart.records.summary import Estimate, Evidence
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.learning_curve import PowerLaw, expected_gain
from warmstart.stats.permutation import spread_order
from warmstart.tasks.task import Target, Truth

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
DRAWS = 10
LEAST_SIZES = 3  # different ones, below which a curve says nothing
LEAST_ROWS = 40  # below, the smallest subsets hold next to nothing
MOST_BEYOND = 2.5  # times the rows measured: for more examples nothing is claimed
FLAT = 0.01  # a doubling that brings less than this is called flat


def learning_curve(
    kernel: Array,
    head: LeftOut,
    labels: Truth,
    group_rows: Sequence[Rows],
    n_all: int,
    rng: np.random.Generator,
) -> Evidence:
    """What twice as many examples would bring, by a power law of the odds through six sizes.

    Shapes: kernel (n, n), labels (n,); `groups` partition the rows; `head` is the ridge on
    this kernel, whose penalty serves every size. `n_all` is how many examples there are:
    more than n where rows were drawn. Far beyond the rows measured nothing is claimed.
    """
    n, k = len(labels), head.scores.shape[1]
    if n < LEAST_ROWS or n_all > MOST_BEYOND * n:
        reason = "too few examples" if n < LEAST_ROWS else "far more examples than were measured"
        return _evidence(None, None, None, n, f"Not measured: {reason}.", {})
    orders = [spread_order(head.target.strata(labels), group_rows, rng) for _ in range(DRAWS)]
    wanted = [max(round(share * n), 2 * k) for share in SHARES]
    stops = np.array([[_stop(ends, size) for size in wanted] for _, ends in orders])
    sizes = stops.mean(axis=0)
    if len(np.unique(sizes)) < LEAST_SIZES:
        reason = "classes or groups leave too few sizes to compare"
        return _evidence(None, None, None, n, f"Not measured: {reason}.", {})
    pairs = zip(orders, stops, strict=True)
    curves = np.array(
        [[_accuracy(kernel, head, labels, rows, at) for at in ends] for (rows, _), ends in pairs]
    )
    gain = expected_gain(sizes, curves, n_all, 2 * n_all, rng)
    means = curves.mean(axis=0)
    details: dict[str, float | int | str] = {
        f"accuracy.{round(size)}": float(a) for size, a in zip(sizes, means, strict=True)
    }
    details |= {"scale": gain.law.scale, "rate": gain.law.rate}
    text = _meaning(gain.value, gain.low, gain.high, n_all, k, head.target)
    return _evidence(gain.value, gain.low, gain.high, n, text, details)


def anchored(
    found: Evidence, estimate: Estimate, n_learnt: int, n_all: int, n_classes: int, target: Target
) -> Evidence:
    """The curve moved so that it ends in the linear probe's cross-validated score.

    Its points come from one feature set and a cheap fit; the head that was chosen is better. The
    form is kept: every point moves by the same log-odds. `n_learnt`: how many examples the folds
    of `estimate` left to learn from.
    """
    scale, rate = found.details.get("scale"), found.details.get("rate")
    if found.value is None or not isinstance(scale, float) or not isinstance(rate, float):
        return found
    law = PowerLaw(scale, rate)
    least = 0.5 / n_learnt
    value = min(max(estimate.value, least), 1 - least)
    factor = value / (1 - value) / max(law.scale * n_learnt**law.rate, 1e-12)
    moved = PowerLaw(law.scale * factor, law.rate)
    gain = moved.at(2 * n_all) - moved.at(n_all)
    below, above = (found.value - (found.low or 0.0)), ((found.high or 0.0) - found.value)
    low, high = max(gain - below, 0.0), gain + above
    details: dict[str, float | int | str] = {}
    for key, point in found.details.items():
        if key.startswith("accuracy."):
            share = min(max(float(point), least), 1 - least)
            odds = factor * share / (1 - share)
            details[key] = odds / (1 + odds)
    details[f"accuracy.{n_learnt}"] = estimate.value
    details |= {"scale": moved.scale, "rate": moved.rate}
    text = _meaning(gain, low, high, n_all, n_classes, target)
    return _evidence(gain, low, high, found.n, text, details)


def _meaning(value: float, low: float, high: float, n: int, n_classes: int, target: Target) -> str:
    more = max(round(n / n_classes), 1)
    if high < FLAT:
        return (
            f"More examples of this kind would hardly help: {more:,} {target.words.more} would "
            f"bring less than {100 * FLAT:.0f} point."
        )
    return (
        f"About {more:,} {target.words.more} would bring {100 * value:.1f} points "
        f"({100 * low:.1f} to {100 * high:.1f})."
    )


def _evidence(
    value: float | None,
    low: float | None,
    high: float | None,
    n: int,
    meaning: str,
    details: dict[str, float | int | str],
) -> Evidence:
    return Evidence(
        name="learning_curve",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=meaning,
        details=details,
    )


def _stop(ends: Rows, size: int) -> int:
    """Where the whole blocks end that hold at least `size` rows; one block is left over."""
    return int(ends[min(int(np.searchsorted(ends, size)), len(ends) - 2)])


def _accuracy(kernel: Array, head: LeftOut, labels: Truth, rows: Rows, stop: int) -> float:
    """Accuracy on all other rows of a head that learns from the first `stop` of an order."""
    learn, rest = rows[:stop], rows[stop:]
    if 2 * len(learn) > len(rows):  # taking few rows out costs less than fitting many
        scores = ridge.left_out(head.dual, [rest])[rest]
    else:
        inner = kernel[np.ix_(learn, learn)]
        dual = ridge.fit(inner, head.dual.targets[learn], head.penalty)
        scores = kernel[np.ix_(rest, learn)] @ dual.coefficients
        scores = scores + ridge.intercept(inner, dual, head.penalty)
    return float(head.target.credits(scores, labels[rest]).mean())
