"""Whether a model can be used: each level, each reason, and their order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.evaluation.readiness import (
    Confident,
    Measurements,
    by_consequence,
    one_in,
    readiness,
    readiness_line,
)
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.summary import Estimate, Readiness

CONSEQUENCE = [
    kind.name
    for kind in sorted(FINDINGS.values(), key=lambda kind: kind.consequence or 99)
    if kind.consequence
]
NEVER_FOLDED = {kind.name for kind in FINDINGS.values() if not kind.is_folded}


def claim(value, low=None, high=None, n=300):
    low, high = (value - 0.03 if low is None else low), (value + 0.03 if high is None else high)
    return Estimate(metric="accuracy", value=value, low=low, high=high, n=n, method="nested-cv")


def measured(estimate, test=None, **more):
    usual = {"task": "classify", "blind": (0.2, "always predicting “a”")}
    return Measurements(estimate=estimate, test=test, **{**usual, **more})


def finding(kind):
    return Finding(kind=kind, sentence="…")


# ---- levels --------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "level"), [(0.85, "ready"), (0.8499, "review")])
@pytest.mark.parametrize("is_test", [False, True])
def test_a_ready_model_is_right_at_the_lower_end_of_the_lower_interval(low, level, is_test):
    scores = (claim(0.95), claim(0.92, low, 0.96)) if is_test else (claim(0.95, low, 0.97),)
    found = readiness(measured(*scores))
    assert found == Readiness(level=level, reasons=("1 in 20 predictions is wrong",))


@pytest.mark.parametrize("lower", ["estimate", "test"])
def test_a_model_that_may_be_no_better_than_one_answer_is_not_ready(lower):
    weak, strong = claim(0.5, 0.4, 0.6), claim(0.52, 0.45, 0.6)
    pair = (weak, strong) if lower == "estimate" else (strong, weak)
    blind = (0.4, "always predicting “dress”")
    found = readiness(measured(*pair, blind=blind))
    assert found.level == "not-ready"
    assert found.reasons == ("it may be no better than always predicting “dress” (40 %)",)
    assert readiness(measured(*pair, blind=(0.399, blind[1]))).level == "review"


@pytest.mark.parametrize(("high", "level"), [(0.901, "not-ready"), (0.899, "review")])
def test_an_interval_that_says_next_to_nothing_is_not_ready(high, level):
    found = readiness(measured(claim(0.75, 0.60, high)))
    assert found.level == level
    words = "too few examples: the estimate could be anything from 60 % to 90 %"
    assert (found.reasons == (words,)) is (level == "not-ready")


def test_why_nothing_could_be_learnt_is_the_only_reason():
    shift = [finding("distribution-shift")]
    found = readiness(measured(claim(0.3, 0.0, 0.9), claim(0.1), why_not="none", findings=shift))
    assert found == Readiness(level="not-ready", reasons=("none",))
    assert readiness(measured(None)).level == "not-ready"  # never measured


# ---- estimate and test set -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "level"),
    [
        (claim(0.70, 0.66, 0.74), "not-ready"),  # 20 points below
        (claim(0.799, 0.77, 0.83), "not-ready"),
        (claim(0.801, 0.77, 0.83), "review"),
        (claim(0.849, 0.83, 0.86), "review"),
    ],
)
def test_a_test_set_that_lies_below_the_estimate_is_a_reason(test, level):
    found = readiness(measured(claim(0.9, 0.88, 0.92), test))
    shown = f"{100 * test.value:.0f} %"
    words = f"90 % in cross-validation, but {shown} on the test set: expect {shown}"
    assert (found.level, found.reasons[0]) == (level, words)


@pytest.mark.parametrize(
    "test",
    [
        claim(0.851, 0.84, 0.86),  # less than 5 points
        claim(0.75, 0.6, 0.9),  # 15 points, which may be chance
        claim(0.97, 0.96, 0.98),  # better
    ],
)
def test_a_difference_that_is_small_or_may_be_chance_is_none(test):
    found = readiness(measured(claim(0.9, 0.86, 0.94), test))
    assert not any("cross-validation" in reason for reason in found.reasons)
    assert found.level in ("ready", "review")


@pytest.mark.parametrize(("value", "level"), [(0.7, "not-ready"), (0.82, "review")])
def test_what_explains_the_difference_is_said_with_it(value, level):
    shift = [finding("distribution-shift")]
    found = readiness(measured(claim(0.9), claim(value), findings=shift, many="clips"))
    assert found.level == level
    assert "test set, whose clips are unlike the training clips:" in found.reasons[0]


# ---- findings and what is wrong ------------------------------------------------------------

SAID = {
    "distribution-shift": "the test clips are unlike the training clips",
    "leakage": "training clips are in the test set",
    "spurious-correlation": "something other than the subject predicts the label",
    "metadata-leakage": "the files themselves predict the label",
    "preprocessing": "the clips may be preprocessed wrongly",
}


@pytest.mark.parametrize("kind", sorted(FINDINGS))
def test_findings_that_make_a_figure_doubtful_ask_for_review_once(kind):
    found = readiness(measured(claim(0.95), findings=[finding(kind)] * 2, many="clips"))
    reasons = (*([SAID[kind]] if kind in SAID else []), "1 in 20 predictions is wrong")
    assert found == Readiness(level="review" if kind in SAID else "ready", reasons=reasons)


@given(st.permutations(sorted(FINDINGS)))
def test_the_level_does_not_depend_on_the_order_of_findings(kinds):
    found = readiness(measured(claim(0.95), findings=[*map(finding, kinds)], many="clips"))
    in_order = [SAID[kind] for kind in CONSEQUENCE if kind in SAID]
    assert found.reasons == (*in_order, "1 in 20 predictions is wrong")


def test_the_gravest_reason_comes_first():
    """Disagreement, then no better than one answer, then too few; findings and share not at all."""
    found = readiness(
        measured(
            claim(0.6, 0.4, 0.8),
            claim(0.1, 0.05, 0.15),
            blind=(0.3, "always predicting “a”"),
            findings=[finding("preprocessing"), finding("distribution-shift")],
        )
    )
    models = ("60 % in cross-validation, but 10 %", "it may be no better", "too few examples")
    assert len(found.reasons) == len(models)
    assert all(map(str.startswith, found.reasons, models))
    result = readiness(measured(claim(0.9), claim(0.82), findings=[*map(finding, CONSEQUENCE)]))
    assert result.reasons[0].startswith("90 % in cross-validation")
    assert not any("unlike" in one for one in result.reasons[1:])  # said with the first


def test_the_confident_answers_stand_beside_the_wrong_ones():
    sure = Confident(share=0.7, right=0.984)
    found = readiness(measured(claim(0.84), confident=sure))
    assert found.reasons == ("1 in 6 predictions is wrong; of the confident 70 %, 98 % are right",)
    none = readiness(measured(claim(0.84), confident=replace(sure, share=0.0)))
    assert none.reasons == ("1 in 6 predictions is wrong",)


@pytest.mark.parametrize(
    ("task", "blind"),
    [("multilabel", (0.3, "ranking at random")), ("regress", (0.0, "always predicting the mean"))],
)
def test_scores_that_are_no_share_of_answers_are_not_called_wrong_answers(task, blind):
    sure = readiness(measured(claim(0.95), task=task, blind=blind))
    assert sure == Readiness(level="ready", reasons=())
    assert readiness(measured(claim(0.7), task=task, blind=blind)).level == "review"
    low = blind[0] - 0.01
    weak = readiness(measured(claim(low + 0.1, low, low + 0.2), task=task, blind=blind))
    assert weak.level == "not-ready"
    assert weak.reasons == (f"it may be no better than {blind[1]} ({100 * blind[0]:.0f} %)",)


# ---- the line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "words"),
    [("ready", "Ready"), ("review", "Usable with review"), ("not-ready", "Not ready")],
)
def test_the_line_is_level_and_reasons(level, words):
    assert readiness_line(Readiness(level=level)) == f"{words}."
    assert readiness_line(Readiness(level=level, reasons=("a", "b"))) == f"{words}: a; b."


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (-1e-9, "no held-out prediction was"),
        (0.0, "no held-out prediction was"),
        (0.006, "1 in 170 predictions is"),
        (0.05, "1 in 20 predictions is"),
        (0.3, "1 in 3 predictions is"),
        (0.31, "3 in 10 predictions are"),
        (0.96, "10 in 10 predictions are"),
    ],
)
def test_a_share_is_said_as_one_in_so_many(share, words):
    assert one_in(share) == words


@given(st.floats(0.001, 1.0))
def test_the_words_are_near_the_share(share):
    few, _, many, *_ = one_in(share).split()
    assert float(few) / float(many) == pytest.approx(share, rel=0.25)


# ---- findings in their order ---------------------------------------------------------------


def test_findings_stand_by_consequence_and_equals_in_their_order():
    kinds = [*reversed(CONSEQUENCE), "small-class", "columns"]
    found = [Finding(kind=kind, sentence=s) for kind in kinds for s in "ab"]
    ordered = by_consequence(found)
    assert [one.kind for one in ordered[::2]] == [*CONSEQUENCE, "small-class", "columns"]
    assert [one.sentence for one in ordered] == ["a", "b"] * len(kinds)
    assert by_consequence(ordered) == ordered
    assert by_consequence(()) == ()


def test_what_is_never_folded_comes_first():
    assert {"distribution-shift", "leakage"} == NEVER_FOLDED
    assert set(CONSEQUENCE[: len(NEVER_FOLDED)]) == NEVER_FOLDED
