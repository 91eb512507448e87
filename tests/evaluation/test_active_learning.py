"""Which examples are chosen: uncertain, diverse, typical of many."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.run.suggest import choose_queries
from warmstart.tasks.classify import CLASSIFICATION

NOWHERE = np.full((1, 3), 50.0, np.float32)


def sure(m, k=3):
    """Probabilities of 0 and 1."""
    return np.tile(np.eye(k)[0] * 0.98 + 0.02 / k, (m, 1))


def unsure(m, k=3):
    return np.full((m, k), 1 / k)


def clumps(rng, sizes):
    """Points in tight clumps far apart, and the clump of each."""
    centres = 10.0 * np.eye(len(sizes), 3)
    of = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[of] + rng.normal(0, 0.1, (len(of), 3))).astype(np.float32), of


def test_one_of_each_clump_in_doubt_the_largest_first(rng):
    points, of = clumps(rng, (4, 15, 8))
    chosen = choose_queries(unsure(27), points, NOWHERE, 3)
    assert of[chosen].tolist() == [1, 2, 0]


def test_the_middle_of_a_clump_is_asked_about_not_its_edge(rng):
    points, _ = clumps(rng, (40,))
    points[7] += 2.0
    (chosen,) = choose_queries(unsure(40), points, NOWHERE, 1)
    assert np.linalg.norm(points[chosen] - points.mean(axis=0)) < 0.2


def test_what_the_model_is_sure_of_is_not_asked_about(rng):
    points, of = clumps(rng, (60, 60))
    probabilities = np.where((of == 1)[:, None], unsure(120), sure(120))
    assert (of[choose_queries(probabilities, points, NOWHERE, 5)] == 1).all()


def test_what_lies_with_the_labelled_ones_begins_no_group(rng):
    points, of = clumps(rng, (2, 8, 8))
    chosen = choose_queries(unsure(18), points, points[of == 0], 2)
    assert sorted(of[chosen]) == [1, 2]


def test_where_all_is_certain_distance_decides(rng):
    points, of = clumps(rng, (6, 6, 6))
    certain = np.tile([1.0, 0.0], (18, 1))
    assert sorted(of[choose_queries(certain, points, NOWHERE, 3)]) == [0, 1, 2]


def test_copies_come_last_and_only_if_there_is_nothing_else():
    points = np.repeat(np.float32([[0, 0, 1], [0, 2, 0]]), [4, 1], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # fewer places than groups is nothing to warn of
        chosen = choose_queries(unsure(5), points, NOWHERE, 3)
    assert len(set(chosen)) == 3
    assert {0, 4} <= set(chosen)


def test_all_that_is_known_already_still_gives_an_answer():
    points = np.ones((3, 3), np.float32)
    assert choose_queries(unsure(3), points, points, 2).tolist() == [0, 1]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), m=st.integers(1, 80), k=st.integers(2, 5), count=st.integers(1, 12)
)
def test_rows_are_different_as_many_as_asked_and_always_the_same(seed, m, k, count):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(k), size=m)
    points = rng.normal(size=(m, 4)).round(int(rng.integers(3))).astype(np.float32)
    known = rng.normal(size=(int(rng.integers(1, 5)), 4)).astype(np.float32)
    chosen = choose_queries(probabilities, points, known, count)
    assert len(set(chosen)) == len(chosen) == min(count, m)
    assert ((chosen >= 0) & (chosen < m)).all()
    assert chosen.tolist() == choose_queries(probabilities, points, known, count).tolist()


def test_another_order_of_the_images_asks_about_the_same(rng):
    probabilities = rng.dirichlet(np.ones(3), size=70)
    points = rng.normal(size=(70, 4)).astype(np.float32)
    known, order = rng.normal(size=(5, 4)).astype(np.float32), rng.permutation(70)
    straight = choose_queries(probabilities, points, known, 6)
    turned = choose_queries(probabilities[order], points[order], known, 6)
    assert order[turned].tolist() == straight.tolist()


def test_doubt_is_one_minus_the_margin(rng):
    probabilities = rng.dirichlet(np.ones(6), size=50).astype(np.float32)
    ordered = np.sort(probabilities.astype(float), axis=1)
    assert CLASSIFICATION.uncertainty(probabilities) == pytest.approx(
        1 - (ordered[:, -1] - ordered[:, -2])
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
