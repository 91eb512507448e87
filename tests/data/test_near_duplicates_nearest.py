"""The most similar rows: by the definition for few, hardly ever missed for many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.data import near_duplicates
from warmstart.data.near_duplicates import nearest


def units(n, d, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def likeness(asking, sides):
    result = np.max([asking.astype(float) @ side.T.astype(float) for side in sides], axis=0)
    np.fill_diagonal(result, -np.inf)
    return result


@settings(max_examples=40)
@given(n=st.integers(5, 60), count=st.integers(1, 4), n_sides=st.integers(1, 2))
def test_of_few_rows_it_is_the_definition(n, count, n_sides):
    sides = [units(n, 8, seed) for seed in range(n_sides)]
    result = nearest(sides[0], sides, count)
    expected = np.sort(likeness(sides[0], sides), axis=1)[:, ::-1][:, :count]
    got = np.sort(np.take_along_axis(likeness(sides[0], sides), result, axis=1), axis=1)[:, ::-1]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.fixture
def cut(monkeypatch):
    """Cells of a hundred rows, cut again where they are larger, from 200 rows on."""
    monkeypatch.setattr(near_duplicates, "EXACT", 200)
    monkeypatch.setattr(near_duplicates, "CELL", 100)


def copies(n, d, closeness, seed=0):
    """n rows, of which every pair (0, 1), (2, 3) … is alike by about `closeness`."""
    first, noise = units(n // 2, d, seed), units(n // 2, d, seed + 1)
    second = closeness * first + np.sqrt(1 - closeness**2) * noise
    both = np.stack([first, second / np.linalg.norm(second, axis=1, keepdims=True)], axis=1)
    return both.reshape(n, d)


@pytest.mark.parametrize(("closeness", "share"), [(0.99, 0.999), (0.9, 0.98), (0.8, 0.93)])
def test_of_many_rows_copies_are_found(cut, closeness, share):
    vectors = copies(3000, 32, closeness)
    result = nearest(vectors, [vectors], 4)
    partner = np.arange(3000) ^ 1
    one_way = (result == partner[:, None]).any(axis=1)
    assert (one_way | one_way[partner]).mean() > share


def test_a_copy_seen_from_another_side_is_found(cut):
    vectors = copies(2000, 32, 0.98)
    other = vectors[:, ::-1].copy()
    requested = np.where((np.arange(2000) % 2 == 1)[:, None], other, vectors)
    turned = np.where((np.arange(2000) % 2 == 1)[:, None], vectors, other)
    result = nearest(requested, [requested, turned], 4)
    partner = np.arange(2000) ^ 1
    assert (result == partner[:, None]).any(axis=1).mean() > 0.98


@pytest.mark.parametrize("kind", ["all alike", "two kinds", "nothing"])
def test_rows_that_are_all_alike_end_and_no_row_is_its_own_neighbour(cut, kind):
    n = 1500
    vectors = {
        "all alike": np.repeat(units(1, 16), n, axis=0),
        "two kinds": np.repeat(units(2, 16), n // 2, axis=0),
        "nothing": np.zeros((n, 16), np.float32),
    }[kind]
    result = nearest(vectors, [vectors, vectors], 4)
    assert result.shape == (n, 4)
    assert ((result >= 0) & (result < n)).all()
    assert (result != np.arange(n)[:, None]).all()
    assert all(len(set(row)) == 4 for row in result.tolist())
    if kind == "two kinds":
        assert ((result < n // 2) == (np.arange(n) < n // 2)[:, None]).mean() > 0.99


def test_the_search_among_cells_is_no_search_among_all(monkeypatch):
    """Products of pairs, counted: 16 times the rows must not cost 256 times as many."""
    costs = []

    def counted(search, askers, members):
        costs[-1] += len(askers) * len(members)
        plain(search, askers, members)

    plain = near_duplicates._search_cell
    monkeypatch.setattr(near_duplicates, "_search_cell", counted)
    monkeypatch.setattr(near_duplicates, "EXACT", 100)
    monkeypatch.setattr(near_duplicates, "CELL", 64)
    for n in (1000, 16_000):
        costs.append(0)
        vectors = units(n, 8)
        nearest(vectors, [vectors], 4)
    assert costs[1] < 80 * costs[0]
    assert costs[1] < 0.1 * 16_000**2
