"""Random orders: whole blocks, classes in proportion at every prefix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.stats.permutation import spread_order


@st.composite
def blocked(draw):
    """Labels in blocks of one class each, in shuffled rows."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=40))
    classes = draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows = rng.permutation(sum(sizes))
    group_rows = np.split(rows, np.cumsum(sizes)[:-1])
    labels = np.empty(len(rows), dtype=np.int64)
    for members, label in zip(group_rows, classes, strict=True):
        labels[members] = label
    return labels, group_rows, rng


@given(blocked())
def test_every_row_once_and_every_block_in_one_piece(case):
    labels, group_rows, rng = case
    rows, ends = spread_order(labels, group_rows, rng)
    assert sorted(rows) == list(range(len(labels)))
    pieces = np.split(rows, ends[:-1])
    assert ends[-1] == len(labels)
    assert sorted(map(tuple, pieces)) == sorted(map(tuple, group_rows))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 99))
def test_every_prefix_holds_the_classes_in_proportion(counts, seed):
    """Of single rows: never more than one row of a class from its share of the prefix."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    rows, ends = spread_order(labels, [np.array([i]) for i in range(len(labels))], rng)
    seen = np.cumsum(np.eye(len(counts))[labels[rows]], axis=0)  # (prefix, class)
    np.testing.assert_array_equal(ends, np.arange(1, len(labels) + 1))
    # A place in 0..1 is within 1 / count of its rank: shares of two classes differ by two such.
    share = seen / np.array(counts)
    slack = 1 / np.array(counts)
    for a in range(len(counts)):
        for b in range(len(counts)):
            assert (np.abs(share[:, a] - share[:, b]) <= slack[a] + slack[b] + 1e-12).all()


def test_the_first_rows_hold_every_class():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    singles = [np.array([i]) for i in range(100)]
    for seed in range(20):
        rows, _ = spread_order(labels, singles, np.random.default_rng(seed))
        assert set(labels[rows[:10]]) == {0, 1, 2}


def test_orders_are_random_and_repeat_with_the_generator():
    labels, singles = np.arange(30) % 3, [np.array([i]) for i in range(30)]
    one, again, other = (
        spread_order(labels, singles, np.random.default_rng(seed))[0].tolist() for seed in (0, 0, 1)
    )
    assert one == again != other


@pytest.mark.parametrize("seed", range(3))
def test_each_row_comes_first_about_equally_often(seed):
    labels, singles = np.repeat([0, 1], 4), [np.array([i]) for i in range(8)]
    rng = np.random.default_rng(seed)
    firsts = [int(spread_order(labels, singles, rng)[0][0]) for _ in range(800)]
    counts = np.bincount(firsts, minlength=8)
    assert counts.min() > 100 - 4 * np.sqrt(100)
    assert counts.max() < 100 + 4 * np.sqrt(100)
