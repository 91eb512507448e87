"""Evidence to verdict to what ships."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from heads import NAMES, arranged_of
from issues import issues
from plans import plan_for
from warmstart.evidence import check
from warmstart.planning.schedule import given_up as alone
from warmstart.planning.verdict import BASE
from warmstart.records.summary import Estimate, Evidence, GuardNote, Inspection, Verdict
from warmstart.training import score
from warmstart.training.fine_tune import FineTuned

SIGNAL = {"p": 0.001, "mde": 0.1, "null_mean": 0.33, "permutations": 199}


def inspection(p, mde, *more):
    evidence = Evidence(
        name="permutation_test",
        value=0.8,
        low=0.2,
        high=0.4,
        n=90,
        meaning="…",
        details={**SIGNAL, "p": p, "mde": mde},
    )
    return Inspection(evidence=(evidence, *more), label_issues=issues())


def transfer_gain(value, error):
    return Evidence(
        name="transfer_gain",
        value=value,
        low=0.0,
        high=1.0,
        n=90,
        meaning="…",
        details={"error": error},
    )


@pytest.mark.parametrize(
    ("p", "mde", "kind"),
    [
        (0.5, 0.1, "no-signal"),
        (0.5, 0.31, "inconclusive"),
        (0.001, 0.1, "inconclusive"),
    ],
)
def test_the_verdict_carries_its_evidence(p, mde, kind):
    result = inspection(p, mde)
    verdict = check.judge(result)
    assert (verdict.kind, verdict.evidence) == (kind, result.evidence)
    assert verdict.sentence.endswith(".")


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ((0.3, 0.05), "inconclusive"),
        ((0.01, 0.02), "no-transfer"),
        ((0.05, 0.08), "inconclusive"),
        ((None, 0.0), "inconclusive"),
    ],
)
def test_the_verdict_weighs_what_the_start_knows(known, kind):
    assert check.judge(inspection(0.001, 0.1, transfer_gain(*known))).kind == kind


@pytest.mark.parametrize(
    "kind", ["linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive"]
)
@pytest.mark.parametrize("strategy", ["auto", "head", "last:0"])
def test_nothing_ships_without_a_signal_unless_it_was_asked_for(kind, strategy):
    plan = plan_for(strategy)
    assert not plan.is_trained
    fine_tuned = FineTuned(SimpleNamespace(), SimpleNamespace(name="last"), SimpleNamespace(), plan)
    shipped = check.choose_shipped(Verdict(kind=kind, sentence="."), fine_tuned)
    is_none = kind == "no-signal" and strategy == "auto"
    assert shipped.strategy == ("none" if is_none else "head")
    assert ("your choice" in shipped.why) == (strategy != "auto")


@pytest.mark.parametrize("strategy", ["auto", "head"])
def test_no_head_ships_on_what_tells_nothing_apart_though_plain_pixels_do(strategy):
    hidden = replace(
        inspection(0.3, 0.1).evidence[0], details=SIGNAL | {"p": 0.3, "plain_p": 0.001}
    )
    fine_tuned = FineTuned(
        SimpleNamespace(), SimpleNamespace(name="last"), SimpleNamespace(), plan_for(strategy)
    )
    verdict = Verdict(kind="no-transfer", sentence=".", evidence=(hidden,))
    shipped = check.choose_shipped(verdict, fine_tuned)
    assert shipped.strategy == ("none" if strategy == "auto" else "head")
    assert strategy == "head" or "tell nothing apart; try --strategy scratch" in shipped.why


# ---- the verdict after the work -------------------------------------------------------------


def claim(value, n=30):
    return Estimate(
        metric="accuracy", value=value, low=value - 0.1, high=value + 0.1, n=n, method="nested-cv"
    )


def gain_of(value, low, high):
    return Evidence(
        name="fine_tuning_gain",
        value=value,
        low=low,
        high=high,
        n=30,
        meaning="…",
        details={"log_loss": 0.5, "log_loss_gain": 0.1, "log_loss_error": 0.02},
    )


def scene_of():
    """As much of a scene as the verdict after the work looks at."""
    labelled = arranged_of()
    record = SimpleNamespace(task="classify", classes=NAMES, kind="image")
    return SimpleNamespace(
        labelled=labelled, basis=BASE, collection=SimpleNamespace(record=record), seed=0
    )


def answering(probabilities):
    """A head whose answers to rows held out these are; none where the user held out their own."""
    return SimpleNamespace(probabilities=probabilities, fold=np.arange(30) % 5)


UNHEARD = np.full((30, 3), np.nan)


def after(
    result,
    strategy="auto",
    gain=None,
    given_up="",
    guards=(),
    probe=0.9,
    answers=UNHEARD,
    baselines=(),
):
    """Inspection and verdict of a run that did this; depth by rule where `strategy` is auto."""
    plan = plan_for("last:2" if strategy == "auto" else strategy)
    if strategy == "auto":
        plan = replace(plan, strategy=replace(plan.strategy, source="rule"))
    plan = alone(plan, given_up) if given_up else plan
    fine_tuned = FineTuned(
        SimpleNamespace(),
        answering(answers),
        SimpleNamespace(),
        plan,
        given_up=given_up,
        guards=guards,
        baselines=baselines,
    )
    value = probe + (gain.value if gain else 0.0)
    measured = score.ModelEvaluation(claim(value), claim(probe), gain, 27)
    return check.conclude(scene_of(), result, fine_tuned, measured)


def test_the_signal_is_told_with_the_linear_probes_own_estimate():
    """One quantity has one number: 80 % in the signal test is the estimate's 90 % afterwards."""
    result, verdict = after(inspection(0.001, 0.1))
    (test,) = result.evidence
    assert (test.value, test.low, test.high) == (0.9, 0.2, 0.4)
    assert "accuracy of 90 %; with shuffled labels it is 20 to 40 %" in test.meaning
    assert "accuracy about 90 %" in verdict.sentence
    assert verdict.evidence == result.evidence


