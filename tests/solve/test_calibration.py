"""Fitted probabilities reach the minimum that a general search finds, and claim no certainty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax

from warmstart.solve.calibration import (
    Calibration,
    fit_platt,
    fit_temperature,
    fit_temperature_and_bias,
    log_losses,
    log_losses_of,
    log_probabilities,
    probabilities,
)


def smoothed_loss(scores, labels, values, weights=None):
    """The slow definition: cross-entropy against targets smoothed by 1 / (n + 2)."""
    k, weights = scores.shape[1], np.ones(len(labels)) if weights is None else weights
    share = 1 / (weights.sum() + 2)
    targets = (1 - share) * np.eye(k)[labels] + share / k
    rows = -(targets * log_softmax(values[0] * scores + values[1:], axis=1)).sum(axis=1)
    return weights @ rows / weights.sum()


def draws(seed, n=80, k=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    return rng.normal(size=(n, k)) * 0.5 + np.eye(k)[labels] * rng.uniform(0, 1), labels


@settings(max_examples=25)
@given(st.integers(0, 1000), st.booleans())
def test_the_temperature_has_the_least_loss(seed, is_weighted):
    scores, labels = draws(seed)
    weights = 1.0 + np.arange(len(labels)) % 3 if is_weighted else None

    def loss(scale):
        return smoothed_loss(scores, labels, np.r_[scale, np.zeros(4)], weights)

    slow = minimize_scalar(loss, bounds=(0, 100), method="bounded", options={"xatol": 1e-8})
    assert loss(fit_temperature(scores, labels, weights).scale) <= slow.fun + 1e-7


@settings(max_examples=10)
@given(st.integers(0, 1000), st.booleans())
def test_temperature_and_bias_have_the_least_loss(seed, is_weighted):
    scores, labels = draws(seed, n=400, k=3)
    weights = 1.0 + np.arange(len(labels)) % 3 if is_weighted else None

    def loss(values):
        return smoothed_loss(scores, labels, values, weights)

    fit = fit_temperature_and_bias(scores, labels, weights)
    bounds = [(0, 1e3)] + [(-9, 9)] * 3
    slow = minimize(loss, [1.0, 0, 0, 0], method="L-BFGS-B", bounds=bounds)
    assert loss(np.r_[fit.scale, fit.bias]) <= slow.fun + 1e-5
    assert fit.bias.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("smallest", "has_bias"), [(19, False), (20, True)])
def test_only_large_classes_get_a_bias(smallest, has_bias):
    labels = np.repeat([0, 1], [smallest, 60])
    scores = np.random.default_rng(0).normal(size=(len(labels), 2)) + np.eye(2)[labels]
    assert fit_temperature_and_bias(scores, labels).bias.any() == has_bias
    doubled = fit_temperature_and_bias(scores, labels, np.full(len(labels), 2.0))
    assert doubled.bias.any()  # a row of weight 2 counts as two


@given(st.integers(0, 50))
def test_probabilities_sum_to_one_even_for_huge_scores(seed):
    scores = np.random.default_rng(seed).normal(size=(5, 3)) * 1e6
    made = Calibration(3.0, np.array([0.5, 0.0, -0.5]))
    assert probabilities(scores, made).sum(axis=1) == pytest.approx(1)
    wanted = log_softmax(3 * scores + made.bias, axis=1)
    np.testing.assert_allclose(log_probabilities(scores, made), wanted, atol=1e-6)
    labels = np.arange(5) % 3
    np.testing.assert_allclose(log_losses(scores, labels, made), -wanted[range(5), labels])


def test_useless_scores_have_an_endless_temperature():
    labels = np.arange(300) % 3
    scores = -np.eye(3)[labels] + np.random.default_rng(0).normal(size=(300, 3)) * 0.01
    fit = fit_temperature(scores, labels)  # the wrong way round
    assert 0 < fit.scale < 1e-5
    assert fit.temperature == pytest.approx(1 / fit.scale)


def test_a_separable_set_does_not_claim_certainty():
    labels = np.arange(36) % 3
    scores = np.eye(3)[labels] * 0.9
    p = probabilities(scores, fit_temperature(scores, labels))
    assert p.max() == pytest.approx(1 - (1 / 38) * (2 / 3), abs=1e-4)


def test_slopes_are_factors_of_scores():
    made = Calibration(2.0, np.array([1.0, 0.0]), np.array([3.0, 0.5]))
    assert made.scaled(np.array([[4.0, -6.0]])).tolist() == [[25.0, -6.0]]
    assert Calibration(2.0, np.zeros(2)).scaled(np.ones((1, 2))).tolist() == [[2.0, 2.0]]


# ---- label by label


def test_slopes_and_shifts_have_the_least_loss():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 3)) * [0.1, 1.0, 5.0]
    has = (rng.random((200, 3)) < expit(scores / [0.05, 1.0, 5.0] - 1)).astype(float)
    slopes, shifts = fit_platt(scores, has)
    for k in range(3):
        plus, minus, spread = has[:, k].sum(), (1 - has[:, k]).sum(), scores[:, k].std()
        smooth = np.where(has[:, k] > 0, (plus + 1) / (plus + 2), 1 / (minus + 2))

        def loss(x, k=k, smooth=smooth, spread=spread):
            z = x[0] * scores[:, k] / spread + x[1]
            return (np.logaddexp(0, z) - smooth * z).mean()

        best = minimize(loss, [1.0, 0.0], method="BFGS")
        assert loss([slopes[k] * spread, shifts[k]]) < best.fun + 1e-6


def test_an_uninformative_score_gives_about_the_share():
    has = np.zeros((100, 1))
    has[:20] = 1
    slope, shift = fit_platt(np.ones((100, 1)), has)
    assert expit(slope[0] + shift[0]) == pytest.approx(0.2, abs=0.015)


def test_scores_that_point_the_wrong_way_are_not_turned_round():
    scores = np.linspace(0, 1, 40)[:, None]
    assert fit_platt(scores, (scores < 0.5).astype(float))[0][0] == 0


def test_losses_of_rows_by_hand():
    losses = log_losses_of(np.array([[2.0, -1.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    first = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    np.testing.assert_allclose(losses, [first, (np.log(2) + np.log1p(np.exp(3))) / 2])
