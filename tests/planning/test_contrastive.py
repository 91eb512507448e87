"""A handful of texts learns from pairs; the choices that suit them, and what the user sets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plans import FACTS, actions, network_facts, plan_for
from warmstart.planning import rules
from warmstart.planning.fine_tuning import BATCHED_LR as MANY_RATE
from warmstart.planning.fine_tuning import (
    LEAST_UPDATES,
    TEMPERATURE,
    WARM_UP,
)
from warmstart.planning.fine_tuning import PAIR_BATCH as MANY_BATCH
from warmstart.planning.fine_tuning import PAIR_EPOCHS as MANY_EPOCHS
from warmstart.planning.fine_tuning import PAIR_LR as RATE
from warmstart.planning.fine_tuning import PAIR_UPDATES as UPDATES
from warmstart.planning.forecast import fit_to_time
from warmstart.planning.plan_file import overlay
from warmstart.planning.settings import apply_settings
from warmstart.records.inputs import TextInputs

TEXTS = TextInputs(length=24, most=24, vocabulary=99, pad=0, tokenizer="0" * 64)
FEW = replace(FACTS, n=48, n_groups=48, n_classes=6, smallest_class=8, holdout=0)
MANY = replace(FEW, n=600, n_groups=600)
NAMES = tuple(f"layer.{n}" for n in range(7))


def planned(facts=FEW, strategy="auto", **wishes):
    found = network_facts(
        NAMES, family="transformer", preprocessing=TEXTS, compares_fine_tuning=strategy == "auto"
    )
    return plan_for(strategy, facts, found, **wishes)


def test_a_handful_is_fine_tuned_on_pairs_more_than_half_way_down():
    plan = planned()
    assert plan.strategy.value == "last:4"
    assert "lowest layer whose weights" not in plan.strategy.because
    chosen = plan.training
    assert (chosen.contrastive.value, chosen.lr.value, chosen.layer_decay.value) == (
        True,
        RATE,
        1.0,
    )
    assert (chosen.batch_size.value, plan.samples_seen) == (48, UPDATES * 48)
    assert chosen.epochs.value == UPDATES
    assert (chosen.warmup.value, chosen.ema_decay.value, chosen.l2_sp.value) == (0, 0, 0)
    assert chosen.contrastive_temperature.value == 0
    assert [actions(plan)[name] for name in NAMES] == ["frozen"] * 3 + ["tuned"] * 4


@pytest.mark.parametrize("n", [150, 600])
def test_more_texts_are_contrasted_in_batches_and_as_deep(n):
    plan = planned(replace(FEW, n=n, n_groups=n))
    chosen = plan.training
    assert plan.strategy.value == "last:4"
    assert (chosen.contrastive.value, chosen.lr.value) == (True, MANY_RATE)
    assert (chosen.contrastive_temperature.value, chosen.warmup.value) == (TEMPERATURE, WARM_UP)
    assert chosen.batch_size.value == chosen.micro_batch.value == MANY_BATCH
    assert plan.samples_seen == max(MANY_EPOCHS * n, LEAST_UPDATES * MANY_BATCH)
    n_steps = -(-plan.samples_seen // MANY_BATCH)
    assert chosen.ema_decay.value == pytest.approx(1 - 2 / n_steps, abs=1e-4)


@pytest.mark.parametrize(
    "plan",
    [
        planned(contrastive=False),
        planned(strategy="scratch"),
        planned(strategy="full+lora"),
    ],
    ids=["switched off", "scratch", "low-rank"],
)
def test_others_learn_through_the_head(plan):
    assert plan.training.contrastive.value is False
    assert plan.training.lr.value != RATE
    assert plan.strategy.value in ("last:3", "scratch", "full+lora")


def test_what_the_user_sets_wins():
    many = planned(replace(FEW, n=600, n_groups=600), strategy="last:2", contrastive=True, lr=1e-4)
    assert many.training.contrastive.value is True
    assert (many.training.lr.value, many.training.lr.rule) == (1e-4, MANY_RATE)
    assert many.training.batch_size.value == MANY_BATCH
    assert many.strategy.value == "last:2"


def test_contrastive_training_is_for_texts_with_classes():
    assert plan_for("last:1", FEW).training.contrastive is None
    assert planned(replace(FEW, task="regress"), strategy="last:1").training.contrastive is None


def test_several_processes_share_a_batch_and_compare_none_of_it():
    assert planned(processes=2).training.contrastive.value is False


def test_the_moving_average_follows_the_number_of_updates():
    few, many = planned(), planned(MANY)
    assert apply_settings(few, ["training.epochs=2"]).training.ema_decay.value == 0
    longer = apply_settings(many, [f"training.epochs={rules.epochs(80 * MANY_BATCH, MANY.n)}"])
    assert longer.training.ema_decay.value == pytest.approx(1 - 2 / 80)
    plain = apply_settings(planned(MANY, contrastive=False), ["training.epochs=2.6667"])
    assert "last tenth" in plain.training.ema_decay.because


def test_fewer_minutes_leave_fewer_updates_and_a_shorter_moving_average():
    plan = planned(MANY)
    cut = fit_to_time(plan, 100, lambda other: other.samples_seen / 20)
    n_steps = cut.samples_seen / cut.training.batch_size.number
    assert LEAST_UPDATES <= n_steps < plan.samples_seen / plan.training.batch_size.number
    assert cut.training.ema_decay.value == pytest.approx(1 - 2 / n_steps, abs=1e-3)


def test_a_typed_strategy_over_a_file_that_learns_otherwise_replaces_all_of_its_training():
    file, built = planned(MANY, contrastive=False), planned(MANY, strategy="last:3")
    found = overlay(built, file, frozenset({"strategy"})).training
    assert (found.contrastive, found.lr, found.batch_size) == (
        built.training.contrastive,
        built.training.lr,
        built.training.batch_size,
    )
