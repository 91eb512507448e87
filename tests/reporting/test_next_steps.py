"""Next steps: which class, which labels, which strategy; the urgent ones first."""

from dataclasses import replace

import pytest

from issues import issue, issues
from reports import EVIDENCE, facts, summary
from warmstart.records.data import Finding
from warmstart.records.summary import FineTuningGain, Inspection, ShippedCandidate, Verdict
from warmstart.reporting.first_screen import LEAST_IMAGES, next_steps, weakest

NONE = summary(
    verdict=Verdict(kind="no-signal", sentence="No signal."),
    shipped=ShippedCandidate(strategy="none", why="none"),
    test=None,
)


def only(one):
    """Evidence with one line in the list of labels."""
    return Inspection(evidence=EVIDENCE, label_issues=issues(one))


def gain(value, low, high):
    return FineTuningGain(
        value=value,
        low=low,
        high=high,
        n=300,
        log_loss=0.5,
        log_loss_change=-0.1,
        log_loss_low=-0.15,
        log_loss_high=-0.05,
    )


def titles(changed):
    return [step.title for step in next_steps(changed)]


def test_three_steps_with_commands_and_examples():
    labels, images, deeper = next_steps(facts())
    assert images.title == "Add images of “shirt”"
    assert "most often taken for “dress” (3)" in images.text
    assert images.command == "warmstart suggest runs/clothing unlabelled/"
    assert {id.split("/")[0] for id, _ in images.examples} == {"shirt"}
    assert labels.title == "Check 1 label issue"
    assert labels.command == "warmstart fit clothing --relabel runs/clothing/label_issues.csv"
    assert deeper.title == "Try fine-tuning"


def test_leakage_comes_first():
    leak = Finding(kind="leakage", sentence="9 test images are training images.")
    plain = summary(findings=(leak,))
    few, many = (replace(plain, data=replace(plain.data, leaks=n)) for n in (1, 9))
    assert titles(facts(summary=few, inspection=None))[0] == "Add images of “shirt”"
    first = next_steps(facts(summary=many, inspection=None))[0]
    assert (first.title, first.command) == (
        "Remove the near-duplicates",
        "warmstart fit clothing --fix",
    )


def test_a_command_reads_the_same_data_with_the_same_base_model():
    options = {
        "base": "--base lite1",
        "test": "--test later",
        "label": "--label kind",
        "relabel": "--relabel old.csv",
        "seed": "--seed 7",
    }
    plain = facts()
    changed = replace(plain, repeat=replace(plain.repeat, options=options))
    labels, _, deeper = next_steps(changed)
    assert labels.command == (
        "warmstart fit clothing --base lite1 --test later --label kind "
        "--relabel runs/clothing/label_issues.csv"
    )
    assert deeper.command == (
        "warmstart fit clothing --base lite1 --test later --label kind --relabel old.csv"
    )
    balanced = replace(changed, repeat=replace(changed.repeat, budget="balanced"))
    assert next_steps(balanced)[2].command == "warmstart rank clothing --label kind"


def test_wrong_preprocessing_comes_before_more_images():
    fed = Finding(kind="preprocessing", sentence="Fed in with exchanged channels it is better.")
    changed = facts(summary=summary(findings=(fed,)), inspection=None)
    assert titles(changed)[0] == "Change the preprocessing of the images"


def test_labels_that_are_only_contradicted_are_not_called_wrong():
    changed = facts(inspection=only(issue("hat/000.jpg", "hat", "shirt", is_issue=False)))
    assert titles(changed)[:2] == ["Add images of “shirt”", "No label issues found"]


def test_the_reason_for_no_count_stands_beside_the_labels():
    sentence = "The model disagrees with 119 of 384 labels; it is itself wrong about 4 times in 10."
    label_issues = issues(
        issue("hat/000.jpg", "hat", "shirt", is_issue=False),
        count=None,
        why="weak-model",
        sentence=sentence,
    )
    step = next_steps(facts(inspection=Inspection(evidence=EVIDENCE, label_issues=label_issues)))[1]
    assert (step.title, step.examples[0][0]) == ("Labels to look at first", "hat/000.jpg")
    assert step.text.startswith(sentence)


