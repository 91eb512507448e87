import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve.classifiers import class_mean_weights, left_out_class_means


@settings(max_examples=40)
@given(st.integers(4, 20), st.integers(1, 8), st.integers(2, 4), st.integers(0, 999))
def test_left_out_class_means_equal_recomputed_means(n, d, n_groups, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.integers(3, size=n)
    group_of = rng.integers(n_groups, size=n)
    groups = [np.flatnonzero(group_of == b) for b in np.unique(group_of)]
    fast = left_out_class_means(x @ x.T, y, 3, groups)
    for rows in groups:
        keep = np.setdiff1d(np.arange(n), rows)
        for c in range(3):
            members = x[keep][y[keep] == c]
            if len(members):
                mean = members.mean(axis=0)
                np.testing.assert_allclose(
                    fast[rows, c], x[rows] @ mean - mean @ mean / 2, atol=1e-9
                )
            else:
                assert (fast[rows, c] < -100).all()


def test_scores_pick_the_nearest_mean():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    weights, bias = class_mean_weights(x @ x.T, y, 3)
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    distance = ((x[:, None] - means) ** 2).sum(axis=2)
    assert ((x @ x.T @ weights + bias).argmax(axis=1) == distance.argmin(axis=1)).all()
