"""From a plan to plain numbers, and which blocks are trained in which stage."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from plans import a_choice, actions, network_facts, plan_for
from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.planning.check import check_plan
from warmstart.planning.schedule import (
    MOST_STAGES,
    Schedule,
    as_followed,
    for_fold,
    schedule,
    stage_actions,
)

CHOICES = ("optimizer", "weight_decay", "epochs", "warmup", "crop", "flip", "folds")


def trained(strategy="full+gradual", n_blocks=4, **wishes):
    names = tuple(f"p{i}" for i in range(n_blocks))
    return plan_for(strategy, network=network_facts(names), **wishes)


def stages(plan):
    return stage_actions(schedule(plan), {b.name: plan.action_of(b.name) for b in plan.blocks})


def tuned(stage):
    return [name for name, action in stage.items() if action == "tuned"]


# ---- numbers -----------------------------------------------------------------------------


def test_the_schedule_is_what_the_plan_says():
    plan = trained("last:2", seed=7)
    found, training = schedule(plan), plan.training
    for name in ("optimizer", "weight_decay", "warmup", "crop", "flip", "folds", "batch_size"):
        assert getattr(found, name) == getattr(training, name).value
    assert (found.seed, found.joining) == (7, ())


@pytest.mark.parametrize(
    ("samples", "batch"), [(1, 1), (8, 8), (9, 8), (1000, 32), (1001, 7), (31, 16)]
)
def test_steps_see_at_least_the_samples_of_the_epochs_and_less_than_a_batch_more(samples, batch):
    plan = trained("full")
    epochs = a_choice(rules.epochs(samples, plan.examples))
    training = replace(plan.training, epochs=epochs, batch_size=a_choice(batch))
    plan = replace(plan, training=training)
    assert plan.samples_seen == samples
    found = schedule(plan)
    assert found.n_steps == math.ceil(samples / batch)
    assert samples <= found.n_steps * batch < samples + batch


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_missing_is_named(name):
    plan = trained("full")
    lacking = replace(plan, training=replace(plan.training, **{name: None}))
    with pytest.raises(PlanError, match=rf"trains blocks without training.{name}"):
        schedule(lacking)


def test_a_plan_that_trains_nothing_has_no_schedule():
    with pytest.raises(PlanError, match="trains blocks without training"):
        schedule(trained("head"))


# ---- stages ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["full", "last:2", "head+add", "scratch", "full+lora"])
def test_without_gradual_everything_moves_at_once(strategy):
    plan = trained(strategy)
    assert stages(plan) == [actions(plan)]


@pytest.mark.parametrize("n_blocks", [2, 3, 4, 5, 7, 18, 31])
@pytest.mark.parametrize("extra", ["", "+add"])
def test_blocks_are_unfrozen_from_the_top_in_stages_of_equal_size(n_blocks, extra):
    plan = trained(f"full{extra}+gradual", n_blocks)
    found = stages(plan)
    assert len(found) == min(MOST_STAGES, n_blocks)
    assert found[-1] == actions(plan)
    names = [f"p{i}" for i in range(n_blocks)]
    sizes = [len(tuned(stage)) for stage in found]
    assert sizes == sorted(set(sizes))
    for stage, size in zip(found, sizes, strict=True):
        assert tuned(stage) == names[n_blocks - size :]
        assert [n for n in names if stage[n] == "frozen"] == names[: n_blocks - size]
    joining = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    assert sum(joining) == n_blocks
    assert max(joining) - min(joining) <= 1


def test_what_is_frozen_stays_so_and_what_is_new_is_trained_from_the_first_stage():
    plan = trained("last:3+add+gradual", 6)
    found = stages(plan)
    assert len(found) == 3
    for stage in found:
        assert [stage[f"p{i}"] for i in range(3)] == ["frozen"] * 3
        assert (stage["added"], stage["output"]) == ("added", "replaced")


def test_stages_are_plans_that_can_be_followed():
    """Every stage is a plan: frozen blocks have no learning rate, the others keep theirs."""
    plan = trained("full+gradual", 9)
    record = network_facts(tuple(f"p{i}" for i in range(9))).record
    for stage in stages(plan):
        blocks = [
            replace(
                block,
                action=a_choice(stage[block.name]),
                lr=None if stage[block.name] == "frozen" else block.lr,
            )
            for block in plan.blocks
        ]
        check_plan(replace(plan, blocks=tuple(blocks)), record)


# ---- what was followed --------------------------------------------------------------------


@pytest.mark.parametrize("joined", [0, 1, 2, 3, 4])
def test_blocks_that_were_not_unfrozen_are_frozen_in_the_plan_as_followed(joined):
    plan = trained("full+gradual", n_blocks=6)
    done = as_followed(plan, schedule(plan), joined)
    moved = [b.name for b in done.blocks if b.action.value == "tuned"]
    last = stages(plan)[joined - 1] if joined else {}
    assert moved == tuned(last)
    assert done.is_trained == (joined > 0)
    for block in done.blocks:
        assert (block.lr is None) == (block.action.value == "frozen" or not joined)


def test_held_out_rows_cost_updates_or_batch_size():
    """Where one update compares all, updates stay: a text twice in one would say nothing."""
    plain = Schedule(
        optimizer="adamw",
        weight_decay=0.0,
        n_steps=9,
        batch_size=48,
        warmup=0.0,
        crop=1.0,
        flip=False,
        folds=2,
        seed=0,
        micro_batch=48,
    )
    half = for_fold(plain, 24, 48)
    assert (half.n_steps, half.batch_size, half.micro_batch) == (4, 48, 48)
    half = for_fold(replace(plain, contrastive=True), 24, 48)
    assert (half.n_steps, half.batch_size, half.micro_batch) == (9, 24, 24)
    assert for_fold(replace(plain, contrastive=True), 0, 48) == replace(plain, contrastive=True)
    in_batches = replace(
        plain,
        contrastive=True,
        contrastive_temperature=0.1,
        batch_size=16,
        micro_batch=16,
        n_steps=20,
        ema_decay=0.9,
    )
    half = for_fold(in_batches, 24, 48)
    assert (half.n_steps, half.batch_size, half.micro_batch) == (10, 16, 16)
    assert half.ema_decay == pytest.approx(0.8)  # over as large a share of the updates
    assert for_fold(replace(in_batches, ema_decay=0.0), 24, 48).ema_decay == 0
