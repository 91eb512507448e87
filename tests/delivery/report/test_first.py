"""The first screen: what the model is good enough for, in words that hold."""

from dataclasses import replace

import pytest

from reports import facts, nothing, summary
from warmstart.delivery.report.first import ENOUGH, first_screen, headline, would_use
from warmstart.delivery.report.warnings import WARNINGS
from warmstart.records import CalibrationRecord, Estimate, Finding, Shipped, Verdict


def right(low, value=None, high=1.0, n=300):
    """Facts of a run whose accuracy has this lower end."""
    estimate = Estimate(metric="accuracy", value=low if value is None else value, low=low,
                        high=high, n=n, method="nested-cv")  # fmt: skip
    return facts(summary=summary(estimate=estimate, test=None))


@pytest.mark.parametrize(
    ("low", "words"),
    [(0.995, "99 of 100"), (0.91, "9 of 10"), (0.8, "4 of 5"), (0.77, "3 of 4"),
     (0.55, "1 of 2"), (0.41, "2 of 5")],
)  # fmt: skip
def test_the_headline_promises_no_more_than_the_lower_end(low, words):
    assert headline(right(low)) == f"You can use this model where {words} right is good enough."


def test_every_promise_is_below_its_words():
    for least, words in ENOUGH:
        top, bottom = map(int, words.split(" of "))
        assert abs(top / bottom - least) < 1e-9


def test_the_lower_of_estimate_and_test_counts():
    assert "2 of 3" in headline(facts())  # 77 % and 72 % are their lower ends


def test_no_better_than_guessing_is_called_so():
    assert headline(right(0.3, 0.5)) == (
        "Not ready: it may be no better than always answering “dress”."
    )


def test_a_model_below_all_words_is_a_hint():
    wide = facts(tuple("abcdefghijklmnopqrstuvwxyz"))
    low = right(0.08, 0.1, 0.12).summary
    assert headline(replace(wide, summary=low)) == (
        "You can use this model for a hint only: most of its answers are wrong."
    )


def test_nothing_shipped_is_nothing_to_use():
    none = summary(
        verdict=Verdict(kind="no-signal", sentence="No signal found."),
        shipped=Shipped(strategy="none", why="no signal"), test=None,
    )  # fmt: skip
    assert headline(facts(summary=none)).startswith("There is nothing to use yet")
    assert would_use(facts(summary=none))[0].startswith("No. Nothing was shipped")
    own = replace(none, shipped=Shipped(strategy="head", why="your choice"))
    assert headline(facts(summary=own)).startswith("Do not rely on this model")


def test_how_many_of_100_and_how_many_are_sure():
    first, second = would_use(facts())
    assert first == (
        "Of 100 new images like these it names about 83 rightly (77 to 88); always answering "
        "“dress” would name 33."
    )
    assert second.startswith("It is sure of about 30 of 100, and of its sure answers at most 2 in")


def test_where_nothing_can_be_promised_it_says_so():
    blind = CalibrationRecord(
        temperature=1.0, class_bias=(), sure_from=None, promised_error=0.2, unknown_from=1.0,
        nearest=3,
    )  # fmt: skip
    assert "Of no single answer can it promise" in would_use(facts(calibration=blind))[1]


@pytest.mark.parametrize("kind", list(WARNINGS))
def test_what_makes_a_figure_doubtful_is_said_beside_it(kind):
    plain = summary(findings=(Finding(kind=kind, sentence="…"),))
    found = facts(summary=replace(plain, data=replace(plain.data, leaks=9)))
    assert len([text for text in would_use(found) if text.startswith("But ")]) == 1


def test_guess_and_scrambled_network_stand_on_the_same_line():
    text = first_screen(facts())
    assert "always answering “dress” 33 %" in text
    assert "scrambled network 27 %" in text
    assert "83 % (77 to 88) right" in text
    assert "78 % (72 to 84) on your test part" in text


def test_sure_answers_are_trusted_only_where_few_of_them_are_wrong():
    wide = replace(facts().calibration, promised_error=0.16)
    assert would_use(facts())[1].endswith(
        "Take those as they are, and look at the others yourself."
    )
    assert would_use(facts(calibration=wide))[1].endswith(
        "at most 16 in 100 are wrong. Where that is too many, look at each answer yourself."
    )


def test_without_a_signal_the_line_compares_with_shuffled_labels():
    text = first_screen(nothing())
    assert "82 % with your labels" in text.split("<h2>")[0]
    assert "6 to 15 % with shuffled labels" in text.split("<h2>")[0]
