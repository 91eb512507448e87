"""Likeness of features: the slow definition, its invariances, and chance where there is nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.stats.cka import agreement, cka

seeds = st.integers(0, 2**32 - 1)


def unbiased(one, two):
    """Song et al. 2012, §2.3: the mean over all quadruples of different rows, spelt out.

    HSIC = E[k l] + E[k l'] over independent pairs - 2 E[k l''] over pairs sharing a row.
    """
    n = len(one)
    k, m = one @ one.T, two @ two.T
    pairs = [k[i, j] * m[i, j] for i, j in itertools.permutations(range(n), 2)]
    apart = [k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(n), 4)]
    shared = [k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(n), 3)]
    return np.mean(pairs) + np.mean(apart) - 2 * np.mean(shared)


def test_it_is_the_unbiased_estimate_spelt_out():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(7, 3)) + 2, rng.normal(size=(7, 4))
    two[:, :2] += one[:, :2]
    slow = unbiased(one, two) / np.sqrt(unbiased(one, one) * unbiased(two, two))
    assert cka(one, two) == pytest.approx(slow)


@given(seeds, st.integers(4, 30), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_turning_scaling_and_shifting_change_nothing(seed, n, width, factor):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(n, width)), rng.normal(size=(n, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(width, width)))
    moved = factor * (one @ turn) + rng.normal(size=width)
    assert cka(one, moved) == pytest.approx(1)
    assert cka(moved, two) == pytest.approx(cka(one, two), abs=1e-6)
    assert cka(two, one) == pytest.approx(cka(one, two))
    assert -1 - 1e-9 <= cka(one, two) <= 1 + 1e-9


def test_independent_features_have_nothing_in_common_however_wide():
    rng = np.random.default_rng(0)
    found = [cka(rng.normal(size=(40, 2000)), rng.normal(size=(40, 800))) for _ in range(30)]
    assert abs(np.mean(found)) < 0.01
    assert np.abs(found).max() < 0.15


def test_it_falls_with_what_is_put_in():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(80, 300)), rng.normal(size=(80, 300))
    found = [cka(one, one + share * other) for share in (0, 0.5, 1, 2, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)
    assert found[-1] < 0.2


def test_features_that_are_the_same_for_every_row_say_nothing():
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert cka(x, np.ones((10, 4))) == 0
    assert cka(np.full((10, 2), 1e6 / 3), x) == 0
    assert cka(np.ones((10, 4)), np.zeros((10, 2))) == 1
    for lost in (np.nan, np.inf):
        assert cka(x, np.full((10, 2), lost)) == 0


def test_single_precision_and_huge_values_are_taken():
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    assert cka(x, np.float32(1e30) * x) == pytest.approx(1)


@pytest.mark.parametrize(("one", "two"), [(3, 3), (5, 6)])
def test_rows_that_are_too_few_or_differ_are_refused(one, two):
    with pytest.raises(ValueError, match=f"{one} and {two} rows of features; give the same 4"):
        cka(np.ones((one, 2)), np.ones((two, 2)))


def test_agreement_counts_equal_answers():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 10))
    assert agreement(scores, 3 * scores + 1) == 1
    other = scores.copy()
    other[:3] = -other[:3]
    assert agreement(scores, other) == pytest.approx(0.9)