def test_an_outcome_of_a_table_is_never_to_be_corrected():
    label_issues = issues(issue("7", "ill", "well", is_issue=False), count=None, why="outcome")
    changed = facts(inspection=Inspection(evidence=EVIDENCE, label_issues=label_issues))
    assert not any("abel" in title for title in titles(changed))


def test_without_a_signal_labels_and_images_are_looked_at():
    inspection = only(issue("hat/000.jpg", "hat", "shirt", is_issue=False))
    changed = facts(summary=NONE, inspection=inspection)
    assert titles(changed) == [
        "Look at the images as a stranger would",
        "Check how the labels were made",
        "Measure again, cheaply",
    ]


@pytest.mark.parametrize(
    ("kind", "strategy", "budget", "own", "title"),
    [
        ("no-transfer", "head", "balanced", False, "Try a base model pretrained on such images"),
        ("inconclusive", "head", "fast", False, "Try fine-tuning"),
        ("head", "head", "balanced", False, "Try another base model"),
        ("fine-tune", "last:6", "balanced", False, "Try another base model"),
        ("inconclusive", "last:4", "balanced", True, "Compare with another depth"),
    ],
)
def test_what_to_try_follows_from_the_run(kind, strategy, budget, own, title):
    changed = facts(
        summary=summary(
            verdict=Verdict(kind=kind, sentence="…", evidence=EVIDENCE),
            shipped=ShippedCandidate(strategy=strategy, why="…"),
            fine_tuning_gain=None if budget == "fast" or own else gain(0.02, -0.01, 0.05),
        ),
    )
    repeat = replace(changed.repeat, budget=budget, is_own_strategy=own)
    step = next_steps(replace(changed, repeat=repeat))[2]
    assert step.title == title
    if title == "Try another base model":
        change = "+2 points of accuracy (95 % CI −1.0 to +5)"
        assert f"changed the score by {change} against the linear probe." in step.text
    if own:
        assert step.command == "warmstart compare clothing --strategies last:4,head"


def test_beside_a_depth_of_ones_own_stands_what_was_not_tried_yet():
    def step(gain):
        chosen = summary(
            shipped=ShippedCandidate(strategy="last:4", why="…"), fine_tuning_gain=gain
        )
        own = replace(facts().repeat, budget="balanced", is_own_strategy=True)
        return next_steps(facts(summary=chosen, repeat=own))[2]

    better, worse = step(gain(0.02, -0.01, 0.05)), step(gain(-0.05, -0.09, -0.01))
    assert better.command == "warmstart compare clothing --strategies last:4,full"
    assert worse.title == "Ship the linear probe"
    assert "by −5 points of accuracy (95 % CI −9 to −1.0)" in worse.text
    assert worse.command == "warmstart fit clothing --strategy head"


def test_a_class_of_very_few_images_is_not_called_weak():
    classes = [replace(score, n=LEAST_IMAGES - 1) for score in facts().classes]
    assert weakest(facts(classes=tuple(classes))) is None


def test_with_nothing_left_to_do_it_says_use_it():
    changed = facts(classes=(), inspection=None)
    assert titles(changed)[-1] == "Use it"


def test_paths_with_spaces_can_be_typed():
    step = next_steps(replace(facts(), place="runs/my photos"))[0]
    assert step.command.endswith("'runs/my photos/label_issues.csv'")


def test_an_image_with_a_label_issue_is_no_example_of_a_mistake():
    changed = facts(inspection=only(issue("shirt/000.jpg", "shirt", "dress")))
    assert [id for id, _ in next_steps(changed)[1].examples] == ["shirt/002.jpg", "shirt/001.jpg"]
