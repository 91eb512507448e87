"""The fast forms against their slow definitions: refit without the rows, every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.refit_cache import RefitCache, use_refit_cache
from warmstart.solve import kernels, ridge


def refitted(features, targets, rows, penalty):
    """Ridge with an unpenalised intercept on all rows but `rows`; predicts `rows`. The slow way."""
    keep = np.setdiff1d(np.arange(len(targets)), rows)
    X, Y = features[keep], targets[keep]
    x_mean, y_mean = X.mean(axis=0), Y.mean(axis=0)
    system = (X - x_mean).T @ (X - x_mean) + penalty * np.eye(X.shape[1])
    weights = np.linalg.solve(system, (X - x_mean).T @ (Y - y_mean))
    return (features[rows] - x_mean) @ weights + y_mean


def problem(n, d, seed, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 2.0, np.eye(classes)[rng.integers(classes, size=n)]


sizes = st.tuples(st.integers(6, 25), st.integers(1, 40), st.integers(0, 10_000))


@settings(max_examples=40)
@given(sizes, st.sampled_from([1e-2, 0.3, 5.0]))
def test_leave_one_out_equals_refitting_without_each_row(size, penalty):
    features, targets = problem(*size)
    dual = ridge.fit(features @ features.T, targets, penalty)
    rows = [np.array([i]) for i in range(len(targets))]
    slow = np.concatenate([refitted(features, targets, r, penalty) for r in rows])
    np.testing.assert_allclose(ridge.left_out(dual, rows), slow, rtol=1e-6, atol=1e-7)


@settings(max_examples=40)
@given(sizes, st.integers(2, 5))
def test_leave_block_out_equals_refitting_without_each_block(size, n_groups):
    features, targets = problem(*size)
    labels = np.random.default_rng(size[2]).integers(n_groups, size=len(targets))
    groups = [np.flatnonzero(labels == b) for b in np.unique(labels)]
    if len(groups) < 2:
        return
    dual = ridge.fit(features @ features.T, targets, 0.2)
    fast = ridge.left_out(dual, groups)
    for block in groups:
        slow = refitted(features, targets, block, 0.2)
        np.testing.assert_allclose(fast[block], slow, rtol=1e-6, atol=1e-7)


@settings(max_examples=40)
@given(sizes, st.integers(3, 6))
def test_nested_folds_equal_fitting_the_rest_from_scratch(size, n_groups):
    features, targets = problem(*size)
    labels = np.random.default_rng(size[2]).integers(n_groups, size=len(targets))
    groups = [np.flatnonzero(labels == b) for b in np.unique(labels)]
    if len(groups) < 3:
        return
    dual = ridge.fit(features @ features.T, targets, 0.2)
    for held_out in groups:
        keep, inner, outer = ridge.nested(dual, held_out, groups)
        np.testing.assert_allclose(
            outer, refitted(features, targets, held_out, 0.2), rtol=1e-6, atol=1e-7
        )
        sub, sub_targets = features[keep], targets[keep]
        for rows in groups:
            at = np.flatnonzero(np.isin(keep, rows))
            if len(at) and rows is not held_out:
                slow = refitted(sub, sub_targets, at, 0.2)
                np.testing.assert_allclose(inner[at], slow, rtol=1e-6, atol=1e-7)


def test_predictions_of_new_rows_equal_the_primal_solution():
    features, targets = problem(12, 5, 1)
    train, new = np.arange(9), np.arange(9, 12)
    kernel = features @ features.T
    dual = ridge.fit(kernel[np.ix_(train, train)], targets[train], 0.7)
    b = ridge.intercept(kernel[np.ix_(train, train)], dual, 0.7)
    fast = kernel[np.ix_(new, train)] @ dual.coefficients + b
    slow = refitted(
        features, np.where(np.isin(np.arange(12), train)[:, None], targets, 0), new, 0.7
    )
    np.testing.assert_allclose(fast, slow, rtol=1e-8)


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize(("n", "d"), [(100, 1280), (200, 30)])
def test_random_labels_stay_at_chance_at_every_penalty(n, d, penalty):
    """The trap: centring over all rows and dividing by the uncentred diagonal gave 1.00 here."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % 2
    right = []
    for _ in range(20):
        y = rng.permutation(labels)
        features = rng.normal(size=(n, d)).astype(np.float32) + 1
        kernel = kernels.mixed_kernels([("a", features)], {"k": {"a": 1.0}})["k"]
        dual = ridge.fit(kernel, np.eye(2)[y], penalty)
        scores = ridge.left_out(dual, [np.array([i]) for i in range(n)])
        right.append((scores.argmax(axis=1) == y).mean())
    # Leave-one-out on balanced labels sits slightly below chance (the rest lean the other way).
    assert abs(np.mean(right) - 0.5) < 0.05 + 3 * 0.5 / np.sqrt(n * 20)


def test_a_kernel_that_is_none_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="4 rows"):
        ridge.inverse(-np.eye(4) * 10, 0.1)


def test_an_inverse_is_shared_within_a_cache_and_cannot_be_changed():
    with use_refit_cache(RefitCache(10**6)):
        one, other = ridge.inverse(np.eye(5), 0.3), ridge.inverse(np.eye(5), 0.3)
        assert one is other
        assert not one.flags.writeable
        assert ridge.inverse(np.eye(5), 0.4) is not one
