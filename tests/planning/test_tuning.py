"""Numbers out of choices; the choices themselves are tested with the plans they stand in."""

import pytest

from plans import plan_for, said
from warmstart.errors import PlanError
from warmstart.planning.strategy import parse
from warmstart.planning.tuning import spread_of


def test_a_spread_is_rate_decay_and_whether_all_is_new():
    for strategy, is_scratch in (("full", False), ("scratch", True)):
        training = plan_for(strategy).training
        spread = spread_of(training, parse(strategy))
        assert spread.base == training.rate.value
        assert (spread.decay, spread.is_scratch) == (training.layer_decay.value, is_scratch)


def test_a_plan_that_lacks_its_rate_is_refused():
    with pytest.raises(PlanError, match=r"lacks training.rate or training.layer_decay; write a"):
        spread_of(plan_for("head").training, parse("head"))


@pytest.mark.parametrize("value", ["0.1", (1, 2)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(PlanError, match="where a number belongs; write a number"):
        _ = said(value).number
