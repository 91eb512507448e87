"""Label issues of numbers: beyond the model's own errors, whatever shape these have."""

import numpy as np
import pytest

from warmstart.evidence.label_issues import judge_numbers, label_finding, of_numbers

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


def judge(said, truth, **options):
    return judge_numbers(said, truth, np.arange(len(truth)), **options)


def named(found):
    return found.rows[found.is_issue].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_errors_are_not_called_wrong(shape):
    assert sum(judge(*told(shape, seed=seed)).count or 0 for seed in range(4)) <= 3


def test_numbers_of_others_are_named():
    said, truth = told()
    truth[:15] = np.roll(truth[:15], 1)
    found = judge(said, truth)
    wrong = set(named(found))
    far = {row for row in range(15) if abs(said[row] - truth[row]) > 1.2}
    assert far
    assert far <= wrong
    assert len(wrong & set(range(15))) >= 0.9 * len(wrong)
    assert found.count == len(wrong)
    assert 0 < found.rate.low <= found.rate.value <= found.rate.high


def test_a_slip_of_the_decimal_point_is_named():
    said, truth = told()
    truth[7] *= 40
    found = judge(said, truth)
    assert (named(found), found.count) == ([7], 1)
    ids, labels = [f"{n}.jpg" for n in range(300)], [f"{value:.3f}" for value in truth]
    record = of_numbers(found, ids, labels, said, 20)
    lines = record.ranked
    assert (lines[0].id, lines[0].label, lines[0].probability) == ("7.jpg", labels[7], None)
    assert len(lines) == 20
    assert [line.is_issue for line in lines[:2]] == [True, False]
    assert [line.score for line in lines] == sorted(line.score for line in lines)
    finding = label_finding(record)
    assert finding.items == (f"7.jpg: {labels[7]}, looks like {said[7]:.4g}",)
    assert finding.sentence.startswith("1 label issue among 300 numbers: ")


def test_copies_of_one_slip_are_one_slip():
    said, truth = told()
    truth[7] *= 40
    more = np.append(np.arange(300), [7] * 50)
    found = judge_numbers(said[more], truth[more], more)
    assert found.count == 1
    assert found.is_issue.sum() == 51


@pytest.mark.parametrize("why", ["outcome", "distribution-shift", "no-signal"])
def test_numbers_are_ranked_whatever_forbids_a_count(why):
    said, truth = told()
    truth[7] *= 40
    found = judge(said, truth, excuse=why)
    assert (found.rows[0], found.count, found.rate, found.why) == (7, None, None, why)
    assert not found.is_issue.any()


def test_a_model_that_knows_little_accuses_nothing():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1.7, 1.7, size=300)
    found = judge(0.2 * truth, truth)
    assert (found.count, found.why) == (None, "weak-model")
    record = of_numbers(found, ["x"] * 300, ["1"] * 300, truth, 5)
    assert label_finding(record) is None
    assert "probably its own mistakes" in record.sentence


def test_few_rows_tell_nothing():
    said, truth = told(n=40)
    truth[3] = 50.0
    assert judge(said, truth).why == "too-few"
    said[:] = np.nan
    assert judge(said, truth).rows.size == 0


def test_grades_that_are_told_roughly_are_not_called_wrong():
    rng = np.random.default_rng(0)
    grades = rng.choice([-1.0, 0.0, 1.0], p=[0.5, 0.35, 0.15], size=400)
    said = 0.35 * grades + 0.3 * rng.normal(size=400)
    assert not judge(said, grades).count
