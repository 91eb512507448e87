"""Label issues: a ranking always, a number only where a test earns it."""

from dataclasses import replace

import numpy as np
import pytest

from refit import kernel_of, singles
from warmstart.evidence.label_issues import (
    LEAST,
    MOST_WRONG,
    POWERS,
    RATES,
    JudgedLabels,
    fit_noise,
    judge_labels,
    judge_numbers,
    judge_sets,
    label_finding,
    label_noise_ceiling,
    of_classes,
    of_numbers,
    of_sets,
)
from warmstart.evidence.probe import best_probabilities
from warmstart.records.data import Share


def honest(n, k, strength, seed, flipped=0.0):
    """Calibrated probabilities, labels drawn from them, and which labels were then flipped."""
    rng = np.random.default_rng(seed)
    logits = strength * rng.normal(size=(n, k))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(k, p=row) for row in p])
    which = rng.random(n) < flipped
    labels[which] = (labels[which] + rng.integers(1, k, which.sum())) % k
    return p, labels, which


def judge(p, labels, **options):
    return judge_labels(p, labels, np.arange(len(labels)), **options)


# ---- the ranking ---------------------------------------------------------------------------


def test_every_judged_label_is_ranked_once_by_its_own_probability():
    p, labels, _ = honest(150, 3, 3.0, 0, flipped=0.1)
    p[10:20] = np.nan  # rows that no fold held out
    result = judge(p, labels)
    assert sorted(result.rows) == [*range(10), *range(20, 150)]
    np.testing.assert_array_equal(result.labels, labels[result.rows])
    np.testing.assert_array_equal(result.suggested, p[result.rows].argmax(axis=1))
    np.testing.assert_array_equal(result.probability, p[result.rows].max(axis=1))
    np.testing.assert_array_equal(result.score, p[result.rows, result.labels])
    rest = result.score[~result.is_issue]
    assert not result.is_issue[result.is_issue.sum() :].any()
    np.testing.assert_array_equal(rest, np.sort(rest))


@pytest.mark.parametrize("why", ["outcome", "distribution-shift", "no-signal"])
def test_the_ranking_is_there_whatever_forbids_a_number(why):
    p, labels, flipped = honest(600, 4, 6.0, 3, flipped=0.08)
    result = judge(p, labels, excuse=why)
    assert (result.count, result.rate, result.why) == (None, None, why)
    assert not result.is_issue.any()
    assert flipped[result.rows[:60]].sum() > 0.8 * flipped.sum()


# ---- the number ----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 6])
def test_flipped_labels_are_counted_and_their_share_is_told(k):
    p, labels, flipped = honest(1000, k, 6.0, 3, flipped=0.05)
    result = judge(p, labels)
    assert result.why is None
    assert result.count == result.is_issue.sum() > 0.3 * flipped.sum()
    assert flipped[result.rows[result.is_issue]].mean() > 0.7
    assert 0 < result.rate.low <= flipped.mean() <= result.rate.high < RATES[-1]


def test_labels_that_always_move_to_the_next_class_are_told_as_well():
    p, labels, _ = honest(1000, 5, 6.0, 4)
    wrong = np.random.default_rng(0).random(1000) < 0.15
    labels[wrong] = (labels[wrong] + 1) % 5
    result = judge(p, labels)
    assert result.rate.low <= wrong.mean() <= result.rate.high
    assert wrong[result.rows[result.is_issue]].mean() > 0.8


@pytest.mark.parametrize(("k", "strength"), [(2, 3.0), (5, 2.0), (10, 4.0)])
def test_honest_mistakes_are_hardly_ever_counted(k, strength):
    counts = [judge(*honest(400, k, strength, seed)[:2]).count for seed in range(10)]
    assert sum(bool(count) for count in counts) <= 1


def test_a_model_that_is_often_wrong_accuses_nobody():
    p, labels, _ = honest(1000, 6, 2.0, 1, flipped=0.1)
    result = judge(p, labels)
    assert result.error > MOST_WRONG + 0.1
    assert (result.count, result.rate, result.why) == (None, None, "weak-model")


def test_labels_without_a_sense_are_never_counted():
    """A model of shuffled labels names the largest class, surely wrong about no one."""
    rng = np.random.default_rng(0)
    for shares in ([0.6, 0.2, 0.1, 0.1], [0.5, 0.5], [0.9, 0.1]):
        labels = rng.choice(len(shares), p=shares, size=400)
        p = np.tile(shares, (400, 1)) + 0.01 * rng.random((400, len(shares)))
        assert not judge(p / p.sum(axis=1, keepdims=True), labels).count


