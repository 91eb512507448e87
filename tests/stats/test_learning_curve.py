"""Learning curves: what is put in comes out, and more examples never harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.stats.learning_curve import FORECAST_SD, PowerLaw, expected_gain, fit_power_law

SIZES = np.array([10.0, 20.0, 35.0, 50.0, 70.0, 90.0])

laws = st.builds(PowerLaw, st.floats(0.05, 2.0), st.floats(0.0, 1.0))
accuracies = st.lists(st.floats(0.0, 1.0), min_size=len(SIZES), max_size=len(SIZES))


def through(law, sizes=SIZES):
    return np.array([law.at(n) for n in sizes])


@given(laws)
def test_a_law_is_recovered_from_exact_accuracies(law):
    exact = through(law)
    # Beyond these an accuracy is taken for what so many rows can prove.
    if (exact < 0.5 / SIZES).any() or (exact > 1 - 0.5 / SIZES).any():
        return
    found = fit_power_law(SIZES, exact)
    assert found.scale == pytest.approx(law.scale, rel=1e-6)
    assert found.exponent == pytest.approx(law.exponent, abs=1e-6)


@given(accuracies)
def test_more_examples_never_harm(values):
    law = fit_power_law(SIZES, np.array(values))
    assert law.exponent >= 0
    assert np.isfinite(law.scale)
    assert 0 < law.at(90) <= law.at(180) <= 1


@given(st.lists(accuracies, min_size=1, max_size=10), st.floats(90, 200), st.integers(0, 9))
def test_the_interval_holds_the_gain_which_is_never_negative(draws, at, seed):
    rng = np.random.default_rng(seed)
    gain = expected_gain(SIZES, np.array(draws), at, 2 * at, rng, boots=20)
    assert 0 <= gain.low <= gain.value <= gain.high
    assert gain.value == pytest.approx(gain.law.at(2 * at) - gain.law.at(at))


def test_draws_that_agree_leave_the_error_of_the_form():
    draws = np.tile(through(PowerLaw(0.3, 0.6)), (10, 1))
    gain = expected_gain(SIZES, draws, 100, 200, np.random.default_rng(0))
    assert gain.high - gain.value == pytest.approx(1.96 * FORECAST_SD / np.sqrt(90))


def test_draws_that_disagree_widen_the_interval():
    rising, flat = np.linspace(0.3, 0.9, 6), np.full(6, 0.6)
    alike = np.tile((rising + flat) / 2, (4, 1))
    apart = np.stack([rising, flat, rising, flat])
    calm, wide = (
        expected_gain(SIZES, draws, 100, 200, np.random.default_rng(0)) for draws in (alike, apart)
    )
    assert wide.value == pytest.approx(calm.value)
    assert wide.high - wide.value > 1.2 * (calm.high - calm.value)


def test_a_flat_curve_gains_nothing_and_a_falling_one_neither():
    flat, falling = np.full((10, 6), 0.7), np.tile(np.linspace(0.9, 0.5, 6), (10, 1))
    for draws in (flat, falling):
        gain = expected_gain(SIZES, draws, 100, 200, np.random.default_rng(0))
        assert gain.value == pytest.approx(0.0, abs=1e-12)
        assert gain.low == 0.0
        assert gain.high > 0
