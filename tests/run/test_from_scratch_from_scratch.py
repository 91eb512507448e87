"""The curve of networks from nothing, against what the warm start says of the same rows."""

import numpy as np
import pytest

from warmstart.run.from_scratch import not_measured, scratch

SIZES = np.array([25.0, 50.0, 100.0])


def course(accuracies, warm, n=200, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    hits = np.stack([(order < share * n).astype(float) for share in accuracies])
    return hits, (rng.permutation(n) < warm * n).astype(float)


def measured(accuracies, warm, groups=None):
    hits, own = course(accuracies, warm)
    rows = np.arange(hits.shape[1]) if groups is None else groups
    return scratch(SIZES, hits, own, rows, 96, np.random.default_rng(0))


def test_a_curve_that_is_far_below_stays_below():
    result = measured([0.2, 0.25, 0.3], 0.9)
    assert result.name == "scratch"
    assert result.high < -0.3
    assert (result.details["now"], result.details["warm"]) == (0.3, 0.9)
    assert "30 % of the time" in result.meaning
    assert "96 px" in result.meaning


def test_a_curve_that_is_level_and_rises_comes_out_above():
    result = measured([0.6, 0.75, 0.85], 0.8)
    assert result.value > 0.05
    assert result.details["later"] == pytest.approx(result.value + 0.8)


def test_what_lies_between_the_two_is_held_by_the_interval():
    result = measured([0.7, 0.7, 0.7], 0.7)
    assert result.low < result.value < result.high
    assert result.low < 0 < result.high


def test_blocks_widen_the_interval():
    alone = measured([0.3, 0.4, 0.5], 0.6)
    groups = np.sort(np.arange(200) % 10)
    hits = np.stack([np.sort(one) for one in course([0.3, 0.4, 0.5], 0.6)[0]])
    own = np.sort(course([0.5], 0.6)[1])
    together = scratch(SIZES, hits, own, groups, 96, np.random.default_rng(0))
    assert together.details["error"] > alone.details["error"]


def test_what_was_not_measured_claims_nothing():
    result = not_measured(12, "too few independent examples")
    assert (result.value, result.low, result.n) == (None, None, 12)
    assert result.meaning == "Not measured: too few independent examples."
