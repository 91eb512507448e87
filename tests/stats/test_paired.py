import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.stats import paired


def test_a_real_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.9).astype(float)
    b = (rng.random(400) < 0.75).astype(float)
    real = paired.difference(a, b, np.arange(400), rng)
    assert real.p < 0.01
    assert real.low > 0
    shuffled = paired.difference(a, rng.permutation(a), np.arange(400), rng)
    assert shuffled.p > 0.05
    assert shuffled.low < 0 < shuffled.high


def test_blocks_widen_the_interval():
    rng = np.random.default_rng(1)
    gap = np.repeat(rng.normal(size=30), 8)
    zero = np.zeros_like(gap)
    wide = paired.difference(gap, zero, np.repeat(np.arange(30), 8), rng)
    narrow = paired.difference(gap, zero, np.arange(240), rng)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


@pytest.mark.parametrize("picks", [1, 7, 100, 1000])
def test_what_is_drawn_at_a_time_changes_nothing(monkeypatch, picks):
    a, b = np.random.default_rng(2).random((2, 45))
    groups = np.arange(45) // 2
    whole = paired.difference(a, b, groups, np.random.default_rng(3), draws=301)
    monkeypatch.setattr(paired, "_PICKS", picks)
    assert paired.difference(a, b, groups, np.random.default_rng(3), draws=301) == whole


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    adjusted = paired.holm(p)
    assert all(x <= y + 1e-12 for x, y in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-12).all()


def test_mean_interval_covers_the_textbook_t_interval():
    values = np.array([1.0, 2.0, 4.0])
    value, low, high = paired.mean_interval(values, np.arange(3))
    half = 4.302652729911275 * values.std(ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((value - half, value + half))


def test_two_blocks_are_one_degree_of_freedom_and_have_an_interval():
    value, low, high = paired.mean_interval(np.array([0.0, 1.0]), np.arange(2))
    assert (value, low, high) == pytest.approx((0.5, 0.5 - 6.353, 0.5 + 6.353), abs=0.001)
    alone = paired.mean_interval(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]))
    assert alone[1:] == (-np.inf, np.inf)
