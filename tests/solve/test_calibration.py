import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from warmstart.solve import calibration as solve_calibration


def smooth(scores, labels, calibration):
    """The slow definition: cross-entropy against targets smoothed by 1 / (n + 2)."""
    n, k = scores.shape
    targets = np.full((n, k), 1 / (n + 2) / k)
    targets[np.arange(n), labels] += 1 - 1 / (n + 2)
    return -(targets * solve_calibration.log_probabilities(scores, calibration)).sum(axis=1).mean()


def draws(seed, n=80, k=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    return rng.normal(size=(n, k)) * 0.5 + np.eye(k)[labels] * rng.uniform(0, 1), labels


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_temperature_is_the_minimum_that_a_bounded_search_finds(seed):
    scores, labels = draws(seed)
    zero = np.zeros(scores.shape[1])

    def loss(t):
        return smooth(scores, labels, solve_calibration.Calibration(t, zero))

    slow = minimize_scalar(loss, bounds=(0, 100), method="bounded", options={"xatol": 1e-8})
    assert loss(solve_calibration.fit_temperature(scores, labels).scale) <= slow.fun + 1e-7


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_temperature_and_bias_reach_the_general_minimum(seed):
    scores, labels = draws(seed, n=400, k=3)

    def loss(v):
        return smooth(scores, labels, solve_calibration.Calibration(v[0], v[1:]))

    fit = solve_calibration.fit_temperature_and_bias(scores, labels)
    slow = minimize(
        loss, np.array([1.0, 0, 0, 0]), method="L-BFGS-B", bounds=[(0, 1e3)] + [(-9, 9)] * 3
    )
    assert loss(np.r_[fit.scale, fit.bias]) <= slow.fun + 1e-5


def test_small_classes_get_no_bias():
    scores, labels = draws(0, n=30)
    assert not solve_calibration.fit_temperature_and_bias(scores, labels).bias.any()


@given(st.integers(0, 50))
def test_probabilities_sum_to_one_even_for_huge_scores(seed):
    scores = np.random.default_rng(seed).normal(size=(5, 3)) * 1e6
    p = np.exp(
        solve_calibration.log_probabilities(scores, solve_calibration.Calibration(3.0, np.zeros(3)))
    )
    assert p.sum(axis=1) == pytest.approx(1)


def test_useless_scores_get_temperature_zero():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    scores = -np.eye(3)[labels] + rng.normal(size=(300, 3)) * 0.01  # the wrong way round
    assert solve_calibration.fit_temperature(scores, labels).scale == pytest.approx(0, abs=1e-6)


def test_a_separable_set_does_not_claim_certainty():
    labels = np.arange(36) % 3
    scores = np.eye(3)[labels] * 0.9
    p = np.exp(
        solve_calibration.log_probabilities(
            scores, solve_calibration.fit_temperature(scores, labels)
        )
    )
    assert p.max() == pytest.approx(1 - (1 / 38) * (2 / 3), abs=1e-4)


def test_slopes_are_factors_of_scores():
    found = solve_calibration.Calibration(2.0, np.array([1.0, 0.0]), np.array([3.0, 0.5]))
    assert found.scaled(np.array([[4.0, -6.0]])).tolist() == [[25.0, -6.0]]
