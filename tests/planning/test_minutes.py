"""--minutes: the first plan that fits, and what the user set is never cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import network, plan_for
from warmstart.planning.check import check_plan
from warmstart.planning.minutes import LEAST_STEPS, MARGIN, given_up, within
from warmstart.planning.planfile import read_plan, write_plan
from warmstart.planning.settings import apply_settings

plans = st.builds(
    lambda strategy, budget, own: apply_settings(plan_for(strategy, budget=budget), own),
    st.sampled_from(["last:1", "full", "full+gradual", "head+add", "scratch"]),
    st.sampled_from(["fast", "balanced", "thorough"]),
    st.sets(st.sampled_from(["training.folds=4", "training.passes=9000", "training.batch=16"])),
)


def work(plan):
    """Images passed in all trainings."""
    training = plan.training
    return (training.folds.number + 1) * training.passes.number


@given(plan=plans, seconds=st.floats(0.01, 1e5), rate=st.floats(1e-4, 10), extra=st.floats(0, 1e3))
def test_a_plan_that_fits_is_found_where_there_is_one(plan, seconds, rate, extra):
    def forecast(other):
        tried.append(other)
        return extra + rate * work(other)

    tried = []
    found = within(plan, seconds, forecast)
    check_plan(found, network())
    assert tried[0] == plan
    fitting = [other for other in tried if extra + rate * work(other) <= MARGIN * seconds]
    assert found == (fitting[0] if fitting else tried[-1])
    costs = [work(other) for other in tried]
    assert costs == sorted(set(costs), reverse=True)  # each is cheaper than the one before
    if not fitting:  # the cheapest of all
        assert work(within(plan, 1e-9, work)) == work(found)


@given(plan=plans, seconds=st.floats(0.01, 1e5))
def test_what_the_user_set_stays(plan, seconds):
    found = within(plan, seconds, work)
    for name in ("folds", "passes"):
        before, after = getattr(plan.training, name), getattr(found.training, name)
        if before.source == "user":
            assert after == before
        elif after != before:
            assert 1 <= after.value < before.value
            assert (after.source, after.rule) == ("measured", before.value)
            cut = f"cut from {before.value:,} to fit --minutes {seconds / 60:g}"
            assert after.because == cut
    kept = {name: getattr(found, name) for name in ("parts", "head", "strategy", "start")}
    assert kept == {name: getattr(plan, name) for name in kept}


def test_trainings_that_hold_rows_out_go_first_then_images():
    plan, tried = plan_for("last:1", budget="thorough"), []
    within(plan, 1e-9, lambda other: tried.append(other) or 1.0)
    found = [(p.training.folds.value, p.training.passes.value) for p in tried]
    assert found == [(5, 1500), (1, 1500), (1, 750), (1, 375), (1, 187), (1, LEAST_STEPS * 8)]


def test_a_plan_that_cannot_be_cut_is_left_as_it_is():
    mine = apply_settings(plan_for("full"), ["training.folds=2", "training.passes=5000"])
    assert within(mine, 1e-9, work) == mine
    few = apply_settings(plan_for("full", budget="fast"), ["training.passes=40"])
    assert within(few, 1e-9, work) == few
    head = plan_for("head")
    assert within(head, 1e-9, lambda plan: 1.0) is head


@pytest.mark.parametrize(("seconds", "says"), [
    (1e9, ""), (4000, "trainings that hold images out 1 instead of 3"),
    (1, "trainings that hold images out 1 instead of 3; images passed 160 instead of 1,500"),
])  # fmt: skip
def test_what_was_given_up_is_said(seconds, says):
    found = within(plan_for("last:1"), seconds, work)
    assert given_up(found) == says
    assert given_up(read_plan(write_plan(found))) == says
    assert given_up(plan_for("head")) == ""
