"""Ridge with weighted rows against the slow definitions: repeated rows, and refitting."""

import numpy as np
import pytest

from warmstart.solve import ridge as solve_ridge
from warmstart.solve.kernels import fit_scaling
from warmstart.solve.weighted_ridge import (
    fit_weighted_scaling,
    left_out,
    solve,
    spread_rows,
    standardise,
)

SHAPES = [(12, 4), (9, 30)]  # more rows than features, and fewer


def problem(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, 3)), rng.integers(1, 4, n).astype(float)


def plainly(x, y, weights, penalty):
    """The normal equations with a column of ones that is not penalised."""
    wide = np.hstack([x, np.ones((len(x), 1))])
    ridge = np.diag([*[penalty] * x.shape[1], 0.0])
    found = np.linalg.solve((wide.T * weights) @ wide + ridge, (wide.T * weights) @ y)
    return found[:-1], found[-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [0.01, 1.0, 50.0])
def test_it_solves_the_weighted_normal_equations(shape, penalty):
    x, y, _ = problem(*shape)
    weights = np.random.default_rng(1).uniform(0.1, 3, len(x))
    for found, slow in zip(
        solve(spread_rows(x, weights), y, penalty), plainly(x, y, weights, penalty), strict=True
    ):
        np.testing.assert_allclose(found, slow, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_kernel_with_the_penalty_over_the_weights(shape):
    """RECIPE §2: K + penalty / W, with the same intercept."""
    x, y, weights = problem(*shape)
    system = x @ x.T + 0.7 * np.diag(1 / weights)
    inside = np.linalg.inv(system)
    ones = np.ones(len(x))
    G = inside - np.outer(inside @ ones, ones @ inside) / (ones @ inside @ ones)
    W, b = solve(spread_rows(x, weights), y, 0.7)
    np.testing.assert_allclose(x.T @ (G @ y), W, atol=1e-9)
    missed = (G @ y) / np.diag(G)[:, None]
    alone = [np.array([row]) for row in range(len(x))]
    found = left_out(spread_rows(x, weights), y, 0.7, alone)
    np.testing.assert_allclose(y - missed, found, atol=1e-9)
    assert b.shape == (3,)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_one_are_plain_ridge(shape):
    x, y, _ = problem(*shape)
    ones = np.ones(len(x))
    dual = solve_ridge.fit(x @ x.T, y, 0.5)
    W, b = solve(spread_rows(x, ones), y, 0.5)
    np.testing.assert_allclose(W, x.T @ dual.coefficients, atol=1e-9)
    np.testing.assert_allclose(b, solve_ridge.intercept(x @ x.T, dual, 0.5), atol=1e-9)
    group_rows = [np.array([0, 3, 4]), *(np.array([row]) for row in (1, 2, *range(5, len(x))))]
    np.testing.assert_allclose(
        left_out(spread_rows(x, ones), y, 0.5, group_rows),
        solve_ridge.left_out(dual, group_rows),
        atol=1e-9,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_weights_are_repeated_rows(shape):
    x, y, weights = problem(*shape)
    times = weights.astype(int)
    again, ones = np.repeat(np.arange(len(x)), times), np.ones(times.sum())
    weighted, repeated = spread_rows(x, weights), spread_rows(x[again], ones)
    for one, other in zip(solve(weighted, y, 0.3), solve(repeated, y[again], 0.3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    group_rows = [np.flatnonzero(again == row) for row in range(len(x))]
    alone = [np.array([row]) for row in range(len(x))]
    whole = left_out(weighted, y, 0.3)
    np.testing.assert_allclose(whole, left_out(weighted, y, 0.3, alone), atol=1e-9)
    np.testing.assert_allclose(
        whole[again], left_out(repeated, y[again], 0.3, group_rows), atol=1e-9
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_left_out_is_a_fit_without_it(shape):
    x, y, _ = problem(*shape)
    weights = np.random.default_rng(2).uniform(0.2, 4, len(x))
    group_rows = [
        np.array([0, 2, 5]),
        np.array([1, 3]),
        *(np.array([r]) for r in (4, *range(6, len(x)))),
    ]
    found = left_out(spread_rows(x, weights), y, 0.4, group_rows)
    for rows in group_rows:
        rest = np.setdiff1d(np.arange(len(x)), rows)
        W, b = plainly(x[rest], y[rest], weights[rest], 0.4)
        np.testing.assert_allclose(found[rows], x[rows] @ W + b, atol=1e-8)


def test_scalings_are_those_of_repeated_rows():
    x, _, weights = problem(12, 4)
    x[:, 1] = 3.0
    again = np.repeat(x, weights.astype(int), axis=0)
    for made, plain in ((fit_weighted_scaling(x, weights), fit_scaling(again)),):
        np.testing.assert_allclose(made.offset, plain.offset)
        np.testing.assert_allclose(made.scale, plain.scale)
    made = standardise(x, weights)
    seen = (again - made.offset) * made.scale
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-12)
    assert made.scale[1] == 0
    assert (seen**2).sum(axis=1).mean() == pytest.approx(1)


def test_a_column_in_other_units_changes_nothing():
    x, _, weights = problem(20, 3)
    units = np.array([1.0, 1e6, 1e-6])
    scaled = [(v - s.offset) * s.scale for v in (x, x * units) for s in [standardise(v, weights)]]
    np.testing.assert_allclose(*scaled, atol=1e-9)


def test_a_column_alone_has_unit_length_and_one_within_rounding_none():
    """1e10 and 1 more or less is no spread: just at the bound, a ten thousand millionth."""
    even = np.ones(2)
    assert standardise(np.array([[0.0, 5.0], [4.0, 5.0]]), even).scale.tolist() == [0.5, 0.0]
    for apart, scale in ((1.0, 0.0), (2.0, 0.5)):
        column = np.array([[1e10 - apart], [1e10 + apart]])
        assert standardise(column, even).scale.tolist() == [scale]
