"""Probabilities label by label."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from warmstart.solve.calibration import fit_platt, log_losses_of


def smooth(has):
    plus, minus = has.sum(), (1 - has).sum()
    return np.where(has > 0, (plus + 1) / (plus + 2), 1 / (minus + 2))


def test_slopes_and_shifts_are_those_of_least_loss():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 3)) * [0.1, 1.0, 5.0]
    has = (rng.random((200, 3)) < expit(scores / [0.05, 1.0, 5.0] - 1)).astype(float)
    slopes, shifts = fit_platt(scores, has)
    for k in range(3):
        wanted = smooth(has[:, k])

        def loss(x, k=k, wanted=wanted):
            z = x[0] * scores[:, k] / scores[:, k].std() + x[1]
            return (np.logaddexp(0, z) - wanted * z).mean()

        best = minimize(loss, [1.0, 0.0], method="BFGS")
        own = loss([slopes[k] * scores[:, k].std(), shifts[k]])
        assert own < best.fun + 1e-4


def test_a_score_that_says_nothing_answers_about_the_share():
    has = np.zeros((100, 1))
    has[:20] = 1
    slope, shift = fit_platt(np.ones((100, 1)), has)
    assert abs(expit(slope[0] + shift[0]) - 0.2) < 0.03


def test_scores_that_point_the_wrong_way_are_not_turned_round():
    scores = np.linspace(0, 1, 40)[:, None]
    assert fit_platt(scores, (scores < 0.5).astype(float))[0][0] == 0


def test_losses_of_rows_by_hand():
    found = log_losses_of(np.array([[2.0, -1.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    wanted = [
        (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2,
        (np.log(2) + np.log1p(np.exp(3))) / 2,
    ]
    np.testing.assert_allclose(found, wanted)
