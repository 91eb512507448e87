"""Nearest class means against means computed anew; logistic regression against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from warmstart.solve.classifiers import (
    class_mean_weights,
    fit_logistic,
    left_out_class_means,
    logistic_path,
)


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
                slow = x[rows] @ mean - mean @ mean / 2
                np.testing.assert_allclose(fast[rows, c], slow, atol=1e-9)
            else:
                assert (fast[rows, c] == -1000).all()


def test_scores_pick_the_nearest_mean():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    weights, bias = class_mean_weights(x @ x.T, y, 4)
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    distance = ((x[:, None] - means) ** 2).sum(axis=2)
    scores = x @ x.T @ weights + bias
    assert (scores.argmax(axis=1) == distance.argmin(axis=1)).all()
    assert (scores[:, 3] == -1000).all()  # a class without examples


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=90)
    return rng.normal(size=(90, 7)) + np.eye(3)[labels] @ rng.normal(size=(3, 7)), labels


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
def test_logistic_agrees_with_scikit_learn(problem, penalty):
    features, labels = problem
    ours = fit_logistic(features, labels, 3, penalty, tolerance=1e-8).scores(features)
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-8, max_iter=5000)
    expected = theirs.fit(features, labels).decision_function(features)
    for scores in (ours, expected):
        scores -= scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_a_path_has_the_single_fits_in_the_order_of_its_penalties(problem):
    features, labels = problem
    penalties = [0.01, 1.0, 0.1]
    for penalty, fit in zip(penalties, logistic_path(features, labels, 3, penalties), strict=True):
        single = fit_logistic(features, labels, 3, penalty, tolerance=1e-7)
        np.testing.assert_allclose(fit.scores(features), single.scores(features), atol=5e-3)


def test_a_class_without_examples_is_never_chosen(problem):
    features, labels = problem
    fit = fit_logistic(features, labels, 4, 0.1)
    assert 3 not in fit.scores(features).argmax(axis=1)
