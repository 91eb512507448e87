import numpy as np

from warmstart.inspection.drift import drift


def sample(n, shift, seed, d=30):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def test_a_large_shift_is_found_and_named():
    found = drift(sample(200, 0.0, 0), sample(80, 0.8, 1), np.random.default_rng(0))
    assert found.kind == "drift"
    assert "differ from the training images" in found.sentence


def test_one_source_shows_no_drift():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert drift(sample(120, 0.0, seed), sample(90, 0.0, 50 + seed), rng) is None


def test_a_real_but_small_shift_is_not_worth_a_warning():
    shift = np.zeros(30)
    shift[0] = 0.6
    assert drift(sample(500, 0.0, 0), sample(500, shift, 1), np.random.default_rng(0)) is None


def test_too_few_test_images_say_nothing():
    assert drift(sample(200, 0.0, 0), sample(9, 5.0, 1), np.random.default_rng(0)) is None


def test_many_rows_cost_no_more_than_500_a_side():
    found = drift(sample(5000, 0.0, 0), sample(4000, 1.0, 1), np.random.default_rng(0))
    assert found is not None
