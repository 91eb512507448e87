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


def test_the_three_do_not_touch_each_other(pictures):
    """The same again, and each alone: the middle one is what a run would do first."""
    whole = compare_learning_rates(pictures, **small(lr=0.003))
    assert whole == compare_learning_rates(pictures, **small(lr=0.003))
    third = compare_learning_rates(pictures, **small(lr=0.001))
    assert third.results[1].loss == pytest.approx(whole.results[0].loss, rel=1e-4)


def test_a_learning_rate_that_diverges_is_named(pictures):
    result = compare_learning_rates(pictures, **small(lr=1e6, steps=20))
    assert result.results[2].loss is None or result.results[2].loss > result.probe_loss
    assert result.best is None or np.isfinite(result.best.loss)
    assert result.sentence


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "head", "settings": ()}, "strategy head fine-tunes no block"),
        ({"steps": 0}, "steps=0: it needs a whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused(pictures, options, says):
    with pytest.raises(UsageError, match=says):
        compare_learning_rates(pictures, **small(**options))


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((0.52, 0.51, 0.50), "The plan's 0.0003 ties with the best."),  # by chance
        ((0.8, 0.7, 0.5), "0.0009 is better than the plan's 0.0003: --lr 0.0009."),
        ((1.0, 1.1, None), "None is better than the linear probe alone."),
        ((1.0, 1.1, None), "0.0009: diverged"),
        ((None,) * 3, "All three diverged; try --lr a hundred times lower."),
    ],
)
def test_the_result_is_said_with_what_to_type(losses, says):
    least = min((loss for loss in losses if loss is not None), default=0.0)
    rates = zip((1e-4, 3e-4, 9e-4), losses, strict=True)
    results = [tried(lr, loss, None if loss is None else loss - least) for lr, loss in rates]
    result = probed(*results)
    assert says in result.sentence
    assert (result.best is None) == (losses == (None,) * 3)
