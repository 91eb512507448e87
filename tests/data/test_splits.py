"""Blocks are connected components; folds respect them and are as equal as can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.splits import folds, group_numbers
from warmstart.errors import DataError, UsageError
from warmstart.records.data import Example

links = st.lists(
    st.tuples(st.integers(0, 8), st.none() | st.integers(0, 5)), min_size=0, max_size=25
)


def examples_of(pairs: list[tuple[int, int | None]]) -> list[Example]:
    return [
        Example(
            id=str(index),
            label="x",
            split="train",
            sha256=str(sha),
            group=None if group is None else str(group),
        )
        for index, (sha, group) in enumerate(pairs)
    ]


@given(links)
def test_blocks_are_the_transitive_closure_of_same_bytes_or_same_group(pairs):
    n = len(pairs)
    linked = np.eye(n, dtype=bool)
    for i, (sha, group) in enumerate(pairs):
        for j, (other_sha, other_group) in enumerate(pairs):
            linked[i, j] |= sha == other_sha or (group is not None and group == other_group)
    for _ in range(n):  # the slow definition: links of links, until nothing changes
        linked = linked @ linked
    result = group_numbers(examples_of(pairs))
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result[:, None] == result[None, :], linked)


@given(links)
def test_blocks_are_numbered_by_first_appearance(pairs):
    result = group_numbers(examples_of(pairs)).tolist()
    firsts = list(dict.fromkeys(result))
    assert firsts == list(range(len(firsts)))


def test_a_group_and_a_hash_of_the_same_name_are_not_linked():
    one = Example(id="a", label="x", split="train", sha256="s")
    other = Example(id="b", label="x", split="train", sha256="t", group="s")
    assert group_numbers([one, other]).tolist() == [0, 1]


labelled_blocks = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=2, max_size=80
).filter(lambda pairs: len({block for _, block in pairs}) > 1)
seeds = st.integers(0, 2**32 - 1)


@given(labelled_blocks, st.integers(2, 10), seeds)
def test_folds_keep_blocks_whole_and_none_empty(pairs, n_folds, seed):
    labels, block = map(np.array, zip(*pairs, strict=True))
    result = folds(labels, block, n_folds, np.random.default_rng(seed))
    assert result.dtype == np.int64
    assert all(len(set(result[block == b])) == 1 for b in set(block.tolist()))
    assert set(result) == set(range(min(n_folds, len(set(block.tolist())))))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=120), st.integers(2, 10), seeds)
def test_without_groups_class_counts_and_sizes_differ_by_at_most_one(labels, n_folds, seed):
    labels = np.array(labels)
    result = folds(labels, np.arange(len(labels)), n_folds, np.random.default_rng(seed))
    n_folds = result.max() + 1
    sizes = np.bincount(result, minlength=n_folds)
    assert np.ptp(sizes) <= 1
    for label in set(labels.tolist()):
        assert np.ptp(np.bincount(result[labels == label], minlength=n_folds)) <= 1


@given(labelled_blocks, seeds)
def test_the_names_of_classes_and_blocks_do_not_matter(pairs, seed):
    labels, block = map(np.array, zip(*pairs, strict=True))
    names = np.array(["c0", "c1", "c2", "c3", "c4"])[labels]
    one = folds(labels, block, 4, np.random.default_rng(seed))
    other = folds(names, block * 7 + 3, 4, np.random.default_rng(seed))
    np.testing.assert_array_equal(one, other)


def imbalance(labels: np.ndarray, assigned: np.ndarray) -> float:
    """Mean over classes of the spread of their shares between 5 folds."""
    table = np.array([np.bincount(assigned[labels == k], minlength=5) for k in range(3)])
    return float((table / table.sum(1, keepdims=True)).std(axis=1).mean())


def test_groups_are_balanced_about_as_well_as_scikit_learn_does():
    from sklearn.model_selection import StratifiedGroupKFold

    ours, theirs = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        block = np.sort(rng.integers(0, 40, 300))
        labels = (rng.integers(0, 3, 40)[block] + (rng.random(300) < 0.2)) % 3
        ours.append(imbalance(labels, folds(labels, block, 5, rng)))
        assigned = np.empty(300, dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, rows) in enumerate(splitter.split(labels, labels, block)):
            assigned[rows] = fold
        theirs.append(imbalance(labels, assigned))
    assert np.mean(ours) < 1.3 * np.mean(theirs)


def test_folds_follow_the_generator():
    labels = np.arange(60) % 3
    one, same, other = (
        folds(labels, np.arange(60), 5, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_one_block_cannot_be_split():
    with pytest.raises(DataError, match="all training examples belong together"):
        folds([0, 1, 0], [5, 5, 5], 3, np.random.default_rng(0))
    with pytest.raises(DataError, match="all training examples belong together"):
        folds([], [], 3, np.random.default_rng(0))


def test_one_fold_is_no_split():
    with pytest.raises(UsageError, match="1 folds cannot be compared"):
        folds([0, 1], [0, 1], 1, np.random.default_rng(0))