def test_few_rows_and_perfect_models_count_nothing():
    p, labels, _ = honest(LEAST - 1, 2, 3.0, 0, flipped=0.3)
    assert judge(p, labels).why == "too-few"
    sure = np.eye(2)[np.arange(200) % 2]
    assert judge(sure, np.arange(200) % 2).count == 0
    assert judge(sure, 1 - np.arange(200) % 2).why == "weak-model"


def test_near_copies_of_one_mistake_are_one_mistake():
    """233 copies of a tile with a wrong label weigh as much as the tile alone."""
    p, labels, _ = honest(150, 3, 8.0, 2)
    sure = int((p.max(axis=1) * (p.argmax(axis=1) == labels)).argmax())
    wrong = (labels[sure] + 1) % 3
    p = np.concatenate([p, np.tile(p[sure], (233, 1))])
    labels, groups = np.append(labels, [wrong] * 233), np.append(np.arange(150), [150] * 233)
    result, apart = judge_labels(p, labels, groups), fit_noise(p, labels, np.ones(383))
    assert result.count == 1
    assert result.rate.high < 0.1 < 0.4 < apart.high
    weights = 1 / np.unique(groups, return_counts=True)[1][groups]
    alone = np.append(np.arange(150), 150)
    one, many = fit_noise(p[alone], labels[alone], np.ones(151)), fit_noise(p, labels, weights)
    assert (one.low, one.high) == (many.low, many.high)


def test_copies_of_an_issue_are_counted_once():
    p, labels, flipped = honest(600, 3, 8.0, 5, flipped=0.08)
    alone = judge(p, labels)
    row = int(alone.rows[0])
    assert flipped[row]
    more, same = np.concatenate([p, p[[row] * 4]]), np.append(labels, labels[[row] * 4])
    result = judge_labels(more, same, np.append(np.arange(600), [row] * 4))
    assert result.count == alone.count
    assert result.is_issue.sum() == alone.count + 4


def test_an_interval_that_ends_at_the_edge_of_the_grid_gives_no_rate(monkeypatch):
    p, labels, _ = honest(1000, 6, 8.0, 3, flipped=0.2)
    assert judge(p, labels).count
    monkeypatch.setattr("warmstart.evidence.label_issues.RATES", RATES[RATES < 0.2])
    result = judge(p, labels)
    assert (result.count, result.rate, result.why) == (None, None, "rate-unclear")


def test_where_every_fifth_label_went_to_the_next_class_nobody_says_that_none_is_wrong():
    """A head that learnt from these holds the next class for likely: no test of labels that go
    anywhere sees them."""
    rng, truth = np.random.default_rng(1), np.arange(400) % 5
    kernel = kernel_of(rng.normal(size=(400, 30)) + 8 * np.eye(5, 30)[truth])
    moved = np.where(rng.random(400) < 0.2, (truth + 1) % 5, truth)
    clean, wrong = (
        judge(best_probabilities([kernel], labels, singles(400), 5), labels)
        for labels in (truth, moved)
    )
    assert (clean.count, clean.why) == (0, "not-significant")
    assert (wrong.count, wrong.why) == (None, "rate-unclear")
    assert wrong.upper > 0.2


def test_many_rows_are_fitted_by_a_draw(monkeypatch):
    p, labels, flipped = honest(2000, 4, 6.0, 3, flipped=0.08)
    monkeypatch.setattr("warmstart.evidence.label_issues.CELLS", 4 * 800)
    result = judge(p, labels)
    assert result.rate.low <= flipped.mean() <= result.rate.high
    assert flipped[result.rows[result.is_issue]].mean() > 0.7


@pytest.mark.parametrize("likely", [0.5, 0.7, 0.9])
def test_an_issue_is_a_label_that_by_bayes_is_probably_wrong(likely):
    """A wrong label is any of the K - 1 others alike."""
    p, labels, _ = honest(1000, 4, 6.0, 3, flipped=0.05)
    noise = fit_noise(p, labels, np.ones(1000))
    sharp = p**noise.power / (p**noise.power).sum(axis=1, keepdims=True)
    q = sharp[np.arange(1000), labels]
    wrong, right = noise.plain * (1 - q) / 3, (1 - noise.plain) * q
    expected = (wrong / (wrong + right) > likely) & (p.argmax(axis=1) != labels)
    result = judge(p, labels, likely=likely)
    assert sorted(result.rows[result.is_issue]) == np.flatnonzero(expected).tolist()


