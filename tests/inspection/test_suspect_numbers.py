"""Numbers that look wrong: beyond the model's own errors, whatever shape these have."""

import numpy as np
import pytest

from warmstart.inspection.suspect_numbers import numbers_finding, rank_numbers, suspect_numbers

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "flat": lambda rng, n: rng.uniform(-1.7, 1.7, size=n),
    "heavy": lambda rng, n: rng.standard_t(3, size=n),
    "uneven": lambda rng, n: rng.normal(size=n) * rng.choice([0.3, 1.5], size=n),
}


def told(shape="normal", n=300, noise=0.2, seed=0):
    """What a model says, and numbers that are off by such errors. Shapes: (n,) both."""
    rng = np.random.default_rng(seed)
    said = rng.normal(size=n)
    return said, said + noise * SHAPES[shape](rng, n)


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_errors_are_not_called_wrong(shape):
    reported = [rank_numbers(*told(shape, seed=seed)).reported for seed in range(4)]
    assert sum(reported) <= 3


def test_numbers_of_others_are_named():
    said, truth = told()
    truth[:15] = np.roll(truth[:15], 1)
    found = rank_numbers(said, truth)
    named = set(found.rows[: found.reported].tolist())
    far = {row for row in range(15) if abs(said[row] - truth[row]) > 1.2}
    assert far
    assert far <= named
    assert len(named & set(range(15))) >= 0.9 * len(named)
    assert found.low <= found.rate <= found.high


def test_a_slip_of_the_decimal_point_is_named():
    said, truth = told()
    truth[7] *= 40
    found = rank_numbers(said, truth)
    assert found.rows[: found.reported].tolist() == [7]
    ids, labels = [f"{n}.jpg" for n in range(300)], [f"{value:.3f}" for value in truth]
    lines = suspect_numbers(found, ids, labels, said, 20)
    assert (lines[0].id, lines[0].label, lines[0].probability) == ("7.jpg", labels[7], None)
    assert len(lines) == 20
    assert [line.believed for line in lines[:2]] == [True, False]
    finding = numbers_finding(found, lines)
    assert finding.items == (f"7.jpg: {labels[7]}, looks like {said[7]:.4g}",)
    assert finding.sentence.startswith("1 number of 300 looks wrong")


def test_a_model_that_knows_little_doubts_nothing():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1.7, 1.7, size=300)
    found = rank_numbers(0.2 * truth, truth)
    assert found.reported == 0
    assert (
        numbers_finding(found, suspect_numbers(found, ["x"] * 300, ["1"] * 300, truth, 5)) is None
    )


def test_few_rows_tell_nothing():
    said, truth = told(n=40)
    truth[3] = 50.0
    assert rank_numbers(said, truth).reported == 0
    said[:] = np.nan
    assert rank_numbers(said, truth).rows.size == 0


def test_grades_that_are_told_roughly_are_not_called_wrong():
    rng = np.random.default_rng(0)
    grades = rng.choice([-1.0, 0.0, 1.0], p=[0.5, 0.35, 0.15], size=400)
    said = 0.35 * grades + 0.3 * rng.normal(size=400)
    assert rank_numbers(said, grades).reported == 0
