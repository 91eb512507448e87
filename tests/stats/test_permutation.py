import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.solve import kernels, ridge
from warmstart.stats.intervals import number_groups
from warmstart.stats.permutation import (
    PLENTY,
    group_shuffler,
    movable,
    permutation_test,
    spread_order,
)


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


# ---- Random orders: whole blocks, classes in proportion at every prefix.


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


def test_orders_are_random_and_repeat_with_the_generator():
    labels, singles = np.arange(30) % 3, [np.array([i]) for i in range(30)]
    one, again, other = (
        spread_order(labels, singles, np.random.default_rng(seed))[0].tolist() for seed in (0, 0, 1)
    )
    assert one == again != other


def test_each_row_comes_first_about_equally_often():
    labels, singles = np.repeat([0, 1], 4), [np.array([i]) for i in range(8)]
    rng = np.random.default_rng(0)
    firsts = [int(spread_order(labels, singles, rng)[0][0]) for _ in range(800)]
    counts = np.bincount(firsts, minlength=8)
    assert counts.min() > 100 - 4 * np.sqrt(100)
    assert counts.max() < 100 + 4 * np.sqrt(100)


# ---- The test itself against its slow definition


@pytest.mark.parametrize("count", [30, 150])
def test_p_and_accuracy_are_those_of_refitting(count):
    """Class-weighted squared left-out residuals, the best of the grid, among permutations."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    features = rng.normal(size=(24, 6)) + 0.7 * np.eye(3, 6)[labels]
    groups = [np.array([0, 3]), np.array([1, 4, 7]), *singles(24)[8:]]
    groups += [np.array([row]) for row in (2, 5, 6)]
    inverses = grid(features, (0.1, 1.0))

    def statistic(labels):
        best = (-np.inf, 0.0)
        for G in inverses:
            y, residuals = np.eye(3)[labels], np.zeros((24, 3))
            for rows in groups:
                residuals[rows] = np.linalg.solve(G[np.ix_(rows, rows)], (G @ y)[rows])
            t = -((residuals**2).sum(axis=1) / np.bincount(labels)[labels]).sum()
            best = max(best, (t, ((y - residuals).argmax(axis=1) == labels).mean()))
        return best

    test = permutation_test(inverses, labels, groups, np.random.default_rng(5), count)
    again, shuffle = np.random.default_rng(5), group_shuffler(labels, number_groups(groups))
    draws = [shuffle(again) for _ in range(test.permutations)]
    nulls = [statistic(draw) for draw in draws]
    exceed = np.cumsum([t >= statistic(labels)[0] - 1e-6 for t, _ in nulls])
    assert test.accuracy == pytest.approx(statistic(labels)[1])
    np.testing.assert_allclose(test.null_accuracies, [accuracy for _, accuracy in nulls])
    if exceed[-1] >= 20:
        assert test.p == 20 / (1 + np.searchsorted(exceed, 20))
    else:
        assert test.p == (1 + exceed[-1]) / (test.permutations + 1)


def test_no_signal_is_settled_after_a_hundred():
    rng = np.random.default_rng(1)
    labels, inverses = np.arange(40) % 2, grid(rng.normal(size=(40, 6)))
    test = permutation_test(inverses, labels, singles(40), rng, 999)
    assert test.permutations == 100
    assert test.p > 0.15


def test_how_freely_labels_move():
    labels = np.array([0, 0, 1, 1])
    draws = np.array([[0, 1], [0, 0], [1, 1], [1, 0]])  # one as it was, one with two changes
    assert movable(labels, draws) == pytest.approx(0.25 / 0.5)
    assert movable(np.zeros(4, int), np.zeros((4, 1), int)) == 0
