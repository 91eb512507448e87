import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from warmstart.stats import intervals
from warmstart.stats.intervals import accuracy_interval, gap, wilson


@settings(max_examples=50)
@given(st.integers(2, 400), st.floats(0, 1))
def test_wilson_solves_its_defining_equation(n, p):
    """Both ends are the q with |p - q| = t sqrt(q (1 - q) / n)."""
    t = stats.t.ppf(0.975, n - 1)
    for end in intervals.wilson(p, n, n - 1):
        if 0 < end < 1:
            assert abs(p - end) == pytest.approx(t * np.sqrt(end * (1 - end) / n), abs=1e-7)


@settings(max_examples=50)
@given(st.integers(0, 999))
def test_independent_examples_count_in_full(seed):
    correct = np.random.default_rng(seed).integers(2, size=40).astype(float)
    assert intervals.effective_size(correct, np.arange(40)) == pytest.approx(40)


def test_copies_count_once():
    once = np.array([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 1])
    copies, groups = np.repeat(once, 7), np.repeat(np.arange(10), 7)
    assert intervals.effective_size(copies, groups) == pytest.approx(10)
    assert intervals.accuracy_interval(copies, groups) == pytest.approx(
        intervals.accuracy_interval(once, np.arange(10))
    )


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.integers(0, 99))
def test_effective_size_lies_between_kish_and_n(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    correct = np.random.default_rng(seed).integers(2, size=len(groups)).astype(float)
    size = intervals.effective_size(correct, groups)
    assert intervals.kish(groups) - 1e-9 <= size <= len(groups) + 1e-9


def test_one_block_says_nothing():
    value, low, high = intervals.accuracy_interval(
        np.array([1.0, 1.0, 0.0]), np.zeros(3, dtype=int)
    )
    assert (low, high) == (0.0, 1.0)
    assert value == pytest.approx(2 / 3)


def test_coverage_with_dependent_blocks():
    """Six equal rows a block: the interval still covers; ignoring blocks it would not."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(400):
        correct = np.repeat(rng.random(40) < 0.8, 6).astype(float)
        _, low, high = intervals.accuracy_interval(correct, np.repeat(np.arange(40), 6))
        covered += low <= 0.8 <= high
        _, low, high = intervals.accuracy_interval(correct, np.arange(240))
        naive += low <= 0.8 <= high
    assert covered / 400 > 0.92
    assert naive / 400 < 0.75


# ---- Newcombe's interval for a difference of two proportions.


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


def test_the_standard_error_is_that_of_group_sums():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=60), np.repeat(np.arange(12), 5)
    means = values.reshape(12, 5).mean(axis=1)
    expected = means.std(ddof=1) / np.sqrt(12)
    assert intervals.standard_error(values, groups) == pytest.approx(expected)
    assert intervals.standard_error(values, np.zeros(60)) == np.inf
    assert intervals.kish(np.array([0, 0, 0, 1, 1, 2])) == pytest.approx(36 / 14)
    rows = [np.array([0, 3]), np.array([2]), np.array([1, 4])]
    assert intervals.number_groups(rows).tolist() == [0, 2, 1, 0, 2]


def test_few_degrees_and_inflation_widen():
    assert intervals.wilson(0.3, 10, 0.999) == (0.0, 1.0) == intervals.wilson(0.3, 0.0, 5)
    assert intervals.wilson(0.3, 0.5, 1.0) != (0.0, 1.0)
    correct = np.tile([1.0, 1.0, 0.0], 20)
    _, low, high = intervals.accuracy_interval(correct, np.arange(60), 2.5)
    assert (low, high) == pytest.approx(intervals.wilson(2 / 3, 60 / 2.5, 59))
    narrow = intervals.wilson(0.4, 30, 29, 0.8)
    assert intervals.wilson(0.4, 30, 29)[0] < narrow[0] < 0.4 < narrow[1]
    value, low, high = intervals.accuracy_interval(2 * correct, np.arange(60))
    assert low < value == high == 1.0  # a mean of shares beyond 1 is 1
