"""The scikit-learn regressor."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tiny import PREP, network
from warmstart.errors import DataError, UsageError
from warmstart.sklearn.estimators import WarmStartRegressor


@parametrize_with_checks([WarmStartRegressor(), WarmStartRegressor(base=None, strategy="head")])
def test_it_keeps_what_scikit_learn_promises(estimator, check):
    check(estimator)


def test_on_a_table_it_is_as_good_as_ridge():
    X, y = load_diabetes(return_X_y=True)
    usual = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
    ours = cross_val_score(WarmStartRegressor(), X, y, cv=5)
    assert ours.mean() > cross_val_score(usual, X, y, cv=5).mean() - 0.005


def test_a_row_of_weight_two_is_given_twice():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    twice = np.repeat([1, 2], 15)
    weighed = WarmStartRegressor().fit(X, y, twice)
    repeated = WarmStartRegressor().fit(np.repeat(X, twice, axis=0), np.repeat(y, twice))
    np.testing.assert_allclose(weighed.predict(X), repeated.predict(X), rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_only_the_ratios_of_weights_count(scale):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(60, 3)), rng.uniform(0.5, 4, 60)
    y = np.sin(2 * X[:, 0]) + rng.normal(0, 0.1, 60)
    one = WarmStartRegressor().fit(X, y, weights)
    other = WarmStartRegressor().fit(X, y, scale * weights)
    assert (one.penalty_, one.width_) == (other.penalty_, other.width_)
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-6)


def test_without_noise_it_is_the_line():
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = X @ [1.0, -2.0, 0.5] + 7
    result = WarmStartRegressor().fit(X, y)
    np.testing.assert_allclose(result.coef_, LinearRegression().fit(X, y).coef_, rtol=1e-2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    light = rng.uniform(40, 200, size=60)
    X = np.clip(light[:, None, None, None] + rng.normal(0, 9, (60, 32, 32, 3)), 0, 255)
    return X.astype(np.uint8), light / 10


def test_on_images_it_learns_a_number_and_can_be_pickled(images):
    X, y = images
    result = WarmStartRegressor(network(), preprocessing=PREP).fit(X[:50], y[:50])
    said = result.predict(X[50:])
    assert np.abs(said - y[50:]).mean() < 1.0
    assert result.summary_.task == "regress"
    np.testing.assert_allclose(pickle.loads(pickle.dumps(result)).predict(X[50:]), said, rtol=1e-5)
    result.set_params(base=None).fit(y[:, None], y)
    assert result.predict(y[:2, None]).shape == (2,)
    assert not hasattr(result, "summary_")


def test_numbers_without_a_signal_are_answered_by_their_mean(images):
    X, y = images
    shuffled = np.random.default_rng(1).permutation(y)
    result = WarmStartRegressor(network(), preprocessing=PREP).fit(X, shuffled)
    assert result.summary_.verdict.kind == "no-signal"
    np.testing.assert_allclose(result.predict(X[:2]), shuffled.mean())


@pytest.mark.parametrize(
    ("estimator", "X", "y", "words"),
    [
        (WarmStartRegressor("lite0"), np.ones((4, 2)), [1, 2, 3, 4], "a network for images"),
        (WarmStartRegressor(strategy="last:1"), np.ones((4, 2)), [1, 2, 3, 4], "a table has none"),
        (WarmStartRegressor(None), np.ones((4, 8, 8, 3)), [1, 2, 3, 4], "is for tables"),
        (WarmStartRegressor(), np.ones((4, 8, 8, 3)), [1, 2], "X has 4 rows, y has 2"),
    ],
)
def test_options_that_do_not_fit(estimator, X, y, words):
    with pytest.raises((UsageError, DataError), match=words):
        estimator.fit(X, y)


def test_weights_and_tables_where_images_were_learnt(images):
    X, y = images
    with pytest.raises(UsageError, match="sample_weight counts rows of a table"):
        WarmStartRegressor().fit(X, y, np.ones(60))
    result = WarmStartRegressor(network(), preprocessing=PREP).fit(X, y)
    with pytest.raises(DataError, match="not an array of images"):
        result.predict(y[:, None])


def test_it_bends_where_rows_left_out_say_so():
    rng = np.random.default_rng(3)
    X = rng.uniform(-2, 2, size=(200, 3))
    y = np.abs(X[:, 0]) + np.sin(2 * X[:, 1]) + 0.1 * rng.normal(size=200)
    result = WarmStartRegressor().fit(X[:150], y[:150])
    assert result.width_
    assert not hasattr(result, "coef_")
    line = LinearRegression().fit(X[:150], y[:150])
    assert result.score(X[150:], y[150:]) > line.score(X[150:], y[150:]) + 0.3
    result.fit(X, X @ [1.0, 2.0, 3.0] + rng.normal(size=200))
    assert result.width_ is None
    np.testing.assert_allclose(result.predict(X), X @ result.coef_ + result.intercept_)


def test_a_curve_counts_a_row_of_weight_two_twice():
    rng = np.random.default_rng(4)
    X = rng.uniform(-2, 2, size=(40, 2))
    y, twice = np.abs(X[:, 0]), np.repeat([1, 2], 20)
    weighed = WarmStartRegressor().fit(X, y, twice)
    repeated = WarmStartRegressor().fit(np.repeat(X, twice, axis=0), np.repeat(y, twice))
    assert weighed.width_ == repeated.width_ is not None
    np.testing.assert_allclose(weighed.predict(X), repeated.predict(X), rtol=1e-6)
