"""Folds of rows with several labels."""

import numpy as np
import pytest

from warmstart.data.splits import folds


def test_every_label_is_spread_over_the_folds():
    rng = np.random.default_rng(0)
    sets = (rng.random((200, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.05]).astype(float)
    fold = folds(sets, np.arange(200), 5, rng)
    per_fold = np.array([sets[fold == f].sum(axis=0) for f in range(5)])
    assert (np.bincount(fold) == 40).all() or np.ptp(np.bincount(fold)) <= 6
    assert (np.ptp(per_fold, axis=0) <= 3).all()


def test_blocks_stay_whole_and_no_fold_is_empty():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 5)
    sets = np.zeros((60, 2))
    sets[:, 0] = groups % 2
    fold = folds(sets, groups, 4, rng)
    assert all(len(set(fold[groups == block])) == 1 for block in range(12))
    assert set(fold) == {0, 1, 2, 3}
    few = folds(np.zeros((3, 2)), np.arange(3), 5, rng)
    assert sorted(few) == [0, 1, 2]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_generator_gives_the_same_folds(seed):
    sets = (np.random.default_rng(3).random((50, 3)) < 0.4).astype(float)
    first, second = (folds(sets, np.arange(50), 5, np.random.default_rng(seed)) for _ in range(2))
    assert first.tolist() == second.tolist()
