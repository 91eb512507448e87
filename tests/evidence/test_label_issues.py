"""Label issues: a ranking always, a number only where a test earns it."""

import numpy as np
import pytest

from warmstart.evidence.label_issues import (
    LEAST,
    MOST_WRONG,
    RATES,
    fit_noise,
    judge_labels,
    judge_sets,
    label_finding,
    of_classes,
    of_sets,
    summarize,
)
from warmstart.evidence.probe import best_probabilities
from warmstart.records.data import Share
from warmstart.solve.kernels import mixed_kernels


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
    copies = np.full(233, 150)
    p, labels = (
        np.concatenate([p, np.tile(p[sure], (233, 1))]),
        np.append(labels, copies * 0 + wrong),
    )
    groups = np.concatenate([np.arange(150), copies])
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
    x = (rng.normal(size=(400, 30)) + 8 * np.eye(5, 30)[truth]).astype(np.float32)
    kernel = mixed_kernels([("one", x)], {"one": {"one": 1.0}})["one"]
    wrong = rng.random(400) < 0.2
    result = {}
    for name, labels in (("clean", truth), ("moved", np.where(wrong, (truth + 1) % 5, truth))):
        p = best_probabilities([kernel], labels, [np.array([row]) for row in range(400)], 5)
        result[name] = judge(p, labels)
    assert (result["clean"].count, result["clean"].why) == (0, "not-significant")
    assert (result["moved"].count, result["moved"].why) == (None, "rate-unclear")
    assert result["moved"].upper > 0.2


def test_many_rows_are_fitted_by_a_draw(monkeypatch):
    p, labels, flipped = honest(2000, 4, 6.0, 3, flipped=0.08)
    monkeypatch.setattr("warmstart.evidence.label_issues.CELLS", 4 * 800)
    result = judge(p, labels)
    assert result.rate.low <= flipped.mean() <= result.rate.high
    assert flipped[result.rows[result.is_issue]].mean() > 0.7


# ---- words ---------------------------------------------------------------------------------


def test_the_sentence_holds_the_numbers_of_the_record():
    p, labels, _ = honest(600, 2, 8.0, 1, flipped=0.06)
    record = of_classes(judge(p, labels), [f"{i}.jpg" for i in range(600)], ["cat", "dog"], 60)
    assert record.sentence.startswith(f"{record.count} label issues among 600 labels: ")
    shares = [f"{100 * x:.1f}" for x in (record.rate.value, record.rate.low, record.rate.high)]
    assert f"About {shares[0]} % of all labels are wrong (95 % CI {shares[1]}–" in record.sentence
    assert len(record.issues) == record.count
    finding = label_finding(record)
    assert (finding.kind, finding.sentence) == ("label-issue", record.sentence)
    assert len(finding.items) == record.count
    first = record.ranked[0]
    assert finding.items[0].startswith(f"{first.id}: {first.label}, looks like {first.suggested} (")


def test_a_list_without_a_number_makes_no_finding():
    p, labels, _ = honest(60, 2, 2.0, 0)
    record = of_classes(judge(p, labels), [str(i) for i in range(60)], ["a", "b"], 20)
    assert label_finding(record) is None
    assert record.ranked
    assert not record.issues
    assert all(one.label != one.suggested for one in record.ranked)
    assert all(0 <= one.score <= 0.5 for one in record.ranked)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("outcome", "A table's target is an outcome, not a label to correct"),
        ("distribution-shift", "The test images differ from the training images, so no label"),
        ("no-signal", "No signal was found, so no label issues are counted"),
        ("too-few", "Too few images to count label issues"),
        (
            "weak-model",
            "The model disagrees with 119 of 384 labels; it is itself wrong about 4 "
            "times in 10, so most of these are probably its own mistakes.",
        ),
        ("rate-unclear", "their number is unclear"),
        ("not-significant", "No label issues found: the model disagrees with 119 of 384 labels"),
    ],
)
def test_each_reason_has_its_sentence(why, words):
    count = 0 if why == "not-significant" else None
    text = summarize(judged=384, disagreements=119, count=count, rate=None, why=why, error=0.41)
    assert words in text
    assert text.endswith(".")
    of_numbers = summarize(
        judged=384, disagreements=19, count=count, rate=None, why=why, error=None, noun="number"
    )
    assert "labels" not in of_numbers
    assert " None" not in of_numbers


def test_agreement_and_a_single_issue_are_said_plainly():
    none = summarize(
        judged=9, disagreements=0, count=0, rate=None, why="not-significant", error=0.0
    )
    assert none == "No label issues found: the model agrees with all 9 labels."
    rate = Share(value=0.123, low=0.1, high=0.2)
    one = summarize(judged=300, disagreements=4, count=1, rate=rate, why=None, error=0.1, listed=3)
    assert one.startswith("1 label issue among 300 labels (3 with near-duplicates and groups): ")
    assert "About 12 % of all labels are wrong (95 % CI 10–20)." in one


# ---- several labels ------------------------------------------------------------------------

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
