import numpy as np

from warmstart.evidence.out_of_distribution import detect_shift


def sample(n, shift, seed, d=30):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def test_a_large_shift_is_found_and_named():
    result = detect_shift(sample(200, 0.0, 0), sample(80, 0.8, 1), np.random.default_rng(0))
    assert result.kind == "distribution-shift"
    assert "Distribution shift: a simple classifier tells" in result.sentence


def test_one_source_shows_no_drift():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert detect_shift(sample(120, 0.0, seed), sample(90, 0.0, 50 + seed), rng) is None


def test_a_real_but_small_shift_is_not_worth_a_warning():
    shift = np.zeros(30)
    shift[0] = 0.6
    assert (
        detect_shift(sample(500, 0.0, 0), sample(500, shift, 1), np.random.default_rng(0)) is None
    )


def test_too_few_test_images_say_nothing():
    assert detect_shift(sample(200, 0.0, 0), sample(9, 5.0, 1), np.random.default_rng(0)) is None


def test_many_rows_cost_no_more_than_500_a_side():
    result = detect_shift(sample(5000, 0.0, 0), sample(4000, 1.0, 1), np.random.default_rng(0))
    assert result is not None


def test_only_the_rows_that_are_drawn_are_asked_for():
    class Many:
        def __init__(self, values):
            self.values, self.asked = values, []

        def __len__(self):
            return len(self.values)

        def __getitem__(self, rows):
            self.asked.append(len(rows))
            return self.values[rows]

    parts = Many(sample(5000, 0.0, 0)), Many(sample(700, 1.0, 1))
    result = detect_shift(*parts, np.random.default_rng(0))
    assert [part.asked for part in parts] == [[500], [500]]
    assert result == detect_shift(*(part.values for part in parts), np.random.default_rng(0))
