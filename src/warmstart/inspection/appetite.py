"""Would more examples help? The head's learning curve, carried on to twice as many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.inspection.hits import LeftOut
from warmstart.records import Evidence
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.solve.temperature import Labels
from warmstart.stats.curve import expected_gain
from warmstart.stats.draws import spread_order

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
DRAWS = 10
LEAST_ROWS = 40  # below, the smallest subsets hold next to nothing
FLAT = 0.01  # a doubling that brings less than this is called flat


def appetite(
    kernel: Array,
    head: LeftOut,
    labels: Labels,
    groups: Sequence[Rows],
    n_all: int,
    rng: np.random.Generator,
) -> Evidence:
    """What twice as many examples would bring, by a power law of the odds through six sizes.

    Shapes: kernel (n, n), labels (n,); `groups` partition the rows; `head` is the ridge on
    this kernel, whose penalty serves every size. `n_all` is how many examples there are:
    more than n where rows were drawn. Beyond twice the rows measured nothing is claimed.
    """
    n, k = len(labels), head.scores.shape[1]
    if n < LEAST_ROWS or n_all > 2 * n:
        reason = "too few examples" if n < LEAST_ROWS else "far more examples than were measured"
        return _evidence(None, None, None, n, f"Not measured: {reason}.", {})
    sizes = np.array([max(round(share * n), 2 * k) for share in SHARES], dtype=float)
    orders = [spread_order(labels, groups, rng) for _ in range(DRAWS)]
    curves = np.array([[_accuracy(kernel, head, labels, o, m) for m in sizes] for o in orders])
    gain = expected_gain(sizes, curves, n_all, 2 * n_all, rng)
    means = curves.mean(axis=0)
    details: dict[str, float | int | str] = {
        f"accuracy.{int(size)}": float(a) for size, a in zip(sizes, means, strict=True)
    }
    details |= {"scale": gain.law.scale, "rate": gain.law.rate}
    text = _meaning(gain.value, gain.low, gain.high, n_all, k)
    return _evidence(gain.value, gain.low, gain.high, n, text, details)


def _meaning(value: float, low: float, high: float, n: int, n_classes: int) -> str:
    more = max(round(n / n_classes), 1)
    if high < FLAT:
        return (
            f"More examples of this kind would hardly help: {more:,} more a class would bring "
            f"less than {100 * FLAT:.0f} point."
        )
    return (
        f"About {more:,} more a class would bring {100 * value:.1f} points "
        f"({100 * low:.1f} to {100 * high:.1f})."
    )


def _evidence(
    value: float | None, low: float | None, high: float | None, n: int, meaning: str,
    details: dict[str, float | int | str],
) -> Evidence:  # fmt: skip
    return Evidence(
        name="appetite", value=value, low=low, high=high, n=n, meaning=meaning, details=details
    )


def _accuracy(
    kernel: Array, head: LeftOut, labels: Labels, order: tuple[Rows, Rows], size: float
) -> float:
    """Accuracy on all other rows of a head that learns from about `size` rows of an order."""
    rows, ends = order
    stop = int(ends[min(int(np.searchsorted(ends, size)), len(ends) - 2)])
    learn, rest = rows[:stop], rows[stop:]
    if 2 * len(learn) > len(rows):  # taking few rows out costs less than fitting many
        scores = ridge.left_out(head.dual, [rest])[rest]
    else:
        inner = kernel[np.ix_(learn, learn)]
        dual = ridge.fit(inner, head.dual.targets[learn], head.penalty)
        scores = kernel[np.ix_(rest, learn)] @ dual.coefficients
        scores = scores + ridge.intercept(inner, dual, head.penalty)
    return float((scores.argmax(axis=1) == labels[rest]).mean())
