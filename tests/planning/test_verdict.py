import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning.verdict import Facts, sentence, verdict_kind

CLEAR = {"p": 0.001, "mde": 0.1}


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (Facts(p=0.2, mde=0.1, plain_p=0.005), "scratch-fair"),
        (Facts(p=0.2, mde=0.4, n=30, plain_p=0.005), "scratch-fair"),
        (Facts(p=0.2, mde=0.1, plain_p=0.006), "no-signal"),
        (Facts(**CLEAR, knowledge=0.3, tail_gain=0.1, plain_p=0.001), "deeper"),
        (Facts(p=0.2, mde=0.31), "unclear"),
        (Facts(p=0.2, mde=0.30), "no-signal"),
        (Facts(p=0.2, mde=0.1, n=39), "unclear"),
        (Facts(p=0.2, mde=0.1, n=40), "no-signal"),
        (Facts(p=0.011, mde=0.1), "no-signal"),
        (Facts(p=0.01, mde=0.1), "unclear"),
        (Facts(**CLEAR, knowledge=0.01, knowledge_error=0.02), "scratch-fair"),
        (Facts(**CLEAR, knowledge=0.05, knowledge_error=0.05), "unclear"),
        (Facts(**CLEAR, knowledge=0.3, knowledge_error=0.05), "unclear"),
        (Facts(**CLEAR, knowledge=0.3, tail_gain=0.02, tail_error=0.01), "deeper"),
        (Facts(**CLEAR, knowledge=0.3, tail_gain=0.0, tail_error=0.01), "head"),
        (Facts(**CLEAR, knowledge=0.3, tail_gain=0.008, tail_error=0.008), "head"),
        (Facts(**CLEAR, knowledge=0.3, tail_gain=0.01, tail_error=0.01), "unclear"),
        (Facts(**CLEAR, knowledge=0.01, knowledge_error=0.02, tail_gain=0.2), "scratch-fair"),
        (Facts(**CLEAR, knowledge=0.3, scratch_gap=0.01, scratch_error=0.01), "scratch-fair"),
        (Facts(**CLEAR, knowledge=0.3, scratch_gap=0.01, scratch_error=0.05), "unclear"),
        (Facts(**CLEAR, knowledge=0.3, scratch_gap=-0.3, tail_gain=0.1), "deeper"),
        (Facts(**CLEAR, knowledge=0.3, accuracy=0.98), "head"),
        (Facts(**CLEAR, accuracy=0.98), "head"),
        (Facts(**CLEAR, knowledge=0.3, accuracy=0.979), "unclear"),
        (Facts(**CLEAR, knowledge=0.3, accuracy=0.98, is_tuned=True), "unclear"),
        (Facts(**CLEAR, knowledge=0.3, accuracy=0.98, tail_gain=0.01), "deeper"),
        (Facts(**CLEAR, knowledge=0.01, knowledge_error=0.02, accuracy=1.0), "scratch-fair"),
    ],
)
def test_rows_of_the_table(facts, kind):
    assert verdict_kind(facts) == kind


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_test_that_was_not_run_never_matches(p, mde):
    assert verdict_kind(Facts(p=p, mde=mde)) in ("unclear", "no-signal")


@pytest.mark.parametrize("kind", ["head", "deeper", "scratch-fair", "no-signal", "unclear"])
def test_every_kind_has_a_sentence_with_its_figures(kind):
    p = 0.5 if kind == "no-signal" else 0.001
    facts = Facts(p=p, mde=0.12, knowledge=0.04, knowledge_error=0.05, tail_gain=0.03)
    text = sentence(kind, facts, 180, 0.35)
    assert any(c.isdigit() for c in text)
    assert text.endswith(".")


def test_a_curve_from_nothing_is_told_as_what_it_is():
    facts = Facts(**CLEAR, knowledge=0.3, scratch_gap=0.03, scratch_error=0.01, scratch_later=0.9)
    text = sentence("scratch-fair", facts, 180, 0.87)
    assert "90 % right" in text
    assert "3 points more" in text


def test_where_little_is_left_to_gain_the_sentence_says_how_much():
    facts = Facts(**CLEAR, knowledge=0.3, accuracy=0.987, mistakes=0.021)
    text = sentence("head", facts, 300, 0.987)
    assert text.endswith(
        "in the signal test it is 99 % right, which leaves 2 points at most for tuning deeper."
    )


def test_where_deeper_is_worse_no_gain_is_spoken_of():
    facts = Facts(**CLEAR, knowledge=0.3, tail_gain=-0.02, tail_error=0.01)
    text = sentence("head", facts, 180, 0.87)
    assert "no more often (-4 to -0.4 points)" in text
    assert "excluded" not in text


def test_groups_that_bind_all_labels_are_called_so():
    assert "was not tested" in sentence("unclear", Facts(p=1.0, mde=1.0), 12, 0.5)


def test_too_few_examples_are_called_too_few():
    assert "too few" in sentence("unclear", Facts(p=0.3, mde=0.4), 12, 0.5)
    assert "weak signal" in sentence("unclear", Facts(p=0.3, mde=0.1, n=39), 39, 0.5)


@pytest.mark.parametrize("known", [None, 0.3])
def test_where_the_user_had_layers_trained_nobody_says_that_only_heads_were_compared(known):
    plain = sentence("unclear", Facts(**CLEAR, knowledge=known), 180, 0.87)
    tuned = sentence("unclear", Facts(**CLEAR, knowledge=known, is_tuned=True), 180, 0.87)
    assert "was not measured" in plain
    assert "was not measured" not in tuned
    assert tuned.endswith("Layers were tuned as you chose, whatever these tests say of it.")
