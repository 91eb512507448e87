"""The first screen: whether the model can be used, in words that hold."""

from dataclasses import replace

import pytest

from reports import facts, nothing, summary
from warmstart.records.answer import CalibrationRecord
from warmstart.records.data import FINDINGS, Finding
from warmstart.records.summary import Readiness, ShippedCandidate, Verdict
from warmstart.reporting.first_screen import first_screen, would_use

LEVELS = {
    "ready": ("Ready: 1 in 20 predictions is wrong.", ("1 in 20 predictions is wrong",)),
    "review": ("Usable with review: a; b.", ("a", "b")),
    "not-ready": ("Not ready: too few examples.", ("too few examples",)),
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_headline_is_the_readiness_line(level):
    line, reasons = LEVELS[level]
    changed = facts(summary=summary(readiness=Readiness(level=level, reasons=reasons)))
    text = first_screen(changed)
    assert f"<h1>{line}</h1>" in text
    assert text.index(line) < text.index("This base model knows it")  # above the verdict
    assert text.count("<h1>") == 1


def test_reasons_cannot_run():
    evil = Readiness(level="review", reasons=("always predicting “<b>x</b>”",))
    assert "“&lt;b&gt;x&lt;/b&gt;”" in first_screen(facts(summary=summary(readiness=evil)))


def test_nothing_shipped_is_nothing_to_use():
    none = summary(
        verdict=Verdict(kind="no-signal", sentence="No signal found."),
        shipped=ShippedCandidate(strategy="none", why="no signal"),
        test=None,
    )
    assert would_use(facts(summary=none)) == ["No: nothing was shipped, for no signal."]


@pytest.mark.parametrize(
    ("strategy", "is_marked"),
    [("last:4", True), ("ensemble", True), ("head", False), ("none", False)],
)
def test_the_linear_probe_stands_on_the_line_where_something_else_ships(strategy, is_marked):
    probe = replace(summary().estimate, value=0.8, low=0.74, high=0.85)
    changed = summary(linear_probe=probe, shipped=ShippedCandidate(strategy=strategy, why="…"))
    assert ("linear probe 80 % for comparison" in first_screen(facts(summary=changed))) is is_marked


@pytest.mark.parametrize(
    ("level", "word"),
    [
        ("ready", "Yes."),
        ("review", "Yes, if a person reviews its answers"),
        ("not-ready", "Not yet."),
    ],
)
def test_whether_one_would_use_it_follows_readiness(level, word):
    changed = facts(summary=summary(readiness=Readiness(level=level, reasons=("so",))))
    assert would_use(changed)[0].startswith(word)


def test_how_many_of_100_and_how_many_are_confident():
    _, first, second = would_use(facts())
    assert first == (
        "Of 100 new images like the training images it classifies about 83 correctly (77 to 88), "
        "of 100 like the test images about 78; always predicting “dress” is right for 33."
    )
    assert second.startswith(
        "It is confident in about 30 of 100 answers; of those at most 2 in 100 are wrong."
    )
    _, alone, _ = would_use(facts(summary=summary(test=None)))
    assert alone.endswith(
        "about 83 correctly (77 to 88); always predicting “dress” is right for 33."
    )


def test_where_nothing_is_guaranteed_it_says_so():
    blind = CalibrationRecord(
        temperature=1.0,
        class_bias=(),
        confident_from=None,
        promised_error=0.2,
        ood_from=1.0,
        nearest=3,
    )
    text = would_use(facts(calibration=blind))[2]
    assert text.startswith("It calls no answer confident: there are too few examples to guarantee")
    assert text.endswith("Review each answer where a mistake matters.")


@pytest.mark.parametrize("kind", [name for name, kind in FINDINGS.items() if kind.warning])
def test_what_makes_a_score_doubtful_is_said_beside_it(kind):
    plain = summary(findings=(Finding(kind=kind, sentence="…"),))
    changed = facts(summary=replace(plain, data=replace(plain.data, leaks=9)))
    assert len([text for text in would_use(changed) if text.startswith("But ")]) == 1


def test_the_largest_class_stands_on_the_same_line():
    text = first_screen(facts())
    assert "always predicting “dress” 33 %" in text
    assert facts().detail("transfer_gain", "shuffled") == 0.27
    assert "27 %" not in text  # of the network with shuffled weights, by a quicker probe
    assert "accuracy 83 % (95 % CI 77–88)" in text
    assert "78 % (95 % CI 72–84) on the test set" in text


def test_confident_answers_are_trusted_only_where_few_of_them_are_wrong():
    wide = replace(facts().calibration, promised_error=0.16)
    assert would_use(facts())[2].endswith("Use those without review, and review the others.")
    assert would_use(facts(calibration=wide))[2].endswith(
        "at most 16 in 100 are wrong. Where that is too many, review each answer."
    )
    bad = summary(readiness=Readiness(level="not-ready", reasons=("so",)))
    assert would_use(facts(summary=bad))[2].endswith("at most 2 in 100 are wrong.")


def test_without_a_signal_the_line_compares_with_shuffled_labels():
    text = first_screen(nothing())
    assert "82 % with your labels" in text.split("<h2>")[0]
    assert "6 to 15 % with shuffled labels" in text.split("<h2>")[0]
