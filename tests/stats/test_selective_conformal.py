"""Intervals that keep their promise."""

import numpy as np

from warmstart.stats.selective import margin


def test_new_errors_lie_inside_as_often_as_promised():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(600):
        errors = np.abs(rng.standard_t(3, size=60))
        inside.append((np.abs(rng.standard_t(3, size=200)) <= margin(errors, np.arange(60))).mean())
    assert 0.89 < np.mean(inside) < 0.92


def test_copies_promise_no_more_than_one_of_them():
    groups = np.repeat(np.arange(5), 4)
    assert margin(np.arange(20.0), groups) is None  # five independent errors promise nothing
    wide = margin(np.arange(80.0), np.repeat(np.arange(20), 4))
    assert wide >= margin(np.arange(80.0), np.arange(80))
