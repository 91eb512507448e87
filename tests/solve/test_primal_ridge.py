"""The primal and the dual form are the same regression, however rows are cut and taken away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve import primal_ridge, ridge


def make(n, d, seed=None):
    rng = np.random.default_rng(n + d if seed is None else seed)
    features = (rng.normal(size=(n, d)) + 1).astype(np.float32)
    return features, np.eye(3)[rng.integers(3, size=n)]


def summed(features, targets, cuts=()):
    parts = zip(np.split(features, cuts), np.split(targets, cuts), strict=True)
    return primal_ridge.accumulate(parts, features.shape[1], targets.shape[1])


def kernel_of(features):
    return features.astype(float) @ features.T.astype(float)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (15, 30)])
@pytest.mark.parametrize("penalty", [0.05, 2.0])
def test_primal_equals_dual_in_predictions_and_blocks(n, d, penalty):
    features, targets = make(n, d)
    group_rows = [np.arange(0, 3), np.arange(3, 5), *[np.array([i]) for i in range(5, n)]]
    dual, space = (
        ridge.fit(kernel_of(features), targets, penalty),
        primal_ridge.spectrum(summed(features, targets)),
    )
    np.testing.assert_allclose(
        primal_ridge.left_out(space, space.rotate(features), targets, penalty, group_rows),
        ridge.left_out(dual, group_rows),
        rtol=1e-5,
        atol=1e-6,
    )
    weights, b = primal_ridge.solve(space, penalty)
    np.testing.assert_allclose(
        features @ weights + b,
        kernel_of(features) @ dual.coefficients
        + ridge.intercept(kernel_of(features), dual, penalty),
        atol=1e-5,
    )


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 50), max_size=6), penalty=st.sampled_from([0.01, 1.0]))
def test_chunks_give_what_all_rows_at_once_give(cuts, penalty):
    features, targets = make(50, 8)
    whole = primal_ridge.spectrum(summed(features, targets))
    cut = primal_ridge.spectrum(summed(features, targets, sorted(cuts)))
    for one, other in zip(
        primal_ridge.solve(whole, penalty), primal_ridge.solve(cut, penalty), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    group_rows = [np.array([i]) for i in range(10)]
    some = primal_ridge.left_out(
        cut, cut.rotate(features[20:30]), targets[20:30], penalty, group_rows
    )
    singles = [np.array([i]) for i in range(50)]
    all_rows = primal_ridge.left_out(whole, whole.rotate(features), targets, penalty, singles)
    np.testing.assert_allclose(some, all_rows[20:30], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [6, 60])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_sums_without_a_fold_are_those_of_the_rest(d, penalty):
    features, targets = make(50, d)
    fold = np.arange(7, 31)
    keep = np.setdiff1d(np.arange(50), fold)
    rest = summed(features, targets).minus(summed(features[fold], targets[fold]))
    alone = summed(features[keep], targets[keep])
    once = primal_ridge.solve_cholesky(rest, penalty)
    for one, other in (
        (
            primal_ridge.solve(primal_ridge.spectrum(rest), penalty),
            primal_ridge.solve_cholesky(alone, penalty),
        ),
        (once, primal_ridge.solve(primal_ridge.spectrum(alone), penalty)),
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_solving_once_leaves_the_sums_as_they_are():
    features, targets = make(30, 5)
    sums = summed(features, targets)
    before = sums.squares.copy()
    primal_ridge.solve_cholesky(sums, 0.1)
    np.testing.assert_array_equal(sums.squares, before)