def test_without_a_signal_the_test_keeps_its_own_figure():
    before = inspection(0.5, 0.1)
    result, verdict = after(before)
    assert result == before
    assert verdict.kind == "no-signal"


def test_the_gain_takes_the_place_of_what_was_not_measured():
    gain = gain_of(0.05, 0.01, 0.09)
    result, verdict = after(inspection(0.001, 0.1, check.NO_FINE_TUNING_GAIN), gain=gain)
    assert result.evidence[1] == gain
    assert verdict.kind == "fine-tune"
    assert verdict.sentence.startswith("Fine-tuning helped: +5 points of accuracy ")
    untouched, _ = after(inspection(0.001, 0.1, check.NO_FINE_TUNING_GAIN))
    assert untouched.evidence[1] == check.NO_FINE_TUNING_GAIN


@pytest.mark.parametrize(("p", "known"), [(0.5, ()), (0.001, (transfer_gain(0.01, 0.02),))])
def test_what_was_done_is_said_after_that_there_is_nothing_to_learn_from(p, known):
    """No signal, or none that pretraining helps with, comes before what the user's training did."""
    _, verdict = after(inspection(p, 0.1, *known), "full", gain_of(0.05, 0.01, 0.09))
    assert verdict.kind in ("no-signal", "no-transfer")
    assert " full was fine-tuned as you chose: " in verdict.sentence
    assert not verdict.sentence.startswith("full")


def test_a_training_that_was_given_up_is_called_that_and_why():
    note = GuardNote(kind="diverged", step=3, action="training was given up")
    why = "training diverged at rate 5"
    _, verdict = after(inspection(0.001, 0.1), "full", given_up=why, guards=(note,))
    assert verdict.sentence.startswith(f"full was given up: {why}. The labels can be")
    assert "not tried" not in verdict.sentence
    _, verdict = after(inspection(0.001, 0.1), "full", given_up="the minutes did not suffice")
    assert verdict.sentence.startswith("full was given up: the minutes did not suffice. The labels")
    assert "not tried" not in verdict.sentence
    _, verdict = after(inspection(0.001, 0.1), "head")
    assert "given up" not in verdict.sentence
    assert "Fine-tuning was not tried" in verdict.sentence


def test_another_method_that_is_better_is_named():
    others = (
        SimpleNamespace(sentence="Trees are better.", is_better=True),
        SimpleNamespace(sentence="Others are not.", is_better=False),
    )
    _, verdict = after(inspection(0.001, 0.1), "head", probe=0.8, baselines=others)
    assert verdict.sentence.endswith(" Trees are better.")
    assert "Others" not in verdict.sentence


def test_label_issues_are_those_of_the_answers_of_what_ships():
    """As every number of the report; a hold-out of the user's own says too little of them."""
    before = inspection(0.001, 0.1)
    answers = np.full((30, 3), 0.01)
    named = np.arange(30) % 3
    named[7] = 2  # the 8th is of class b
    answers[np.arange(30), named] = 0.98
    result, _ = after(before, answers=answers)
    assert result.label_issues.disagreements == 1
    assert [(one.id, one.label, one.suggested) for one in result.label_issues.ranked] == [
        ("7", "b", "c")
    ]
    assert after(before)[0].label_issues == before.label_issues
    unseen, _ = after(inspection(0.5, 0.1), answers=answers)
    assert (unseen.label_issues.count, unseen.label_issues.why) == (None, "no-signal")
