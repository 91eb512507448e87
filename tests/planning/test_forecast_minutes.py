"""--minutes: the first plan that fits, and what the user set is never cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import network, plan_for
from warmstart.planning import rules
from warmstart.planning.check import check_plan
from warmstart.planning.forecast import (
    LEAST_STEPS,
    MARGIN,
    TRIES,
    fit_to_time,
    given_up,
    skips_controls,
    time_ran_out,
)
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.settings import apply_settings

plans = st.builds(
    lambda strategy, budget, own: apply_settings(plan_for(strategy, budget=budget), own),
    st.sampled_from(["last:1", "full", "full+gradual", "head+add", "scratch"]),
    st.sampled_from(["fast", "balanced", "thorough"]),
    st.sets(st.sampled_from(["training.folds=4", "training.epochs=30", "training.batch_size=16"])),
)


def work(plan):
    """Images seen in all trainings."""
    return (plan.training.folds.number + 1) * plan.samples_seen


@given(plan=plans, seconds=st.floats(0.01, 1e5), cost=st.floats(1e-4, 10), extra=st.floats(0, 1e3))
def test_the_plan_that_is_found_fits_and_could_hardly_be_longer(plan, seconds, cost, extra):
    def forecast(other):
        return extra + cost * (work(other) if other.is_trained else 0)

    found = fit_to_time(plan, seconds, forecast)
    check_plan(found, network())
    most = MARGIN * seconds
    if forecast(plan) <= most:
        assert found == plan
    elif plan.training.epochs.source != "user":
        assert not found.is_trained or forecast(found) <= most
        if found.is_trained and found.training.epochs != plan.training.epochs:
            batch = plan.training.batch_size.number
            more = found.samples_seen + 2 * batch + plan.samples_seen / 2**TRIES
            longer = replace(found.training.epochs, value=rules.epochs(more, plan.examples))
            assert forecast(replace(found, training=replace(found.training, epochs=longer))) > most
        elif not found.is_trained:
            assert (
                extra + 2 * cost * LEAST_STEPS * plan.training.batch_size.number > most
                or plan.samples_seen <= LEAST_STEPS * plan.training.batch_size.number
                or plan.training.folds.source == "user"
            )


@given(plan=plans, seconds=st.floats(0.01, 1e5))
def test_what_the_user_set_stays(plan, seconds):
    found = fit_to_time(plan, seconds, work)
    if not found.is_trained:
        assert plan.training.epochs.source != "user"
        return
    for name in ("folds", "epochs"):
        before, after = getattr(plan.training, name), getattr(found.training, name)
        if before.source == "user":
            assert after == before
        elif after != before:
            assert 1 <= after.value < before.value
            assert (after.source, after.rule) == ("measured", before.value)
            cut = f"cut from {before.value:.4g} to fit --minutes {seconds / 60:g}"
            assert after.because == cut
    kept = {name: getattr(found, name) for name in ("blocks", "head", "strategy", "base")}
    assert kept == {name: getattr(plan, name) for name in kept}


def test_trainings_that_hold_rows_out_go_first_then_epochs_then_training():
    plan, tried = plan_for("last:1", budget="thorough"), []
    found = fit_to_time(plan, 1e-9, lambda other: tried.append(other) or 1.0)
    cuts = [(p.training.folds.value, p.training.model_soup.value, p.samples_seen) for p in tried]
    assert cuts == [
        (5, 3, 3000),
        (3, 3, 3000),
        (2, 3, 3000),
        (1, 3, 3000),
        (1, 2, 3000),
        (1, 1, 3000),
        (1, 1, LEAST_STEPS * 16),
    ]
    assert (found.strategy.value, found.strategy.rule) == ("head", "last:1")
    assert time_ran_out(found) == "the minutes leave no time for it"
    assert time_ran_out(read_plan(write_plan(found))) == time_ran_out(found)
    assert given_up(found) == "last:1 was given up: the minutes leave no time for it"


def test_a_training_that_the_user_did_not_choose_is_not_called_given_up():
    plan = plan_for("last:1")
    ours = replace(plan, strategy=replace(plan.strategy, source="rule"))
    found = fit_to_time(ours, 1e-9, lambda other: 1.0)
    assert time_ran_out(found) == ""
    assert given_up(found) == "last:1 was not tried: the minutes leave no time for it"


def test_a_plan_that_is_the_users_own_is_left_as_it_is():
    mine = apply_settings(plan_for("full"), ["training.folds=2", "training.epochs=16.6667"])
    assert fit_to_time(mine, 1e-9, work) == mine
    head = plan_for("head")
    assert fit_to_time(head, 1e-9, lambda plan: 1.0) is head


def test_few_minutes_leave_no_time_for_controls():
    record = network()
    heavy = replace(record, blocks=tuple(replace(block, macs=10**8) for block in record.blocks))
    assert skips_controls(0.75, heavy, 500)
    assert not skips_controls(60.0, heavy, 500)
    assert not skips_controls(0.75, record, 500)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (1e9, ""),
        (15000, "trainings that hold images out 3 instead of 5"),
        (8000, "trainings that hold images out 1 instead of 5"),
        (4400, "trainings that hold images out 1 instead of 5; epochs 6.56 instead of 10"),
        (1, "last:1 was given up: the minutes leave no time for it"),
    ],
)
def test_what_was_given_up_is_said(seconds, says):
    found = fit_to_time(plan_for("last:1"), seconds, work)
    assert given_up(found) == says
    assert given_up(read_plan(write_plan(found))) == says
    assert given_up(plan_for("head")) == ""


def test_minutes_that_are_left_restore_augmentations_of_an_offloaded_network():
    plan = plan_for("last:1")
    few = replace(
        plan.training.augmentations, value=1, because="each takes long", source="rule", rule=4
    )
    offloaded = replace(
        plan.training, augmentations=few, offload=replace(few, value="float32", rule=None)
    )
    plan = replace(plan, training=offloaded)
    for seconds, count in ((201, 1), (301, 2), (401, 3), (5000, 4)):
        found = fit_to_time(
            plan, seconds / MARGIN, lambda p: 100 + 100 * p.training.augmentations.number
        )
        assert found.training.augmentations.value == count
        if count > 1:
            assert found.training.augmentations.source == "measured"
            assert found.training.augmentations.because.startswith("as many as --minutes")
    mine = replace(offloaded, augmentations=replace(few, source="user"))
    assert (
        fit_to_time(replace(plan, training=mine), 5000, lambda p: 1.0).training.augmentations
        == mine.augmentations
    )
