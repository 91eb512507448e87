import numpy as np
import pytest

from warmstart.solve import kernels, ridge
from warmstart.stats.permutation import PLENTY, group_shuffler, permutation_test


def grid(features, penalties=(0.01, 0.1, 1.0)):
    k = kernels.mixed_kernels([("a", features.astype(np.float32))], {"k": {"a": 1.0}})["k"]
    return [ridge.inverse(k, p) for p in penalties]


def singles(n):
    return [np.array([i]) for i in range(n)]


def test_p_is_uniform_under_random_labels():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(120):
        features = rng.normal(size=(30, 40))
        labels = rng.permutation(np.arange(30) % 3)
        p.append(permutation_test(grid(features), labels, singles(30), rng, 99).p)
    p = np.array(p)
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert 0.4 < np.mean(p) < 0.62


def test_a_rare_class_is_found_where_accuracy_would_miss_it():
    rng = np.random.default_rng(1)
    labels = np.array([0] * 90 + [1] * 8)
    features = rng.normal(size=(98, 20))
    features[90:, :4] += 2.0
    assert permutation_test(grid(features), labels, singles(98), rng, 199).p <= 0.01


def test_copies_do_not_make_signal():
    """Five copies of each of 16 examples: as rows they look learnable, as blocks they do not."""
    rng = np.random.default_rng(2)
    features = np.repeat(rng.normal(size=(16, 30)), 5, axis=0) + rng.normal(size=(80, 30)) * 0.05
    labels = np.repeat(rng.permutation(np.arange(16) % 2), 5)
    groups = [np.arange(5 * i, 5 * i + 5) for i in range(16)]
    assert permutation_test(grid(features), labels, singles(80), rng, 99).p <= 0.02
    assert permutation_test(grid(features), labels, groups, rng, 99).p > 0.05


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 2, 3, 1, 1], [4, 4]])
def test_permutation_keeps_class_counts_and_whole_blocks(sizes):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(sizes)) % 2, sizes)
    for _ in range(20):
        out = group_shuffler(labels, groups)(rng)
        assert (np.bincount(out, minlength=2) == np.bincount(labels, minlength=2)).all()
        assert all(len(set(out[groups == b])) == 1 for b in range(len(sizes)))


def test_mixed_blocks_are_permuted_inside():
    labels, groups = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    out = group_shuffler(labels, groups)(np.random.default_rng(0))
    assert sorted(out[:2]) == [0, 1]
    assert sorted(out[2:]) == [0, 1]


@pytest.mark.parametrize("n_mixed", [1, 3])
def test_a_few_mixed_blocks_do_not_hide_the_signal(n_mixed):
    """A picture filed under two classes must not keep all the others from being shuffled."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.arange(80) % 2)
    features = rng.normal(size=(80, 10))
    features[:, :3] += 2.0 * labels[:, None]
    groups = []
    for k in range(n_mixed):
        a = np.flatnonzero(labels == 0)[k]
        b = np.flatnonzero(labels == 1)[k]
        features[b] = features[a]
        groups.append(np.array([a, b]))
    taken = np.concatenate(groups)
    groups += [np.array([i]) for i in range(80) if i not in taken]
    test = permutation_test(grid(features), labels, groups, rng, 199)
    assert test.p <= 0.01
    assert test.null_accuracies.mean() < 0.6
    assert test.moved > 0.8


def test_blocks_that_leave_nothing_to_shuffle_are_told():
    labels = np.repeat([0, 1, 0], [4, 5, 7])
    groups = [np.arange(4), np.arange(4, 9), np.arange(9, 16)]
    features = np.random.default_rng(0).normal(size=(16, 4))
    test = permutation_test(grid(features), labels, groups, np.random.default_rng(0), 99)
    assert test.moved == 0


def test_permutations_that_say_the_same_count_against_the_signal():
    """Three blocks of one class each: any order of them is as good, whatever rounding says."""
    labels = np.repeat([0, 1, 2], 60)
    groups = [np.arange(60 * i, 60 * i + 60) for i in range(3)]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(180, 24))
        features[:, :3] += 5.0 * np.eye(3)[labels]
        test = permutation_test(grid(features), labels, groups, rng, 999)
        assert test.p > 0.1
        assert test.moved == 0.0, "six orders of three blocks: nothing can be told from them"


@pytest.mark.parametrize("n", [4, 8])
def test_few_single_rows_are_few_but_free(n):
    rng = np.random.default_rng(0)
    test = permutation_test(grid(rng.normal(size=(n, 4))), np.arange(n) % 2, singles(n), rng, 199)
    assert test.moved > 0.5


def test_early_stop_agrees_with_the_full_count():
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(40, 10)), np.arange(40) % 2
    test = permutation_test(grid(features), labels, singles(40), rng, 999)
    assert test.permutations < 999
    assert test.p > 0.02


def test_a_plain_signal_is_settled_early():
    """No permutation of 200 comes near: another 800 would say the same."""
    rng = np.random.default_rng(6)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 10))
    features[:, :3] += 3.0 * labels[:, None]
    test = permutation_test(grid(features), labels, singles(40), rng, 999)
    assert PLENTY <= test.permutations == len(test.null_accuracies) <= PLENTY + 50
    assert test.p == 1 / (test.permutations + 1)


def test_stopping_early_keeps_the_level():
    """At p <= 0.01 no more than 1.5 % of 2,000 sets without signal, and p <= 0.1 stays fair."""
    rng = np.random.default_rng(7)
    p, labels = [], np.arange(10) % 2
    for _ in range(2000):
        inverses = grid(rng.normal(size=(10, 4)), penalties=(0.1, 1.0))
        p.append(permutation_test(inverses, labels, singles(10), rng, 999).p)
    assert (np.array(p) <= 0.01).mean() <= 0.015
    assert 0.08 < (np.array(p) <= 0.1).mean() < 0.12
