"""How far the inner statistics are from the old data's: a divergence of normal distributions."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from warmstart.evidence.domain_gap import divergences, domain_gap, mean_divergence


@dataclass(frozen=True)
class Layer:
    block: int
    source_mean: np.ndarray
    source_var: np.ndarray
    mean: np.ndarray
    square: np.ndarray


def layer(rng, n=32, channels=64, shift=0.0, wider=1.0, block=1, positions=49):
    """What a layer sees of n images, each position drawn from the source, moved and widened."""
    mean = rng.normal(size=channels)
    spread = rng.uniform(0.5, 2.0, size=channels)
    shape = (n, channels, positions)
    values = mean[:, None] + spread[:, None] * (shift + np.sqrt(wider) * rng.normal(size=shape))
    return Layer(block, mean, spread**2, values.mean(axis=2), (values**2).mean(axis=2))


def test_a_channel_diverges_as_normal_distributions_do():
    rng = np.random.default_rng(0)
    seen = layer(rng, shift=0.7, wider=2.0)
    rows = np.array([0, 3, 3, 7])
    mean = seen.mean[rows].mean(axis=0)
    variance = seen.square[rows].mean(axis=0) - mean**2
    here = Normal(torch.tensor(mean), torch.tensor(variance).sqrt())
    old = Normal(torch.tensor(seen.source_mean), torch.tensor(seen.source_var).sqrt())
    np.testing.assert_allclose(divergences(seen, rows), kl_divergence(here, old), rtol=1e-4)


def test_the_median_of_a_part_and_the_mean_of_parts():
    rng = np.random.default_rng(1)
    layers = [layer(rng, block=part, shift=part) for part in (1, 1, 2)]
    rows = np.arange(32)
    first = np.median(np.r_[divergences(layers[0], rows), divergences(layers[1], rows)])
    second = np.median(divergences(layers[2], rows))
    assert mean_divergence(layers, rows) == pytest.approx((first + second) / 2)


def test_the_old_data_itself_is_not_far():
    """Few images bring a distance of their own, which is taken off."""
    rng = np.random.default_rng(2)
    plain, value = [], []
    for _ in range(20):
        layers = [layer(rng, n=16, positions=4)]
        result = domain_gap(layers, 1, rng)
        plain.append(mean_divergence(layers, np.arange(16)))
        value.append(plain[-1] - result.details["bias"])
        assert result.low == 0.0
    assert abs(np.mean(value)) < 0.25 * np.mean(plain)


def test_it_grows_with_a_shift_and_with_a_spread():
    rng = np.random.default_rng(3)
    by_shift = [domain_gap([layer(rng, shift=s)], 1, rng).value for s in (0.0, 0.3, 1.0, 3.0)]
    assert by_shift == sorted(by_shift)
    assert by_shift[2] == pytest.approx(0.5, rel=0.1)
    by_spread = [domain_gap([layer(rng, wider=w)], 1, rng).value for w in (1.0, 2.0, 4.0)]
    assert by_spread == sorted(by_spread)
    assert by_spread[2] == pytest.approx((4 - 1 - np.log(4)) / 2, rel=0.1)


def test_the_interval_holds_the_value():
    rng = np.random.default_rng(4)
    result = domain_gap([layer(rng, shift=0.5)], 1, rng)
    assert 0 <= result.low < result.value < result.high
    assert (result.n, result.details["layers"], result.details["blocks"]) == (32, 1, 1)
    assert result.meaning.endswith(".")


def test_channels_that_never_vary_stay_finite():
    still = Layer(1, np.zeros(3), np.zeros(3), np.zeros((5, 3)), np.zeros((5, 3)))
    dark = Layer(1, np.zeros(3), np.ones(3), np.zeros((5, 3)), np.zeros((5, 3)))
    for seen in (still, dark):
        result = domain_gap([seen], 1, np.random.default_rng(0))
        assert np.isfinite([result.value, result.low, result.high]).all()


def test_without_statistics_there_is_no_distance():
    result = domain_gap([], 3, np.random.default_rng(0))
    assert result.value is result.low is result.high is None
    assert "Not available" in result.meaning
