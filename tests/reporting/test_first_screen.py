"""The first screen: whether the model can be used, in words that hold, and the next steps."""

from dataclasses import replace

import pytest

from issues import issue, issues
from reports import EVIDENCE, facts, gain, nothing, summary
from warmstart.records.answer import NumberCalibration
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.summary import (
    Inspection,
    Readiness,
    ShippedCandidate,
    Verdict,
)
from warmstart.reporting.first_screen import (
    LEAST_IMAGES,
    next_steps,
    weakest,
    would_use,
)
from warmstart.reporting.report import section


def ready(level, *reasons):
    return facts(summary=summary(readiness=Readiness(level=level, reasons=reasons)))


@pytest.mark.parametrize(
    ("level", "reasons", "line", "use"),
    [
        ("ready", ("1 in 20 is wrong",), "Ready: 1 in 20 is wrong.", "Yes."),
        ("review", ("a", "b"), "Usable with review: a; b.", "Yes, if a person reviews its"),
        ("not-ready", ("too few",), "Not ready: too few.", "Not yet."),
        ("review", ("<b>x</b>",), "Usable with review: &lt;b&gt;x&lt;/b&gt;.", "Yes, if"),
    ],
)
def test_headline_and_use_follow_readiness(level, reasons, line, use):
    changed = ready(level, *reasons)
    text = section("first_screen", changed)
    assert f"<h1>{line}</h1>" in text
    assert text.index(line) < text.index("This base model knows it")  # above the verdict
    assert would_use(changed)[0].startswith(use)


@pytest.mark.parametrize(
    ("strategy", "is_marked"),
    [("last:4", True), ("ensemble", True), ("head", False), ("none", False)],
)
def test_the_linear_probe_stands_on_the_line_where_something_else_ships(strategy, is_marked):
    probe = replace(summary().estimate, value=0.8, low=0.74, high=0.85)
    changed = summary(linear_probe=probe, shipped=ShippedCandidate(strategy=strategy, why="…"))
    assert (
        "linear probe 80 % for comparison" in section("first_screen", facts(summary=changed))
    ) is is_marked


def test_how_many_of_100_and_how_many_are_confident():
    _, first, second = would_use(facts())
    assert first == (
        "Of 100 new images like the training images it classifies about 83 correctly (77 to 88), "
        "of 100 like the test images about 78; always predicting “dress” is right for 33."
    )
    assert "confident in about 30 of 100 answers; of those at most 2 in 100 are wrong." in second
    assert "test images" not in would_use(facts(summary=summary(test=None)))[1]


def test_confident_answers_are_trusted_only_where_few_of_them_are_wrong():
    wide = replace(facts().calibration, promised_error=0.16)
    blind = replace(facts().calibration, confident_from=None)
    assert would_use(facts())[2].endswith("Use those without review, and review the others.")
    assert would_use(facts(calibration=wide))[2].endswith("review each answer.")
    assert would_use(ready("not-ready", "so"))[2].endswith("at most 2 in 100 are wrong.")
    assert "confident: there are too few" in would_use(facts(calibration=blind))[2]


@pytest.mark.parametrize(("half", "word"), [(1.5, "within ± 1.5 of 9 of 10"), (None, "Too few")])
def test_a_number_is_trusted_as_far_as_its_interval(half, word):
    calibration = NumberCalibration(
        temperature=1.0,
        class_bias=(),
        confident_from=None,
        promised_error=0.1,
        ood_from=1.0,
        nearest=3,
        half_width=half,
    )
    numbers = facts(summary=summary(task="regress"), calibration=calibration)
    assert word in would_use(numbers)[1]


@pytest.mark.parametrize("kind", [name for name, kind in FINDINGS.items() if kind.warning])
def test_what_makes_a_score_doubtful_is_said_beside_it(kind):
    plain = summary(findings=(Finding(kind=kind, sentence="…"),))
    changed = facts(summary=replace(plain, data=replace(plain.data, leaks=9)))
    assert len([text for text in would_use(changed) if text.startswith("But ")]) == 1


def test_the_largest_class_stands_on_the_same_line():
    text = section("first_screen", facts())
    assert "always predicting “dress” 33 %" in text
    assert facts().detail("transfer_gain", "shuffled") == 0.27
    assert "27 %" not in text  # of the network with shuffled weights, by a quicker probe
    assert "accuracy 83 % (95 % CI 77–88)" in text
    assert "78 % (95 % CI 72–84) on the test set" in text


def test_without_a_signal_the_line_compares_with_shuffled_labels():
    picture = section("first_screen", nothing()).split("<h2>")[0]
    assert "82 % with your labels" in picture
    assert "6 to 15 % with shuffled labels" in picture
    assert would_use(nothing()) == ["No: nothing was shipped, for no signal was found."]


# ---- Next steps.


def only(one, **more):
    """Evidence with one line in the list of labels."""
    return Inspection(evidence=EVIDENCE, label_issues=issues(one, **more))


def titles(changed):
    return [step.title for step in next_steps(changed)]


