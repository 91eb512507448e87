"""A linear head on weighted rows."""

import numpy as np
import pytest

from warmstart.training.weighted import WeightedRows, fit_linear

PENALTIES = (0.01, 0.1, 1.0, 10.0)


def blobs(n=60, d=5, gap=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, d)) + gap * np.eye(3, d)[labels], labels


def test_a_row_is_a_block_of_its_own():
    x, labels = blobs(40)
    weights = np.random.default_rng(1).uniform(0.2, 4, 40)
    alone = tuple(np.array([row]) for row in range(40))
    one = fit_linear(WeightedRows(x, labels, 3, weights), PENALTIES)
    other = fit_linear(WeightedRows(x, labels, 3, weights, alone), PENALTIES)
    assert one.penalty == other.penalty
    assert one.calibration.scale == pytest.approx(other.calibration.scale, rel=1e-7)
    for a, b in zip(one.calibrated(), other.calibrated(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_whole_weights_are_repeated_rows_in_all_that_is_chosen():
    x, labels = blobs(30)
    times = np.random.default_rng(2).integers(1, 4, 30)
    again = np.repeat(np.arange(30), times)
    alone = tuple(np.array([row]) for row in range(30))
    groups = tuple(np.flatnonzero(again == row) for row in range(30))
    one = fit_linear(WeightedRows(x, labels, 3, times.astype(float), alone), PENALTIES)
    ones = np.ones(len(again))
    other = fit_linear(WeightedRows(x[again], labels[again], 3, ones, groups), PENALTIES)
    assert one.penalty == other.penalty
    for a, b in zip(one.calibrated(), other.calibrated(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_heavy_rows_win():
    """Two rows say one thing of a place, two another: weights decide."""
    x, labels = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 1, 0, 1])
    for heavy in (0, 1):
        weights = np.where(labels == heavy, 9.0, 1.0)
        W, b = fit_linear(WeightedRows(x, labels, 2, weights), PENALTIES).calibrated()
        assert ((x @ W + b).argmax(axis=1) == heavy).all()


def test_where_nothing_is_to_be_told_the_shares_are_the_answer():
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(80, 4)), np.repeat([0, 1], [60, 20])
    found = fit_linear(WeightedRows(x, rng.permutation(labels), 2, np.ones(80)), PENALTIES)
    W, b = found.calibrated()
    p = np.exp(x @ W + b)
    p /= p.sum(axis=1, keepdims=True)
    assert abs(p[:, 0].mean() - 0.75) < 0.08


def test_certainty_is_that_of_rows_left_out():
    x, labels = blobs(300, gap=1.0)
    fresh, truth = blobs(3000, gap=1.0, seed=9)
    W, b = fit_linear(WeightedRows(x, labels, 3, np.ones(300)), PENALTIES).calibrated()
    p = np.exp(fresh @ W + b)
    p /= p.sum(axis=1, keepdims=True)
    hits = p.argmax(axis=1) == truth
    assert abs(p.max(axis=1).mean() - hits.mean()) < 0.05
