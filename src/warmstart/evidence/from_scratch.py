"""Would the same design, trained from nothing, reach this start with twice the examples?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from warmstart.nouns import IMAGES, Nouns
from warmstart.records.summary import Evidence
from warmstart.stats.learning_curve import FORECAST_SD, fit_power_law
from warmstart.stats.paired import mean_interval

NAME = "scratch"
BOOTS = 400
Values = NDArray[np.float64]
Rows = NDArray[np.int64]


def scratch(
    sizes: Values,
    hits: Values,
    warm: Values,
    blocks: Rows,
    side: int,
    rng: np.random.Generator,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """Accuracy from nothing at twice the examples, less that of the warm start with these.

    A power law of the odds through the sizes, carried on to twice the largest; rows are drawn
    with replacement, blocks whole, for the interval, and the form's own error stands beside.
    Shapes: sizes (S,) rows learnt from, S >= 2, hits (S, n) whether each row is answered
    rightly by a network that had not seen it, warm (n,) the same of the warm start, blocks (n,).
    `side` of the images in px.
    """
    n = hits.shape[1]
    to = 2 * sizes[-1]
    law = fit_power_law(sizes, hits.mean(axis=1))
    value = law.at(to) - float(warm.mean())
    spread = float(np.std([_drawn(sizes, hits, warm, blocks, to, rng) for _ in range(BOOTS)]))
    error = float(np.hypot(spread, FORECAST_SD / np.sqrt(sizes[-1])))
    now, later = float(hits[-1].mean()), law.at(to)
    return Evidence(
        name=NAME,
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=n,
        meaning=(
            f"Trained from nothing{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, and about {100 * later:.0f} % with twice the "
            f"{nouns.many}; this start is right {100 * float(warm.mean()):.0f} % of the time with "
            "these."
        ),
        details={
            "error": error,
            "now": now,
            "later": later,
            "warm": float(warm.mean()),
            **{
                f"accuracy.{round(float(m))}": float(h.mean())
                for m, h in zip(sizes, hits, strict=True)
            },
        },
    )


def behind(
    size: float, hits: Values, warm: Values, blocks: Rows, side: int, nouns: Nouns = IMAGES
) -> Evidence | None:
    """The same from one size, where it is plain: half the errors would still be too many.

    Twice the examples halve the errors of a network that learns as fast as any do (Hestness et
    al. 2017, "Deep Learning Scaling is Predictable, Empirically", §2: errors fall with a power
    of the number of examples, at most its first). None where that could reach the warm start.
    Shapes: hits, warm, blocks (n,), of one fold that was held out; `size` rows learnt from.

    >>> right, nothing, blocks = np.ones(60), np.tile([0.0, 0.0, 1.0], 20), np.arange(60)
    >>> behind(120, nothing, right, blocks, 96).value, behind(120, right, right, blocks, 96)
    (-0.333..., None)
    """
    later = 1 - (1 - hits) / 2
    value, low, high = mean_interval(later - warm, blocks)
    if high >= 0:
        return None
    now, start = float(hits.mean()), float(warm.mean())
    return Evidence(
        name=NAME,
        value=value,
        low=low,
        high=high,
        n=len(hits),
        meaning=(
            f"Trained from nothing{nouns.sized.format(side)}, the same design is right "
            f"{100 * now:.0f} % of the time, this start {100 * start:.0f} %; it would stay behind "
            f"if twice the {nouns.many} halved its errors."
        ),
        details={
            "error": (high - low) / (2 * 1.96),
            "now": now,
            "later": float(later.mean()),
            "warm": start,
            f"accuracy.{round(size)}": now,
        },
    )


def not_measured(n: int, why: str) -> Evidence:
    """The same, where no network was trained from nothing.

    >>> not_measured(30, "too few examples").meaning
    'Not measured: too few examples.'
    """
    return Evidence(
        name=NAME, value=None, low=None, high=None, n=n, meaning=f"Not measured: {why}."
    )


def _drawn(
    sizes: Values, hits: Values, warm: Values, blocks: Rows, to: float, rng: np.random.Generator
) -> float:
    """The same of blocks drawn with replacement."""
    names, place = np.unique(blocks, return_inverse=True)
    weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[place]
    total = max(int(weight.sum()), 1)
    law = fit_power_law(sizes, hits @ weight / total)
    return law.at(to) - float(warm @ weight) / total
