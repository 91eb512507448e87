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


def warning(shape="normal", n=300, noise=0.2, seed=0):
    """What a model says, and numbers that are off by such errors. Shapes: (n,) both."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=n)
    return text, text + noise * SHAPES[shape](rng, n)


def judge(text, truth, **options):
    return judge_numbers(text, truth, np.arange(len(truth)), **options)


def named(result):
    return result.rows[result.is_issue].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_errors_are_not_called_wrong(shape):
    assert sum(judge(*warning(shape, seed=seed)).count or 0 for seed in range(4)) <= 3


def test_numbers_of_others_are_named():
    text, truth = warning()
    truth[:15] = np.roll(truth[:15], 1)
    result = judge(text, truth)
    wrong = set(named(result))
    far = {row for row in range(15) if abs(text[row] - truth[row]) > 1.2}
    assert far
    assert far <= wrong
    assert len(wrong & set(range(15))) >= 0.9 * len(wrong)
    assert result.count == len(wrong)
    assert 0 < result.rate.low <= result.rate.value <= result.rate.high


def test_a_slip_of_the_decimal_point_is_named():
    text, truth = warning()
    truth[7] *= 40
    result = judge(text, truth)
    assert (named(result), result.count) == ([7], 1)
    ids, labels = [f"{n}.jpg" for n in range(300)], [f"{value:.3f}" for value in truth]
    record = of_numbers(result, ids, labels, text, 20)
    lines = record.ranked
    assert (lines[0].id, lines[0].label, lines[0].probability) == ("7.jpg", labels[7], None)
    assert len(lines) == 20
    assert [line.is_issue for line in lines[:2]] == [True, False]
    assert [line.score for line in lines] == sorted(line.score for line in lines)
    finding = label_finding(record)
    assert finding.items == (f"7.jpg: {labels[7]}, looks like {text[7]:.4g}",)
    assert finding.sentence.startswith("1 label issue among 300 numbers: ")


def test_copies_of_one_slip_are_one_slip():
    text, truth = warning()
    truth[7] *= 40
    more = np.append(np.arange(300), [7] * 50)
    result = judge_numbers(text[more], truth[more], more)
    assert result.count == 1
    assert result.is_issue.sum() == 51


@pytest.mark.parametrize("why", ["outcome", "distribution-shift", "no-signal"])
def test_numbers_are_ranked_whatever_forbids_a_count(why):
    text, truth = warning()
    truth[7] *= 40
    result = judge(text, truth, excuse=why)
    assert (result.rows[0], result.count, result.rate, result.why) == (7, None, None, why)
    assert not result.is_issue.any()


def test_a_model_that_knows_little_accuses_nothing():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1.7, 1.7, size=300)
    result = judge(0.2 * truth, truth)
    assert (result.count, result.why) == (None, "weak-model")
    record = of_numbers(result, ["x"] * 300, ["1"] * 300, truth, 5)
    assert label_finding(record) is None
    assert "probably its own mistakes" in record.sentence


def test_few_rows_tell_nothing():
    text, truth = warning(n=40)
    truth[3] = 50.0
    assert judge(text, truth).why == "too-few"
    text[:] = np.nan
    assert judge(text, truth).rows.size == 0


def test_grades_that_are_told_roughly_are_not_called_wrong():
    rng = np.random.default_rng(0)
    grades = rng.choice([-1.0, 0.0, 1.0], p=[0.5, 0.35, 0.15], size=400)
    text = 0.35 * grades + 0.3 * rng.normal(size=400)
    assert not judge(text, grades).count
