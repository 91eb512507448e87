"""Three learning rates from the same weights."""

import numpy as np
import pytest

from jobs import FEW, PLAIN
from tiny import PREP, network
from warmstart.api.learning_rates import (
    LearningRateComparison,
    LearningRateResult,
    compare_learning_rates,
)
from warmstart.errors import UsageError


def tried(rate, loss, gap=None, error=0.01):
    return LearningRateResult(lr=rate, loss=loss, accuracy=0.5, gap=gap, gap_error=error)


def probed(*rates, before=0.9):
    return LearningRateComparison(results=rates, probe_loss=before, n=40, steps=60)


def small(**options):
    """From a tiny network with random weights."""
    options = {"strategy": "last:1", "steps": 12, "settings": (*PLAIN, *FEW), **options}
    return {"base": network(), "preprocessing": PREP, **options}


def test_three_learning_rates_are_tried_from_the_same_base_model(pictures):
    events = []
    result = compare_learning_rates(pictures, on_event=events.append, **small(lr=0.003))
    assert [one.lr for one in result.results] == [0.001, 0.003, 0.009]
    assert result.steps == 12
    assert 5 <= result.n <= 9  # a fifth of 36
    assert len({one.loss for one in result.results}) == 3
    assert all(0 <= one.accuracy <= 1 for one in result.results)
    assert result.best.gap == 0
    assert result.sentence.startswith(f"Loss on {result.n} held-out examples after 12 steps")
    steps = [event.step for event in events if "job" in event.values]
    assert steps == list(range(1, 37))


def test_the_same_question_has_the_same_answer(pictures):
    one, other = (compare_learning_rates(pictures, **small()) for _ in range(2))
    assert one == other


def test_the_middle_one_is_what_a_run_would_do_first(pictures):
    """Tried alone it gives the same loss: the three do not touch each other."""
    whole = compare_learning_rates(pictures, **small(lr=0.003))
    third = compare_learning_rates(pictures, **small(lr=0.001))
    assert third.results[1].loss == pytest.approx(whole.results[0].loss, rel=1e-4)


def test_a_learning_rate_that_diverges_is_named(pictures):
    result = compare_learning_rates(pictures, **small(lr=1e6, steps=20))
    assert result.results[2].loss is None or result.results[2].loss > result.probe_loss
    assert result.best is None or np.isfinite(result.best.loss)
    assert result.sentence


def test_a_strategy_that_trains_nothing_has_no_learning_rate(pictures):
    with pytest.raises(UsageError, match="strategy head fine-tunes no block"):
        compare_learning_rates(pictures, **small(strategy="head", settings=()))


def test_steps_are_counted_from_one(pictures):
    with pytest.raises(UsageError, match="steps=0: it needs a whole number"):
        compare_learning_rates(pictures, **small(steps=0))


def test_a_difference_by_chance_is_no_reason_to_change():
    result = probed(tried(1e-4, 0.52, 0.02), tried(3e-4, 0.51, 0.01), tried(9e-4, 0.50, 0.0))
    assert result.sentence.endswith("The plan's 0.0003 ties with the best.")


def test_a_better_learning_rate_is_what_to_type():
    result = probed(tried(1e-4, 0.8, 0.3), tried(3e-4, 0.7, 0.2), tried(9e-4, 0.5, 0.0))
    assert result.sentence.endswith("0.0009 is better than the plan's 0.0003: --lr 0.0009.")


def test_all_worse_than_before_is_said():
    result = probed(tried(1e-4, 1.0, 0.0), tried(3e-4, 1.1, 0.1), tried(9e-4, None))
    assert "None is better than the linear probe alone." in result.sentence
    assert "0.0009: diverged" in result.sentence


def test_all_diverged():
    result = probed(*(tried(rate, None) for rate in (1.0, 3.0, 9.0)))
    assert result.best is None
    assert result.sentence.endswith("All three diverged; try --lr a hundred times lower.")
