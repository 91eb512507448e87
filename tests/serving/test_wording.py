"""Answers in words."""

from __future__ import annotations

import pytest

from warmstart.records.answer import Answer
from warmstart.records.summary import Estimate
from warmstart.serving.http import outcome_of
from warmstart.serving.wording import close_classes, heat_words, promise_words, words


def answer(confident=True, ood=False, **scores):
    best = max(scores, key=scores.get)
    return Answer(
        path="", label=best, probability=scores[best], confident=confident, ood=ood, scores=scores
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (answer(shirt=0.99, hat=0.01), "shirt, confident"),
        (answer(shirt=0.83, hat=0.17), "shirt, fairly confident"),
        (answer(False, shirt=0.5, hat=0.3, dress=0.2), "uncertain: shirt or hat"),
        (answer(False, shirt=0.4, hat=0.3, dress=0.3), "uncertain: shirt, hat or dress"),
        (answer(False, shirt=0.7, hat=0.3), "uncertain: perhaps shirt"),
        (answer(None, shirt=0.7, hat=0.3), "probably shirt"),
        (answer(None, shirt=0.5, hat=0.5), "uncertain: shirt or hat"),
        (answer(False, True, shirt=0.99, hat=0.01), "unlike the training images"),
    ],
)
def test_an_answer_as_one_would_say_it(text, expected):
    assert words(text) == expected


def test_what_cannot_be_read_has_no_class():
    lost = Answer(path="", label=None, probability=None, confident=None, ood=False, scores={})
    assert words(lost) == "not an image"
    assert close_classes(lost) == []


def test_outcomes_are_four():
    text = [
        answer(True, a=1.0),
        answer(False, a=1.0),
        answer(None, a=1.0),
        answer(False, True, a=1.0),
    ]
    assert [outcome_of(one) for one in text] == ["confident", "uncertain", "unpromised", "ood"]


def test_a_map_says_when_nothing_decides():
    assert "falls from 83 % to 41 %" in heat_words("shirt", 0.83, 0.41)
    assert heat_words("shirt", 0.83, 0.82).startswith("No single region")
    assert heat_words("shirt", 0.83, 0.95).startswith("No single region")


def test_without_an_estimate_nothing_is_promised():
    sure = Estimate(metric="accuracy", value=1.0, low=0.84, high=1.0, n=36, method="holdout")
    assert promise_words(sure).startswith("Right nearly every time (95 % CI 84–100)")
    assert promise_words(None) == "Its accuracy was not measured."


def test_no_share_is_told_as_certain():
    assert "from > 99 % to < 1 %" in heat_words("shirt", 0.9999, 0.001)
