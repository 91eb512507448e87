"""A handful of texts learns from pairs; the choices that suit them, and what the user sets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plans import FACTS, actions, network_facts, plan_for
from warmstart.planning.contrastive import (
    LEAST_UPDATES,
    MANY_BATCH,
    MANY_PASSES,
    MANY_RATE,
    RATE,
    TEMPERATURE,
    UPDATES,
    WARM_UP,
)
from warmstart.planning.forecast import within
from warmstart.planning.plan_file import overlay
from warmstart.planning.settings import apply_settings
from warmstart.records.inputs import TextInputs

TEXTS = TextInputs(length=24, most=24, vocabulary=99, pad=0, tokenizer="0" * 64)
FEW = replace(FACTS, n=48, n_groups=48, n_classes=6, smallest_class=8, holdout=0)
MANY = replace(FEW, n=600, n_groups=600)
NAMES = tuple(f"layer.{n}" for n in range(7))


def planned(facts=FEW, strategy="auto", **wishes):
    found = network_facts(
        NAMES, family="transformer", preprocessing=TEXTS, tries_tail=strategy == "auto"
    )
    return plan_for(strategy, facts, found, **wishes)


def test_a_handful_is_tuned_on_pairs_more_than_half_way_down():
    plan = planned()
    assert plan.strategy.value == "last:4"
    assert "lowest layer whose weights" not in plan.strategy.because
    chosen = plan.training
    assert (chosen.pairs.value, chosen.rate.value, chosen.layer_decay.value) == (True, RATE, 1.0)
    assert (chosen.batch.value, chosen.passes.value) == (48, UPDATES * 48)
    assert (chosen.warm_up.value, chosen.average.value, chosen.l2_sp.value) == (0, 0, 0)
    assert chosen.temperature.value == 0
    assert [actions(plan)[name] for name in NAMES] == ["frozen"] * 3 + ["tuned"] * 4


@pytest.mark.parametrize("n", [150, 600])
def test_more_texts_are_told_apart_in_parts_as_deep(n):
    plan = planned(replace(FEW, n=n, n_groups=n))
    chosen = plan.training
    assert plan.strategy.value == "last:4"
    assert (chosen.pairs.value, chosen.rate.value) == (True, MANY_RATE)
    assert (chosen.temperature.value, chosen.warm_up.value) == (TEMPERATURE, WARM_UP)
    assert chosen.batch.value == chosen.micro_batch.value == MANY_BATCH
    assert chosen.passes.value == max(MANY_PASSES * n, LEAST_UPDATES * MANY_BATCH)
    n_steps = -(-chosen.passes.value // MANY_BATCH)
    assert chosen.average.value == pytest.approx(1 - 2 / n_steps, abs=1e-4)


@pytest.mark.parametrize(
    "plan",
    [
        planned(pairs=False),
        planned(strategy="scratch"),
        planned(strategy="full+lora"),
    ],
    ids=["not wished", "scratch", "low-rank"],
)
def test_others_learn_by_the_output(plan):
    assert plan.training.pairs.value is False
    assert plan.training.rate.value != RATE
    assert plan.strategy.value in ("last:3", "scratch", "full+lora")


def test_what_the_user_sets_wins():
    many = planned(replace(FEW, n=600, n_groups=600), strategy="last:2", pairs=True, lr=1e-4)
    assert many.training.pairs.value is True
    assert (many.training.rate.value, many.training.rate.rule) == (1e-4, MANY_RATE)
    assert many.training.batch.value == MANY_BATCH
    assert many.strategy.value == "last:2"


def test_pairs_are_for_texts_with_classes():
    assert plan_for("last:1", FEW).training.pairs is None
    assert planned(replace(FEW, task="regress"), strategy="last:1").training.pairs is None


def test_several_processes_share_a_batch_and_compare_none_of_it():
    assert planned(processes=2).training.pairs.value is False


def test_the_average_follows_updates_as_pairs_have_it():
    few, many = planned(), planned(MANY)
    assert apply_settings(few, ["training.passes=96"]).training.average.value == 0
    longer = apply_settings(many, [f"training.passes={80 * MANY_BATCH}"])
    assert longer.training.average.value == pytest.approx(1 - 2 / 80)
    output = apply_settings(planned(MANY, pairs=False), ["training.passes=1600"])
    assert "last tenth" in output.training.average.because


def test_fewer_minutes_leave_fewer_updates_and_a_shorter_average():
    plan = planned(MANY)
    cut = within(plan, 100, lambda other: other.training.passes.number / 20)
    n_steps = cut.training.passes.number / cut.training.batch.number
    assert LEAST_UPDATES <= n_steps < plan.training.passes.number / plan.training.batch.number
    assert cut.training.average.value == pytest.approx(1 - 2 / n_steps, abs=1e-3)


def test_a_typed_strategy_over_a_file_that_learns_otherwise_brings_all_of_its_training():
    file, built = planned(MANY, pairs=False), planned(MANY, strategy="last:3")
    found = overlay(built, file, frozenset({"strategy"})).training
    assert (found.pairs, found.rate, found.batch) == (
        built.training.pairs,
        built.training.rate,
        built.training.batch,
    )
