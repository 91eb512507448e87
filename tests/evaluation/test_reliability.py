"""Whether probabilities are what they say, on models whose faults are known."""

import numpy as np
import pytest

from warmstart.evaluation.reliability import LEAST, certainty, reliability

K = 4


def drawn(n, sharpness, seed=0):
    """Logits that are right about their own labels at temperature 1, then sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, K))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(K, p=row) for row in p])
    return sharpness * logits, labels


def found(n, sharpness, groups=None):
    scores, labels = drawn(n, sharpness)
    groups = np.arange(n) if groups is None else groups
    return reliability(scores, labels, groups, np.random.default_rng(0))


def test_a_model_that_knows_how_sure_to_be_is_left_alone():
    result = found(3000, 1.0)
    assert result.low < 0 < result.high
    assert "no significant difference" in result.sentence
    assert result.temperature == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("sharpness", "word"), [(3.0, "over"), (0.3, "under")])
def test_the_temperature_that_was_put_in_is_found(sharpness, word):
    result = found(3000, sharpness)
    assert f"{word}confident by" in result.sentence
    assert result.temperature == pytest.approx(sharpness, rel=0.1)
    assert result.ece_after < result.ece / 2
    assert result.gap == pytest.approx(result.confidence - result.accuracy)


def test_few_images_fit_no_temperature():
    result = found(LEAST - 1, 3.0)
    assert (result.temperature, result.ece_after, result.log_loss_after) == (None, None, None)
    assert found(60, 3.0, groups=np.arange(60) % (LEAST - 1)).temperature is None


def test_images_that_all_belong_together_tell_nothing():
    result = found(40, 3.0, groups=np.zeros(40, int))
    assert (result.low, result.high) == (None, None)
    assert "form one group" in result.sentence


def test_a_model_that_knows_nothing_is_mended_by_no_temperature():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(0, 5, (400, K)), rng.integers(K, size=400)
    scores[np.arange(400), labels] -= 5  # worse than chance
    assert reliability(scores, labels, np.arange(400), rng).temperature is None


def test_bins_hold_all_answers_once_the_less_sure_first():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1.0, 500)
    right = (rng.uniform(size=500) < sure).astype(float)
    found = certainty(sure, right, np.arange(500))
    assert sum(one.n for one in found.bins) == 500
    assert [one.confidence for one in found.bins] == sorted(one.confidence for one in found.bins)
    assert sum(one.n * one.accuracy for one in found.bins) / 500 == pytest.approx(right.mean())
    inside = sum(one.low <= one.confidence <= one.high for one in found.bins)
    assert inside >= len(found.bins) - 2  # calibrated: about one interval in twenty misses
    assert "no significant difference" in found.sentence


def test_few_answers_are_one_bin():
    found = certainty(np.array([0.9, 0.8]), np.array([1.0, 0.0]), np.arange(2))
    assert [one.n for one in found.bins] == [2]
