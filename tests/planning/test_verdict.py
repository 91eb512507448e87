"""The verdict: the table over the evidence, then what a run did, in the past tense."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning.verdict import (
    BASE,
    BLANK,
    LITTLE,
    Outcome,
    VerdictFacts,
    basis_of,
    hides_signal,
    outcome_kind,
    outcome_sentence,
    sentence,
    verdict_kind,
)
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import BaseModelRecord
from warmstart.records.summary import Estimate, Evidence, FineTuningGain
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS
from warmstart.tasks.words import change_text

CLEAR = {"p": 0.001, "mde": 0.1}


HIGH = {**CLEAR, "transfer_gain": 0.3}
LOW = {**CLEAR, "transfer_gain": 0.01, "transfer_gain_error": 0.02}


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"p": 0.2, "mde": 0.1, "plain_p": 0.005}, "no-transfer"),
        ({"p": 0.2, "mde": 0.4, "plain_p": 0.005, "n": 30}, "no-transfer"),
        ({"p": 0.2, "mde": 0.1, "plain_p": 0.006}, "no-signal"),
        ({**HIGH, "plain_p": 0.001}, "inconclusive"),
        ({"p": 0.2, "mde": 0.31}, "inconclusive"),
        ({"p": 0.2, "mde": 0.30}, "no-signal"),
        ({"p": 0.2, "mde": 0.1, "n": 39}, "inconclusive"),
        ({"p": 0.2, "mde": 0.1, "n": 40}, "no-signal"),
        ({"p": 0.011, "mde": 0.1}, "no-signal"),
        ({"p": 0.01, "mde": 0.1}, "inconclusive"),
        (LOW, "no-transfer"),
        ({**LOW, "is_tuned": True}, "no-transfer"),
        ({**LOW, "accuracy": 1.0}, "no-transfer"),
        ({**CLEAR, "transfer_gain": 0.049, "transfer_gain_error": 0.03}, "no-transfer"),
        ({**CLEAR, "transfer_gain": 0.05, "transfer_gain_error": 0.031}, "inconclusive"),
        ({**HIGH, "transfer_gain_error": 0.05}, "inconclusive"),
        ({**HIGH, "transfer_gain_error": 0.19}, "inconclusive"),
        ({**HIGH, "scratch_gap": 0.0, "scratch_error": 0.0078}, "no-transfer"),
        ({**HIGH, "scratch_gap": 0.0, "scratch_error": 0.0079}, "inconclusive"),
        ({**HIGH, "scratch_gap": -0.3}, "inconclusive"),
        ({**HIGH, "accuracy": 0.98}, "linear-probe"),
        ({**CLEAR, "accuracy": 0.98}, "linear-probe"),
        ({**HIGH, "accuracy": 0.979}, "inconclusive"),
        ({**HIGH, "accuracy": 0.98, "is_tuned": True}, "inconclusive"),
    ],
)
def test_rows_of_the_table(facts, kind):
    assert verdict_kind(VerdictFacts(**facts)) == kind


SAYS = [
    ({"p": 0.2, "mde": 0.1, "plain_p": 0.005, "plain": 0.8}, "about 80 %), but not from its"),
    ({"p": 0.5, "mde": 0.12}, "in 180 examples; an effect of about 12 points would have been"),
    ({"p": 1.0, "mde": 1.0}, "was not tested. Add examples of other groups"),
    ({"p": 0.3, "mde": 0.4}, "too few to tell: even an effect of 40 points could"),
    ({"p": 0.3, "mde": 0.1, "n": 39}, "too few to tell a weak signal from none"),
    (LOW, "pretraining is worth 1.0 points here (−2 to 4) over the same network with shuffled"),
    (
        {**HIGH, "scratch_gap": 0.03, "scratch_error": 0.01, "scratch_later": 0.9},
        "accuracy of 90 %,",
    ),
    ({**HIGH, "scratch_gap": 0.03, "scratch_error": 0.01}, "3 points more than this base model"),
    ({**HIGH, "scratch_gap": -0.002, "scratch_error": 0.001}, "points less than this base model"),
    ({**HIGH, "accuracy": 0.987, "mistakes": 0.021}, "enough: it has an accuracy of 35 %"),
    ({**CLEAR, "accuracy": 0.987, "mistakes": 0.021}, "at most 2 points for fine-tuning."),
    (CLEAR, "can be learnt from this base model (linear probe: accuracy about 35 %)"),
    ({**CLEAR, "transfer_gain": 0.05, "transfer_gain_error": 0.05}, "not clear that pretraining"),
    ({**HIGH, "transfer_gain_error": 0.05}, "worth 30 points here (22 to 38): this base model"),
]


@pytest.mark.parametrize(("facts", "says"), SAYS)
def test_every_row_of_the_table_has_a_sentence_with_its_figures(facts, says):
    facts = VerdictFacts(**facts)
    text = sentence(verdict_kind(facts), facts, 180, 0.35)
    assert says in text.replace("+", "")
    assert text.endswith(".")
    shipped = sentence(verdict_kind(facts), replace(facts, ships_trained=True), 180, 0.35)
    assert "Do not fine-tune" not in shipped


def test_untrained_layers_and_the_users_own_network_have_their_words():
    facts = VerdictFacts(**CLEAR, accuracy=0.99, mistakes=0.02)
    text = sentence("linear-probe", facts, 300, 0.99, basis=BLANK)
    assert text.startswith("A linear head on the columns and on untrained layers is enough: ")
    assert text.endswith(" for training the layers.")
    preprocessing = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))
    known = {"name": "x", "title": "x", "sha256": "", "parameters": 1, "classes": 2, "source": ""}
    base = BaseModelRecord(**known, arch="timm:x", preprocessing=preprocessing)
    assert basis_of(base).source == basis_of(None).source == "from this base model"
    assert basis_of(replace(base, arch="module:Net")).source == "with your network"
    assert basis_of(replace(base, arch="module:Net", is_random=True)).is_blank


@pytest.mark.parametrize(
    ("p", "plain_p", "expected"), [(0.011, 0.005, True), (0.01, 0.005, False), (0.5, 0.006, False)]
)
def test_a_hidden_signal_is_in_the_evidence(p, plain_p, expected):
    evidence = Evidence(name="permutation_test", value=p, low=None, high=None, n=9, meaning="")
    assert hides_signal([replace(evidence, details={"p": p, "plain_p": plain_p})]) == expected
    assert not hides_signal([evidence])
    assert not hides_signal([])


@pytest.mark.parametrize("transfer_gain", [None, 0.3])
def test_where_layers_were_trained_nobody_says_that_fine_tuning_was_not_tried(transfer_gain):
    facts = VerdictFacts(**CLEAR, transfer_gain=transfer_gain)
    plain = sentence("inconclusive", facts, 180, 0.87)
    tuned = sentence("inconclusive", replace(facts, is_tuned=True), 180, 0.87)
    assert "Fine-tuning was not tried" in plain
    assert "not tried" not in tuned
    assert plain.startswith(tuned)


# ---- what a run did --------------------------------------------------------------------------


def claim(value=0.9):
    ends = {"low": value - 0.05, "high": value + 0.05}
    return Estimate(metric="accuracy", value=value, **ends, n=200, method="nested-cv")


def gain_of(value, low, high, change=0.0, low_change=-0.02, high_change=0.02):
    loss = {"log_loss_change": change, "log_loss_low": low_change, "log_loss_high": high_change}
    return FineTuningGain(value=value, low=low, high=high, n=200, log_loss=0.4, **loss)


ADDED = gain_of(0.031, 0.004, 0.058)
OPEN = gain_of(0.012, -0.021, 0.044)
LOST = gain_of(-0.05, -0.08, -0.02)
NOTHING = gain_of(-0.004, -0.02, 0.0199)
LOWER_LOSS = gain_of(0.002, -0.021, 0.024, -0.08, -0.12, -0.04)
DID = Outcome(estimate=claim(), gain=ADDED, is_fine_tuned=True)


AGAINST = "{} points of accuracy (95 % CI {}) against the linear probe."


@pytest.mark.parametrize(
    ("changes", "first", "gain", "last"),
    [
        ({}, "Fine-tuning helped", ("+3", "+0.4 to +6"), ""),
        ({"gain": OPEN}, "Fine-tuning was kept for its lower log-loss", ("+1.2", "−2 to +4"), ""),
        ({"chosen": "last:3"}, "last:3 was fine-tuned as you chose", ("+3", "+0.4 to +6"), ""),
        ({"gain": LOST, "chosen": "full"}, "full was", ("−5", "−8 to −2"), "probe is better: use"),
        ({"gain": LOST, "chosen": "scratch"}, "The network was trained from scratch", None, "use"),
        ({"gain": LOWER_LOSS}, "Fine-tuning made the probabilities better (log-loss 20", None, ""),
        ({"gain": OPEN, "is_fine_tuned": False}, "Fine-tuning was tried and not kept,", None, ""),
        ({"gain": LOST, "is_fine_tuned": False}, "Fine-tuning was tried and not kept:", None, ""),
        (
            {"gain": LOST, "chosen": "full", "estimate": claim(0.3), "blind": 0.32},
            "full was",
            None,
            "It is no better than always predicting the largest class: use --strategy head",
        ),
    ],
)
def test_what_a_run_did_is_one_sentence(changes, first, gain, last):
    text = outcome_sentence(replace(DID, **changes))
    assert text.startswith(first)
    assert gain is None or AGAINST.format(*gain) in text
    assert last in text
    assert text.endswith("against the linear probe.") == (not last)


def test_without_a_comparison_only_what_was_given_up_is_said():
    alone = replace(DID, gain=None, is_fine_tuned=False)
    assert outcome_sentence(alone) == ""
    assert outcome_sentence(replace(alone, given_up="it diverged")) == "it diverged."


def test_a_probe_that_is_no_better_than_one_answer_either_is_not_recommended():
    weak = replace(DID, estimate=claim(0.3), gain=LOST, chosen="full", blind=0.36)
    assert "no better than" not in outcome_sentence(weak)


def test_a_network_that_has_learnt_nothing_is_trained_and_not_fine_tuned():
    for outcome in (
        DID,
        replace(DID, gain=OPEN),
        replace(DID, gain=LOWER_LOSS),
        replace(DID, is_fine_tuned=False),
        replace(DID, chosen="full"),
    ):
        text = outcome_sentence(outcome, basis=BLANK)
        assert "a head on untrained layers" in text
        assert "tun" not in text
        assert "linear probe" not in text


@pytest.mark.parametrize("words", [one.words for one in TASKS.values()])
def test_a_gain_is_in_the_score_of_the_task(words):
    for outcome in (DID, replace(DID, gain=OPEN), replace(DID, gain=LOWER_LOSS)):
        assert f"points of {words.score} (95 % CI" in outcome_sentence(outcome, words)


KINDS = ("linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", ["", "full"])
def test_without_a_comparison_the_evidence_has_the_verdict(kind, chosen):
    alone = replace(DID, gain=None, is_fine_tuned=False, chosen=chosen)
    assert outcome_kind(alone, kind) == kind


@pytest.mark.parametrize("kind", ["no-signal", "no-transfer"])
@pytest.mark.parametrize("gain", [ADDED, LOST])
@pytest.mark.parametrize("chosen", ["", "full"])
def test_a_gain_makes_no_signal_and_no_transfer(kind, gain, chosen):
    assert outcome_kind(replace(DID, gain=gain, chosen=chosen), kind) == kind


@pytest.mark.parametrize("gain", [ADDED, OPEN, LOST, NOTHING, LOWER_LOSS])
@pytest.mark.parametrize(("is_fine_tuned", "kind"), [(True, "fine-tune"), (False, "linear-probe")])
def test_what_ships_is_the_verdict_where_the_depth_was_ours(gain, is_fine_tuned, kind):
    outcome = replace(DID, gain=gain, is_fine_tuned=is_fine_tuned)
    assert outcome_kind(outcome, "inconclusive") == outcome_kind(outcome, "linear-probe") == kind


@pytest.mark.parametrize(
    ("gain", "kind"),
    [
        (ADDED, "fine-tune"),
        (OPEN, "inconclusive"),
        (LOST, "linear-probe"),
        (NOTHING, "linear-probe"),
        (gain_of(0.0, -0.02, LITTLE), "inconclusive"),
        (gain_of(0.01, 0.0, 0.019), "linear-probe"),
        (LOWER_LOSS, "inconclusive"),
    ],
)
def test_the_users_own_strategy_is_judged_by_the_comparison_alone(gain, kind):
    assert outcome_kind(replace(DID, gain=gain, chosen="full"), "inconclusive") == kind


gains = st.builds(
    lambda value, below, above, change, width: gain_of(
        value, value - below, value + above, change, change - width, change + width
    ),
    st.floats(-0.5, 0.5),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(-0.3, 0.3),
    st.floats(0, 0.2),
)
outcomes = st.builds(
    Outcome,
    estimate=st.floats(0.1, 1.0).map(claim),
    gain=gains,
    is_fine_tuned=st.booleans(),
    chosen=st.sampled_from(["", "full", "scratch"]),
    blind=st.floats(0, 0.5),
)


@given(outcomes, st.sampled_from([BASE, BLANK]))
def test_the_sentence_agrees_with_what_shipped_and_with_its_figures(outcome, basis):
    text, gain = outcome_sentence(outcome, basis=basis), outcome.gain
    assert change_text(gain.value, gain.low, gain.high, CLASSIFICATION.words.score) in text
    assert ("as you chose" in text) == bool(outcome.chosen)
    if not outcome.chosen:
        assert ("not kept" in text) == (not outcome.is_fine_tuned)
        assert (" helped: " in text) == (outcome.is_fine_tuned and gain.low > 0)
        assert ("not kept" in text) == (outcome_kind(outcome, "inconclusive") == "linear-probe")
        assert "--strategy head" not in text
    if "linear probe is better" in text:
        assert gain.high < 0


@given(outcomes)
def test_what_was_done_is_said_in_the_past_tense(outcome):
    text = outcome_sentence(outcome)
    assert any(f" {word} " in f" {text} " for word in ("was", "helped:", "made"))
    words = text.replace(":", "").replace(".", "").split()
    assert not {"will", "would", "pays", "brings", "should", "can"} & set(words)
