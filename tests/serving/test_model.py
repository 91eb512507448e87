"""Answers in words, and their outcomes."""

from __future__ import annotations

import pytest

from warmstart.records.answer import Answer
from warmstart.records.summary import Estimate
from warmstart.serving.http import outcome_of
from warmstart.serving.model import close_classes, heat_words, promise_words, words


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
    answers = (answer(True, a=1.0), answer(False, a=1.0), answer(None, a=1.0))
    outcomes = [outcome_of(one) for one in (*answers, answer(False, True, a=1.0))]
    assert outcomes == ["confident", "uncertain", "unpromised", "ood"]


@pytest.mark.parametrize(
    ("probability", "covered", "says"),
    [
        (0.83, 0.41, "falls from 83 % to 41 %"),
        (0.83, 0.82, "No single region"),
        (0.83, 0.95, "No single region"),
        (0.9999, 0.001, "from > 99 % to < 1 %"),
        (0.9999, 0.998, "keeps more than 99 %"),
    ],
)
def test_a_heat_map_in_words(probability, covered, says):
    assert says in heat_words("shirt", probability, covered)


@pytest.mark.parametrize(
    ("metric", "value", "says"),
    [
        ("accuracy", 1.0, "Right nearly every time (95 % CI 84–100)"),
        ("accuracy", 0.9, "Right about 90 times in 100"),
        ("r2", 0.9, "explains about 90 % of the variance"),
        ("mAP", 0.9, "mean average precision on new images is about 90 %"),
    ],
)
def test_a_promise_is_in_the_words_of_its_metric(metric, value, says):
    estimate = Estimate(metric=metric, value=value, low=0.84, high=1.0, n=36, method="holdout")
    assert says in promise_words(estimate)
