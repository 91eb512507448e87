"""Order and ties of models judged on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.stats.paired import Difference, difference, rank_models, widen


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
