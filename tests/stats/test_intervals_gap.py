"""Newcombe's interval for a difference of two proportions."""

import numpy as np
import pytest

from warmstart.stats.intervals import accuracy_interval, gap, wilson


def test_the_published_example():
    """Newcombe 1998, table II: 56/70 less 48/80, method 10: 0.0524 to 0.3339."""
    sides = [(p, *wilson(p, n, 1e9)) for p, n in ((56 / 70, 70), (48 / 80, 80))]
    value, low, high = gap(*sides)
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_it_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        a, b = (
            accuracy_interval((rng.random(n) < p).astype(float), np.arange(n))
            for n, p in ((60, 0.9), (40, 0.7))
        )
        _, low, high = gap(a, b)
        held += low <= 0.2 <= high
    assert 0.92 <= held / 400 <= 0.99
