"""Curves as features of a kernel."""

from __future__ import annotations

import numpy as np

from warmstart.solve.weighted_ridge import (
    MOST_ANCHORS,
    anchors_of,
    fit_laplace_features,
    left_out,
    solve,
    spread_rows,
)


def laplace(a, b, width):
    apart = np.abs(a[:, None] - b[None]).sum(axis=2) / np.sqrt(a.shape[1])
    return np.exp(-apart / width)


def test_a_ridge_on_the_features_is_kernel_ridge():
    rng = np.random.default_rng(0)
    rows, new, values = rng.normal(size=(25, 3)), rng.normal(size=(6, 3)), rng.normal(size=(25, 1))
    made = fit_laplace_features(rows, 1.5)
    weights, bias = solve(spread_rows(made.of(rows), np.ones(25)), values, 0.3)
    kernel = laplace(rows, rows, 1.5)
    centre = np.eye(25) - 1 / 25
    dual = np.linalg.solve(centre @ kernel @ centre + 0.3 * np.eye(25), centre @ values)
    shift = (values - kernel @ dual - 0.3 * dual).mean()
    slow = laplace(new, rows, 1.5) @ dual + shift
    np.testing.assert_allclose(made.of(new) @ weights + bias, slow, rtol=1e-6, atol=1e-9)


def test_rows_left_out_are_those_of_fitting_without_them():
    rng = np.random.default_rng(1)
    rows, values = rng.normal(size=(15, 2)), rng.normal(size=(15, 1))
    features = fit_laplace_features(rows, 1.0).of(rows)
    told = left_out(spread_rows(features, np.ones(15)), values, 0.1)
    for row in range(15):
        others = np.arange(15) != row
        weights, bias = solve(spread_rows(features[others], np.ones(14)), values[others], 0.1)
        np.testing.assert_allclose(features[row] @ weights + bias, told[row], rtol=1e-6)


def test_of_many_rows_some_are_anchors():
    rows = np.random.default_rng(2).normal(size=(1500, 2))
    assert len(anchors_of(rows)) == MOST_ANCHORS
    assert fit_laplace_features(rows[:40], 2.0).of(rows).shape[0] == 1500