def test_the_fit_is_the_most_likely_of_a_grid():
    """Of the mixture in the docstring, with all wrong labels going to every other class alike."""
    p, labels, _ = honest(300, 2, 5.0, 6, flipped=0.1)
    own = np.clip(p, 1e-6, 1)[np.arange(300), labels]
    slow = np.empty((len(RATES), len(POWERS)))
    for column, power in enumerate(POWERS):
        q = own**power / (own**power + np.clip(1 - own, 1e-6, 1) ** power)
        slow[:, column] = [np.log((1 - rate) * q + rate * (1 - q)).sum() for rate in RATES]
    fit, profile = fit_noise(p, labels, np.ones(300)), slow.max(axis=1)
    rate, power = np.unravel_index(slow.argmax(), slow.shape)
    assert (fit.rate, fit.plain, fit.power) == (RATES[rate], RATES[rate], POWERS[power])
    assert fit.gain == pytest.approx(2 * (profile.max() - profile[0]))
    inside = RATES[profile >= profile.max() - 1.92]
    assert (fit.low, fit.high) == (inside.min(), inside.max())


# ---- words ----


def judged_of(n=384, n_other=119, n_issues=0, rate=None, upper=None, rows=None, **more):
    """Judged labels of two classes, the first `n_other` of which the model contradicts."""
    made = JudgedLabels(
        rows=np.arange(n) if rows is None else rows,
        labels=np.zeros(n, int),
        suggested=(np.arange(n) < n_other).astype(int),
        probability=np.full(n, 0.9),
        score=np.full(n, 0.1),
        is_issue=np.arange(n) < n_issues,
        count=n_issues,
        why=None,
        error=0.41,
        upper=upper,
        rate=Share(**dict(zip(("value", "low", "high"), rate, strict=True))) if rate else None,
    )
    return replace(made, **more)


def sentence(judged):
    ids = [str(i) for i in range(len(judged.rows))]
    return of_classes(judged, ids, ["cat", "dog"], 60).sentence


def test_the_sentence_and_the_finding_hold_the_numbers_of_the_record():
    p, labels, _ = honest(600, 2, 8.0, 1, flipped=0.06)
    record = of_classes(judge(p, labels), [f"{i}.jpg" for i in range(600)], ["cat", "dog"], 60)
    assert record.sentence.startswith(f"{record.count} label issues among 600 labels: ")
    shares = [f"{100 * x:.1f}" for x in (record.rate.value, record.rate.low, record.rate.high)]
    assert f"About {shares[0]} % of all labels are wrong (95 % CI {shares[1]}–" in record.sentence
    finding = label_finding(record)
    assert (finding.kind, finding.sentence) == ("label-issue", record.sentence)
    assert len(finding.items) == len(record.issues) == record.count
    first, percent = record.ranked[0], f"({100 * record.ranked[0].probability:.0f} %)"
    item = f"{first.id}: {first.label}, looks like {first.suggested} {percent}"
    assert finding.items[0] == item


def test_a_list_without_a_number_makes_no_finding():
    p, labels, _ = honest(60, 2, 2.0, 0)
    record = of_classes(judge(p, labels), [str(i) for i in range(60)], ["a", "b"], 20)
    assert label_finding(record) is None
    assert record.ranked
    assert not record.issues
    assert all(one.label != one.suggested and 0 <= one.score <= 0.5 for one in record.ranked)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("outcome", "outcome, not a label to correct, so no label issues are counted"),
        ("distribution-shift", "The test images differ from the training images"),
        ("no-signal", "No signal was found"),
        ("too-few", "Too few images to count label issues: the model disagrees with 119 of 384"),
        ("weak-model", "The model disagrees with 119 of 384 labels; it is itself wrong about 4 "),
        ("rate-unclear", "their number is unclear"),
        ("not-significant", "No label issues found: the model disagrees with 119 of 384 labels"),
    ],
)
def test_each_reason_has_its_sentence(why, words):
    judged = judged_of(count=0 if why == "not-significant" else None, why=why)
    assert words in sentence(judged)
    numbers = of_numbers(judged, ["x"] * 384, ["1"] * 384, np.ones(384), 9).sentence
    assert numbers.endswith(".")
    assert "labels" not in numbers
    assert "None" not in numbers


