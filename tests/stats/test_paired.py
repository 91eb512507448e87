"""Paired differences, adjusted p-values and rankings, by formula and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from warmstart.stats import paired
from warmstart.stats.paired import Difference, difference, hits_difference, rank_models, widen


@pytest.mark.parametrize("picks", [7, 10**6])
@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_a_difference_is_that_of_resampled_groups(monkeypatch, picks, gain):
    rng = np.random.default_rng(2)
    a, b, groups = rng.random(45), rng.random(45) - gain, np.arange(45) // 2
    monkeypatch.setattr(paired, "_PICKS", picks)
    made = difference(a, b, groups, np.random.default_rng(3), draws=301)
    rows, again = [np.flatnonzero(groups == g) for g in range(23)], np.random.default_rng(3)
    means = [
        np.concatenate([(a - b)[rows[g]] for g in again.integers(23, size=23)]).mean()
        for _ in range(301)
    ]
    value = (a - b).mean()
    assert (made.value, made.low, made.high) == pytest.approx(
        (value, *np.quantile(means, [0.025, 0.975]))
    )
    extreme = sum(abs(mean - value) >= abs(value) for mean in means)
    assert made.p == (1 + extreme) / 302


def test_blocks_widen_the_interval():
    rng = np.random.default_rng(1)
    gap = np.repeat(rng.normal(size=30), 8)
    zero = np.zeros_like(gap)
    wide = paired.difference(gap, zero, np.repeat(np.arange(30), 8), rng)
    narrow = paired.difference(gap, zero, np.arange(240), rng)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


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


# ---- The interval of a paired difference of accuracies, against its formula and by simulation.


OUTCOMES = st.lists(st.sampled_from([(1, 1), (1, 0), (0, 1), (0, 0)]), min_size=2, max_size=60)


def arrays(pairs):
    """Hits of both, as floats."""
    return np.array(pairs, dtype=float).T


@given(OUTCOMES)
def test_it_is_the_adjusted_interval_of_bonett_and_price(pairs):
    a, b = arrays(pairs)
    n = len(a)
    p10, p01 = (((a > b).sum() + 1) / (n + 2), ((b > a).sum() + 1) / (n + 2))
    middle = p10 - p01
    # Theirs divides by n + 2 and takes the normal quantile; ours by n + 1, and that of t.
    error = np.sqrt((p10 + p01 - middle**2) / (n + 1))
    half = student.ppf(0.975, n + 1) * error
    found = hits_difference(a, b, np.arange(n))
    assert found.value == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(max(middle - half, -1))
    assert found.high == pytest.approx(min(middle + half, 1))
    assert found.p == pytest.approx(2 * student.sf(abs(middle) / error, n + 1))


@given(OUTCOMES, st.integers(1, 5), st.floats(1.0, 3.0))
def test_what_always_holds(pairs, size, inflation):
    a, b = arrays(pairs)
    groups = np.arange(len(a)) // size
    found = hits_difference(a, b, groups, inflation)
    other = hits_difference(b, a, groups, inflation)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((-other.high, -other.low))
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    plain = hits_difference(a, b, groups)
    assert found.high - found.low >= plain.high - plain.low - 1e-12


def test_one_block_says_nothing():
    found = hits_difference(np.ones(50), np.zeros(50), np.zeros(50, dtype=np.int64))
    assert (found.value, found.low, found.high, found.p) == (1.0, -1.0, 1.0, 1.0)


def test_four_lucky_hits_make_no_winner_and_twelve_do():
    b = np.zeros(36)
    for n_better, wins in ((4, False), (12, True)):
        a = (np.arange(36) < n_better).astype(float)
        assert (hits_difference(a, b, np.arange(36)).low > 0) == wins


@pytest.mark.parametrize(("n", "share"), [(30, 0.03), (30, 0.1), (100, 0.02), (100, 0.1)])
def test_equal_models_are_told_apart_in_at_most_one_of_twenty(n, share):
    rng = np.random.default_rng(n)
    wrong = 0
    for _ in range(1000):
        which = rng.choice(3, size=n, p=[share, share, 1 - 2 * share])
        a, b = (which != 1).astype(float), (which != 0).astype(float)
        wrong += hits_difference(a, b, np.arange(n)).p < 0.05
    assert wrong <= 60


def test_blocks_count_as_what_they_are_worth():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(500):
        which = np.repeat(rng.choice(3, size=20, p=[0.1, 0.1, 0.8]), 6)
        a, b = (which != 1).astype(float), (which != 0).astype(float)
        wrong += hits_difference(a, b, np.repeat(np.arange(20), 6)).p < 0.05
    assert wrong <= 35


def test_one_degree_of_freedom_is_enough():
    """A block of four beside the two examples that are added counts as two blocks alike.

    Their mean is 1/2, their sums are 1, 1/2 and -3/2 off it; t with one degree is Cauchy's.
    """
    found = hits_difference(np.array([1.0, 1, 0, 1]), np.zeros(4), np.zeros(4, int))
    t = 0.5 / np.sqrt((1 + 0.25 + 2.25) / 6**2 * 3 / 2)
    assert found.p == pytest.approx(1 - 2 * np.arctan(t) / np.pi)
    more = hits_difference(np.array([1.0, 1, 0, 1, 1]), np.zeros(5), np.zeros(5, int))
    assert (more.low, more.high, more.p) == (-1.0, 1.0, 1.0)


# ---- Order and ties of models judged on the same rows.


@st.composite
def judged(draw):
    """Hits of 1 to 5 models on the same rows, and the blocks of those."""
    models, n = draw(st.integers(1, 5)), draw(st.integers(3, 30))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    hits = (rng.random((models, n)) < rng.random((models, 1))).astype(float)
    return hits, rng.integers(0, max(n // 2, 2), size=n)


@settings(max_examples=60)
@given(judged())
def test_groups_partition_the_models_from_the_best_down(case):
    hits, groups = case
    found = rank_models(hits, groups, np.random.default_rng(0))
    means = hits.mean(axis=1)
    assert sorted(found.order) == list(range(len(hits)))
    assert all(np.diff(means[list(found.order)]) <= 0)
    assert sorted(i for group in found.ties for i in group) == sorted(found.order)
    heads = [group[0] for group in found.ties]
    assert heads[0] == found.order[0]
    assert [found.order.index(i) for i in heads] == sorted(found.order.index(i) for i in heads)
    for group in found.ties:
        assert means[group[0]] == max(means[list(group)])


@settings(max_examples=30)
@given(judged(), st.floats(1, 4))
def test_a_wider_interval_never_makes_the_first_group_smaller(case, inflation):
    hits, groups = case
    plain = rank_models(hits, groups, np.random.default_rng(0))
    wide = rank_models(hits, groups, np.random.default_rng(0), inflation)
    assert set(plain.ties[0]) <= set(wide.ties[0])
    assert [gap.value for gap in plain.to_best] == [gap.value for gap in wide.to_best]


def test_the_first_group_is_what_the_paired_interval_says():
    rng = np.random.default_rng(3)
    hits = (rng.random((4, 80)) < np.array([[0.9], [0.85], [0.5], [0.48]])).astype(float)
    found = rank_models(hits, np.arange(80), np.random.default_rng(0))
    best = found.order[0]
    for i, gap in zip(found.order, found.to_best, strict=True):
        again = difference(hits[i], hits[best], np.arange(80), np.random.default_rng(1))
        assert gap.value == again.value
        assert gap.low == pytest.approx(again.low, abs=0.03)
        assert (i in found.ties[0]) == (again.low <= 0 <= again.high)
    assert found.ties == ((0, 1), (2, 3))


def test_of_equals_the_first_given_leads():
    found = rank_models(np.ones((3, 10)), np.arange(10), np.random.default_rng(0))
    assert found.order == (0, 1, 2)
    assert found.ties == ((0, 1, 2),)


def test_rows_of_one_block_count_as_one():
    """Forty copies of four rows prove no more than four rows."""
    better, worse = np.ones(40), np.repeat([1.0, 1.0, 1.0, 0.0], 10)
    hits = np.stack([better, worse])
    apart = rank_models(hits, np.arange(40), np.random.default_rng(0))
    together = rank_models(hits, np.repeat(np.arange(4), 10), np.random.default_rng(0))
    assert apart.ties == ((0,), (1,))
    assert together.ties == ((0, 1),)


def test_widened_keeps_the_value_and_the_sides():
    gap = widen(Difference(0.2, 0.1, 0.4, 0.01), 1.7)
    assert gap.value == 0.2
    assert gap.low == pytest.approx(0.2 - 0.1 * 1.7**0.5)
    assert gap.high == pytest.approx(0.2 + 0.2 * 1.7**0.5)
    assert widen(gap, 1.0) == gap
