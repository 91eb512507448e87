"""The interval of a paired difference of accuracies, against its formula and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from warmstart.stats.paired import hits_difference

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