def test_three_steps_with_commands_and_examples():
    labels, images, deeper = next_steps(facts())
    assert images.title == "Add images of “shirt”"
    assert "most often taken for “dress” (3)" in images.text
    assert images.command == "warmstart suggest runs/clothing new/"
    assert {id.split("/")[0] for id, _ in images.examples} == {"shirt"}
    assert labels.title == "Check 1 label issue"
    assert labels.command == "warmstart fit clothing --relabel runs/clothing/label_issues.csv"
    assert deeper.title == "Try fine-tuning"
    spaced = next_steps(replace(facts(), place="runs/my photos"))[0]
    assert spaced.command.endswith("'runs/my photos/label_issues.csv'")


@pytest.mark.parametrize(
    ("kind", "leaks", "title", "command"),
    [
        ("leakage", 1, "Add images of “shirt”", "warmstart suggest runs/clothing new/"),
        ("leakage", 9, "Remove the near-duplicates", "warmstart fit clothing --fix"),
        ("preprocessing", 0, "Change the preprocessing of the images", ""),
        ("distribution-shift", 0, "Add images like the test images", "warmstart fit clothing"),
    ],
)
def test_what_spoils_the_data_comes_first(kind, leaks, title, command):
    plain = summary(findings=(Finding(kind=kind, sentence="9 test images are so."),))
    changed = replace(plain, data=replace(plain.data, leaks=leaks))
    first = next_steps(facts(summary=changed, inspection=None))[0]
    assert (first.title, first.command) == (title, command)


def test_a_command_reads_the_same_data_with_the_same_base_model():
    options = {
        "base": "--base lite1",
        "test": "--test later",
        "label": "--label kind",
        "relabel": "--relabel old.csv",
        "seed": "--seed 7",
    }
    changed = facts(repeat=replace(facts().repeat, options=options))
    labels, _, deeper = next_steps(changed)
    again = "warmstart fit clothing --base lite1 --test later --label kind --relabel "
    assert labels.command == f"{again}runs/clothing/label_issues.csv"
    assert deeper.command == f"{again}old.csv"
    balanced = replace(changed, repeat=replace(changed.repeat, budget="balanced"))
    assert next_steps(balanced)[2].command == "warmstart rank clothing --label kind"


CONTRADICTED = issue("hat/000.jpg", "hat", "shirt", is_issue=False)


def test_labels_that_are_only_contradicted_are_not_called_wrong():
    changed = facts(inspection=only(CONTRADICTED))
    assert titles(changed)[:2] == ["Add images of “shirt”", "No label issues found"]
    sentence = "The model disagrees with 119 of 384 labels."
    weak = only(CONTRADICTED, count=None, why="weak-model", sentence=sentence)
    step = next_steps(facts(inspection=weak))[1]
    assert (step.title, step.examples[0][0]) == ("Labels to look at first", "hat/000.jpg")
    assert step.text.startswith(sentence)


def test_an_outcome_of_a_table_is_never_to_be_corrected():
    changed = facts(inspection=only(CONTRADICTED, count=None, why="outcome"))
    assert not any("abel" in title for title in titles(changed))


def test_without_a_signal_labels_and_images_are_looked_at():
    changed = facts(summary=nothing().summary, inspection=only(CONTRADICTED))
    assert titles(changed) == [
        "Look at the images as a stranger would",
        "Check how the labels were made",
        "Measure again, cheaply",
    ]


@pytest.mark.parametrize(
    ("kind", "strategy", "budget", "own", "gained", "title", "command"),
    [
        ("no-transfer", "head", "balanced", False, None, "pretrained on such images", "rank"),
        ("inconclusive", "head", "fast", False, None, "Try fine-tuning", "fit"),
        ("fine-tune", "last:6", "balanced", False, None, "another base model", "rank"),
        ("inconclusive", "last:4", "balanced", True, None, "another depth", "last:4,head"),
        ("inconclusive", "last:4", "balanced", True, gain(0.02, -0.01, 0.05), "depth", "4,full"),
        ("inconclusive", "last:4", "fast", True, gain(-0.05, -0.09, -0.01), "Ship the", "head"),
    ],
)
def test_what_to_try_follows_from_the_run(kind, strategy, budget, own, gained, title, command):
    changed = summary(
        verdict=Verdict(kind=kind, sentence="…", evidence=EVIDENCE),
        shipped=ShippedCandidate(strategy=strategy, why="…"),
        fine_tuning_gain=gained,
    )
    repeat = replace(facts().repeat, budget=budget, is_own_strategy=own)
    step = next_steps(facts(summary=changed, repeat=repeat))[2]
    assert title in step.title
    assert command in step.command
    if gained is not None and gained.value > 0:
        assert "by +2 points of accuracy (95 % CI −1.0 to +5) against the linear" in step.text


def test_a_class_of_very_few_images_is_not_called_weak():
    classes = [replace(score, n=LEAST_IMAGES - 1) for score in facts().classes]
    assert weakest(facts(classes=tuple(classes))) is None


def test_with_nothing_left_to_do_it_says_use_it():
    assert titles(facts(classes=(), inspection=None))[-1] == "Use it"


def test_an_image_with_a_label_issue_is_no_example_of_a_mistake():
    changed = facts(inspection=only(issue("shirt/000.jpg", "shirt", "dress")))
    assert [id for id, _ in next_steps(changed)[1].examples] == ["shirt/002.jpg", "shirt/001.jpg"]