def test_agreement_and_a_single_issue_are_said_plainly():
    none = sentence(judged_of(n=9, n_other=0, why="not-significant", error=0.0))
    assert none == "No label issues found: the model agrees with all 9 labels."
    one = sentence(judged_of(n=300, n_other=4, n_issues=3, count=1, rate=(0.123, 0.1, 0.2)))
    assert one.startswith("1 label issue among 300 labels (3 with near-duplicates and groups): ")
    assert "About 12 % of all labels are wrong (95 % CI 10–20)." in one
    assert one.endswith("correct the label.")


# ---- several labels ----

NAMES = ("cat", "dog", "owl")


def sets(n=200, seed=0):
    """Probabilities that keep what they promise, and labels drawn by them. Shapes: (n, 3)."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-6 * rng.normal(size=(n, 3))))
    return p, (rng.random((n, 3)) < p).astype(float)


def turned(seed=0, rows=12):
    """The same with the surest answers of some rows turned round."""
    p, truth = sets(seed=seed)
    sure = np.abs(p - 0.5)
    worst = np.argsort(-sure.max(axis=1), kind="stable")[:rows]
    cells = {(int(row), int(sure[row].argmax())) for row in worst}
    for row, k in cells:
        truth[row, k] = 1 - truth[row, k]
    return p, truth, cells


def test_honest_answers_are_not_called_wrong():
    counts = [judge_sets(*sets(seed=seed), np.arange(200)).count for seed in range(5)]
    assert sum(bool(count) for count in counts) <= 1


def test_turned_answers_are_named_with_their_label():
    p, truth, cells = turned()
    result = judge_sets(p, truth, np.arange(200))
    named = {divmod(int(cell), 3) for cell in result.rows[result.is_issue]}
    assert len(named & cells) >= 8
    record = of_sets(result, [f"{row}.jpg" for row in range(200)], truth, NAMES, 20)
    first = record.ranked[0]
    row = int(first.id.removesuffix(".jpg"))
    assert first.is_issue
    assert {(row, NAMES.index(name)) for name in first.concerns} <= named
    has, other = (set(text.split("|")) - {""} for text in (first.label, first.suggested))
    assert has ^ other == set(first.concerns)
    assert has == {name for name, is_on in zip(NAMES, truth[row], strict=True) if is_on}
    assert len({line.id for line in record.ranked}) == len(record.ranked) == 20
    assert label_finding(record).kind == "label-issue"


def test_rows_of_several_labels_that_no_fold_held_out_are_not_judged():
    p, truth, _ = turned()
    p[0] = np.nan
    assert not (judge_sets(p, truth, np.arange(200)).rows // 3 == 0).any()


# ---- numbers ----

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "flat": lambda rng, n: rng.uniform(-1.7, 1.7, size=n),
    "heavy": lambda rng, n: rng.standard_t(3, size=n),
    "uneven": lambda rng, n: rng.normal(size=n) * rng.choice([0.3, 1.5], size=n),
}


def numbers(shape="normal", n=300, noise=0.2, seed=0):
    """What a model predicts, and numbers that are off by such errors. Shapes: (n,) both."""
    rng = np.random.default_rng(seed)
    answers = rng.normal(size=n)
    return answers, answers + noise * SHAPES[shape](rng, n)


def judge_each(answers, truth, **options):
    return judge_numbers(answers, truth, np.arange(len(truth)), **options)


def named(result):
    return result.rows[result.is_issue].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_errors_of_any_shape_are_not_called_wrong(shape):
    assert sum(judge_each(*numbers(shape, seed=seed)).count or 0 for seed in range(4)) <= 3


def test_numbers_of_others_are_named():
    answers, truth = numbers()
    truth[:15] = np.roll(truth[:15], 1)
    result = judge_each(answers, truth)
    wrong = set(named(result))
    far = {row for row in range(15) if abs(answers[row] - truth[row]) > 1.2}
    assert far
    assert far <= wrong
    assert len(wrong & set(range(15))) >= 0.9 * len(wrong)
    assert result.count == len(wrong)
    assert 0 < result.rate.low <= result.rate.value <= result.rate.high


def test_a_slip_of_the_decimal_point_is_named():
    answers, truth = numbers()
    truth[7] *= 40
    result = judge_each(answers, truth)
    assert (named(result), result.count) == ([7], 1)
    ids, labels = [f"{n}.jpg" for n in range(300)], [f"{value:.3f}" for value in truth]
    record = of_numbers(result, ids, labels, answers, 20)
    lines = record.ranked
    assert (lines[0].id, lines[0].label, lines[0].probability) == ("7.jpg", labels[7], None)
    assert len(lines) == 20
    assert [line.is_issue for line in lines[:2]] == [True, False]
    assert [line.score for line in lines] == sorted(line.score for line in lines)
    finding = label_finding(record)
    assert finding.items == (f"7.jpg: {labels[7]}, looks like {answers[7]:.4g}",)
    assert finding.sentence.startswith("1 label issue among 300 numbers: ")


def test_copies_of_one_slip_are_one_slip():
    answers, truth = numbers()
    truth[7] *= 40
    more = np.append(np.arange(300), [7] * 50)
    result = judge_numbers(answers[more], truth[more], more)
    assert result.count == 1
    assert result.is_issue.sum() == 51


@pytest.mark.parametrize("why", ["outcome", "distribution-shift", "no-signal"])
def test_numbers_are_ranked_whatever_forbids_a_count(why):
    answers, truth = numbers()
    truth[7] *= 40
    result = judge_each(answers, truth, excuse=why)
    assert (result.rows[0], result.count, result.rate, result.why) == (7, None, None, why)
    assert not result.is_issue.any()


def test_a_model_that_knows_little_accuses_nothing():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1.7, 1.7, size=300)
    result = judge_each(0.2 * truth, truth)
    assert (result.count, result.why) == (None, "weak-model")
    record = of_numbers(result, ["x"] * 300, ["1"] * 300, truth, 5)
    assert label_finding(record) is None
    assert "probably its own mistakes" in record.sentence


def test_few_rows_tell_nothing():
    answers, truth = numbers(n=40)
    truth[3] = 50.0
    assert judge_each(answers, truth).why == "too-few"
    answers[:] = np.nan
    assert judge_each(answers, truth).rows.size == 0


def test_grades_that_are_told_roughly_are_not_called_wrong():
    rng = np.random.default_rng(0)
    grades = rng.choice([-1.0, 0.0, 1.0], p=[0.5, 0.35, 0.15], size=400)
    answers = 0.35 * grades + 0.3 * rng.normal(size=400)
    assert not judge_each(answers, grades).count


# ---- the label-noise ceiling ----

LABELS = np.array([0, 1] * 50)


def ceiling(pairs=(), **judged):
    return label_noise_ceiling(judged_of(n=100, **judged), pairs, LABELS)


def test_the_share_of_wrong_labels_bounds_every_model():
    result = ceiling(rate=(0.05, 0.02, 0.08), upper=0.08)
    assert (result.value, result.low, result.high) == pytest.approx((0.95, 0.92, 0.98))
    assert "no model can agree with more than about 95.0 %" in result.meaning
    assert (result.n, result.details) == (100, {"rate": 0.05, "conflicts": 0})


def test_near_duplicates_with_two_labels_add_one_wrong_label_a_pair():
    result = ceiling([(0, 1), (2, 4), (6, 7)], upper=0.02)
    assert result.value == pytest.approx(0.98)  # two pairs of the three conflict
    assert result.low == pytest.approx(0.96)
    assert result.details["conflicts"] == 2
    assert "(2 near-duplicate pairs have two labels)" in result.meaning
    chain = ceiling([(0, 1), (1, 2), (2, 3)], upper=0.02)  # 1 and 3 explain all three
    assert chain.value == pytest.approx(0.98)


def test_a_pair_with_a_label_issue_adds_nothing():
    result = ceiling([(0, 1)], n_issues=1, rate=(0.01, 0.0, 0.02), upper=0.02)
    assert result.value == pytest.approx(0.99)
    assert "(1 pair of near-duplicates has two labels)" in result.meaning


def test_no_sign_of_wrong_labels_is_said_with_what_cannot_be_excluded():
    result = ceiling(upper=0.03)
    assert (result.value, result.high, result.low) == pytest.approx((1.0, 1.0, 0.97))
    assert "up to 3 %" in result.meaning


@pytest.mark.parametrize("why", ["too-few", "weak-model", "distribution-shift"])
def test_where_no_number_is_stated_there_is_no_ceiling(why):
    result = ceiling(count=None, why=why)
    assert result.value is result.low is result.high is None
    assert result.meaning == "Not measured: the number of wrong labels is unclear here."
