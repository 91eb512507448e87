"""The difference of two proportions that were measured on different examples."""

from __future__ import annotations

import math

Interval = tuple[float, float, float]  # value, low, high


def gap(one: Interval, other: Interval) -> Interval:
    """One less the other, with an interval made of theirs; for independent examples.

    Source: Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10.

    >>> [round(x, 3) for x in gap((0.5, 0.4, 0.6), (0.3, 0.2, 0.4))]
    [0.2, 0.059, 0.341]
    """
    (p, low, high), (q, least, most) = one, other
    return (
        p - q,
        p - q - math.hypot(p - low, most - q),
        p - q + math.hypot(high - p, q - least),
    )
