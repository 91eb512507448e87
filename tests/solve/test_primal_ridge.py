"""The primal form is the dual one, however rows are cut and subtracted; weights repeat rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve import primal_ridge, ridge
from warmstart.solve.primal_ridge import spread_rows

GROUPS = [np.arange(0, 3), np.arange(3, 5)]
SHAPES = [(12, 4), (9, 30)]  # more rows than features, and fewer


def make(n, d):
    rng = np.random.default_rng(n + d)
    features = (rng.normal(size=(n, d)) + 1).astype(np.float32)
    return features, np.eye(3)[rng.integers(3, size=n)]


def singles(start, stop):
    return [np.array([row]) for row in range(start, stop)]


def summed(features, targets, cuts=()):
    parts = zip(np.split(features, cuts), np.split(targets, cuts), strict=True)
    return primal_ridge.accumulate(parts, features.shape[1], targets.shape[1])


@pytest.mark.parametrize(("n", "d"), [(40, 6), (15, 30)])
@pytest.mark.parametrize("penalty", [0.05, 2.0])
def test_primal_equals_dual_in_predictions_and_blocks(n, d, penalty):
    features, targets = make(n, d)
    groups, kernel = [*GROUPS, *singles(5, n)], features.astype(float) @ features.T.astype(float)
    dual = ridge.fit(kernel, targets, penalty)
    space = primal_ridge.spectrum(summed(features, targets))
    left_out = primal_ridge.left_out(space, space.rotate(features), targets, penalty, groups)
    np.testing.assert_allclose(left_out, ridge.left_out(dual, groups), rtol=1e-5, atol=1e-6)
    weights, b = primal_ridge.solve(space, penalty)
    scores = kernel @ dual.coefficients + ridge.intercept(kernel, dual, penalty)
    np.testing.assert_allclose(features @ weights + b, scores, atol=1e-5)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 50), max_size=6), penalty=st.sampled_from([0.01, 1.0]))
def test_chunks_give_what_all_rows_at_once_give(cuts, penalty):
    features, targets = make(50, 8)
    whole = primal_ridge.spectrum(summed(features, targets))
    cut = primal_ridge.spectrum(summed(features, targets, sorted(cuts)))
    both = zip(primal_ridge.solve(whole, penalty), primal_ridge.solve(cut, penalty), strict=True)
    for one, other in both:
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    some = primal_ridge.left_out(
        cut, cut.rotate(features[20:30]), targets[20:30], penalty, singles(0, 10)
    )
    every = primal_ridge.left_out(whole, whole.rotate(features), targets, penalty, singles(0, 50))
    np.testing.assert_allclose(some, every[20:30], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [6, 60])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_sums_without_a_fold_are_those_of_the_rest(d, penalty):
    features, targets = make(50, d)
    fold = np.arange(7, 31)
    keep = np.setdiff1d(np.arange(50), fold)
    rest = summed(features, targets).minus(summed(features[fold], targets[fold]))
    alone = summed(features[keep], targets[keep])
    before = rest.squares.copy()
    by_cholesky = primal_ridge.solve_cholesky(rest, penalty)
    np.testing.assert_array_equal(rest.squares, before)  # the sums stay as they are
    expected = primal_ridge.solve(primal_ridge.spectrum(alone), penalty)
    for ways in (by_cholesky, primal_ridge.solve(primal_ridge.spectrum(rest), penalty)):
        for one, other in zip(ways, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_sums_over_processes_are_those_of_all_rows():
    features, targets = make(30, 5)
    doubled = summed(features, targets).over(lambda array: 2 * array)
    twice = summed(np.tile(features, (2, 1)), np.tile(targets, (2, 1)))
    for name in ("n", "features", "targets", "squares", "cross"):
        np.testing.assert_allclose(getattr(doubled, name), getattr(twice, name))


# ---- weighted rows


def problem(n, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 3))
    return x, y, rng.uniform(0.2, 4, n)


def normal_equations(x, y, weights, penalty):
    """With a column of ones that is not penalised."""
    wide = np.hstack([x, np.ones((len(x), 1))])
    system = (wide.T * weights) @ wide + np.diag([*[penalty] * x.shape[1], 0.0])
    solution = np.linalg.solve(system, (wide.T * weights) @ y)
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [0.01, 1.0, 50.0])
def test_weighted_rows_solve_the_normal_equations_and_are_left_out(shape, penalty):
    x, y, weights = problem(*shape)
    spread = spread_rows(x, weights)
    np.testing.assert_allclose(spread.average(x), weights @ x / weights.sum())
    slow = normal_equations(x, y, weights, penalty)
    for one, other in zip(spread.solve(y, penalty), slow, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    groups = [np.array([0, 2, 5]), np.array([1, 3]), np.array([4]), *singles(6, len(x))]
    for blocks, left_out in (
        (groups, spread.left_out(y, penalty, groups)),
        (singles(0, len(x)), spread.left_out(y, penalty)),
    ):
        for rows in blocks:
            rest = np.setdiff1d(np.arange(len(x)), rows)
            W, b = normal_equations(x[rest], y[rest], weights[rest], penalty)
            np.testing.assert_allclose(left_out[rows], x[rows] @ W + b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_weights_are_repeated_rows_and_weights_of_one_plain_ridge(shape):
    x, y, _ = problem(*shape)
    times = 1 + np.arange(len(x)) % 3
    again = np.repeat(np.arange(len(x)), times)
    weighted, repeated = (
        spread_rows(x, times.astype(float)),
        spread_rows(x[again], np.ones(len(again))),
    )
    for one, other in zip(weighted.solve(y, 0.3), repeated.solve(y[again], 0.3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    groups = [np.flatnonzero(again == row) for row in range(len(x))]
    left_out = repeated.left_out(y[again], 0.3, groups)
    np.testing.assert_allclose(weighted.left_out(y, 0.3)[again], left_out, atol=1e-9)
    dual = ridge.fit(x[again] @ x[again].T, y[again], 0.3)
    np.testing.assert_allclose(left_out, ridge.left_out(dual, groups), atol=1e-9)
