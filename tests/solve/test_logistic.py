import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from warmstart.solve.classifiers import fit_logistic, logistic_path


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=90)
    return rng.normal(size=(90, 7)) + np.eye(3)[labels] @ rng.normal(size=(3, 7)), labels


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
def test_logistic_agrees_with_scikit_learn(problem, penalty):
    features, labels = problem
    ours = fit_logistic(features, labels, 3, penalty, tolerance=1e-8)
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-8, max_iter=5000)
    theirs.fit(features, labels)
    scores, expected = ours.scores(features), theirs.decision_function(features)
    centre = scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        scores - centre, expected - expected.mean(axis=1, keepdims=True), atol=2e-3
    )


def test_a_path_gives_what_single_fits_give_in_the_order_asked(problem):
    features, labels = problem
    penalties = [0.01, 1.0, 0.1]
    for penalty, fit in zip(penalties, logistic_path(features, labels, 3, penalties), strict=True):
        single = fit_logistic(features, labels, 3, penalty, tolerance=1e-7)
        np.testing.assert_allclose(
            fit.scores(features), single.scores(features), atol=5e-3, rtol=5e-3
        )


def test_a_class_without_examples_is_never_chosen(problem):
    features, labels = problem
    fit = fit_logistic(features, labels, 4, 0.1)
    assert 3 not in fit.scores(features).argmax(axis=1)
