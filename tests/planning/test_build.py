"""From facts to a plan: every value is there with its reason, and the user's choices win."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import (
    FACTS,
    PREPROCESSING,
    PROFILES,
    TEXTS,
    apply_settings,
    many,
    network_facts,
    plan_for,
    rates,
)
from warmstart.errors import PlanError
from warmstart.planning.check import check_facts, check_plan
from warmstart.planning.facts import DataFacts
from warmstart.records.network import Recipe
from warmstart.records.plan import InputPlan, TrainingPlan

STRATEGIES = [
    "auto",
    "head",
    "add",
    "last:1",
    "last:2+add",
    "frozen:3",
    "full",
    "full+lora",
    "gradual",
    "auto+lora",
    "frozen:2+add+lora",
    "scratch",
]
CLOSED = {"engine", "batch_size", "seed"}  # the training choices of a linear probe


@given(
    n=st.integers(3, 40_000),
    groups=st.integers(3, 50),
    holdout=st.booleans(),
    budget=st.sampled_from(["fast", "balanced", "thorough"]),
    strategy=st.sampled_from(STRATEGIES),
    family=st.sampled_from(["convnet", "transformer", "mlp"]),
    optimizer=st.sampled_from([None, "sgd", "adamw", "rmsprop"]),
    length=st.integers(3, 60),
)
def test_no_facts_give_an_unsound_plan(
    n, groups, holdout, budget, strategy, family, optimizer, length
):
    data = DataFacts(
        n=n,
        n_groups=min(n, groups),
        n_classes=2,
        smallest_class=1,
        holdout=n // 3 if holdout else 0,
    )
    recipe = optimizer and Recipe(optimizer=optimizer, lr=0.1, batch_size=256, schedule="cosine")
    facts = network_facts([f"p{i}" for i in range(length)], family=family, recipe=recipe)
    plan = plan_for(strategy, data, facts, budget=budget)
    check_plan(plan, facts.record)
    check_facts(plan, data, facts, PROFILES)
    if holdout and plan.is_trained:
        assert plan.training.folds.value == 1


def test_a_head_plan_trains_nothing_and_has_no_more_choices_than_it_needs():
    plan = plan_for()
    assert plan.strategy.value == "head"
    assert not plan.is_trained
    for field in fields(TrainingPlan):
        assert (getattr(plan.training, field.name) is None) == (field.name not in CLOSED)
    assert plan.training.batch_size.value == 32
    assert {p.action.because for p in plan.blocks[:-1]} == {"only the head is trained"}


def test_what_the_user_sets_wins_and_the_rules_choice_stands_beside_it():
    made = plan_for(
        "last:2", seed=7, base="timm:resnet18", arch="timm:x", lr=0.002, explicit={"base", "seed"}
    )
    found = {name: getattr(made, name) for name in ("base", "strategy", "arch")}
    found |= {"seed": made.training.seed, "lr": made.training.lr}
    assert {(name, c.value, c.source, c.rule) for name, c in found.items()} == {
        ("base", "timm:resnet18", "user", "lite0"),
        ("strategy", "last:2", "user", "head"),
        ("arch", "timm:x", "user", None),
        ("seed", 7, "user", 0),
        ("lr", 0.002, "user", 0.001),
    }
    assert rates(made) == {"blocks.1": 0.0015, "top": 0.002, "output": 0.002}
    assert all(p.lr.source == "rule" for p in made.blocks if p.lr)
    assert "0.002 x 0.75^1" in made.blocks[2].lr.because


def test_auto_typed_is_still_the_rules_choice():
    assert plan_for("auto", explicit={"strategy"}) == plan_for("auto")


def test_the_verdict_decides_the_depth_where_nobody_else_does():
    facts = network_facts(verdict="fine-tune")
    plan = plan_for(network=facts)
    assert (plan.strategy.value, plan.strategy.source) == ("last:2", "rule")
    assert "verdict" in plan.strategy.because
    assert plan_for("head", network=facts).strategy.rule == "last:2"
    typed = plan_for("auto+lora")
    assert (typed.strategy.value, typed.strategy.source) == ("last:2+lora", "user")


@pytest.mark.parametrize(
    ("strategy", "epochs", "batch_size", "layer_decay", "ema_decay", "split_at"),
    [
        ("last:2", 10.0, 16, 0.75, 0.9468, 2),
        ("full+lora", 10.0, 16, 0.75, 0.9468, 0),
        ("add", 10.0, 16, 0.75, 0.9468, 4),
        ("scratch", 53.3333, 16, 1.0, 0.99, 0),
    ],
)
def test_the_choices_of_training_by_hand(
    strategy, epochs, batch_size, layer_decay, ema_decay, split_at
):
    plan = plan_for(strategy)
    training = plan.training
    found = {
        f.name: c.value for f in fields(training) if (c := getattr(training, f.name)) is not None
    }
    assert found == {
        "engine": "torch",
        "seed": 0,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "warmup": 0.1,
        "crop": 0.35,
        "flip": True,
        "folds": 5,
        "epochs": epochs,
        "batch_size": batch_size,
        "layer_decay": layer_decay,
        "lr": 0.001,
        "color_jitter": 0.1,
        "augmentations": 4 if split_at else 0,
        "split_at": split_at,
        "cache_dtype": "float32",
        "ema_decay": ema_decay,
        "l2_sp": 0.0,
        "micro_batch": batch_size,
        "gradient_checkpointing": False,
        "device": "cpu",
        "precision": "float32",
        "workers": 1,
        "compile": False,
        **({"lora_rank": 8} if "lora" in strategy else {}),
    }
    assert plan.samples_seen == (16_000 if strategy == "scratch" else 3000)


def test_the_recipe_of_the_base_model_sets_optimizer_learning_rate_and_decay():
    recipe = Recipe(optimizer="SGD", lr=0.01, batch_size=256, schedule="cosine")
    training = plan_for("full", network=network_facts(recipe=recipe)).training
    assert (training.optimizer.value, training.lr.value) == ("sgd", 0.001)
    assert training.weight_decay.value == 0.0001


def test_an_mlp_sees_whole_images_and_a_long_network_decays_mildly():
    mlp = plan_for("full", network=network_facts(family="mlp"))
    assert (mlp.training.crop.value, mlp.training.lr.value) == (1.0, 0.001)
    long = plan_for("full", network=network_facts([str(n) for n in range(24)]))
    assert long.training.layer_decay.value == 0.866
    assert "24" in long.training.layer_decay.because


def test_a_validation_set_is_the_only_fold():
    facts = replace(FACTS, holdout=60)
    plan = plan_for("full", facts)
    assert plan.head.outer_folds.value == plan.training.folds.value == 1
    assert "validation set" in plan.training.folds.because


def test_the_input_is_the_base_models_own_where_that_is_a_square():
    found = plan_for().input
    assert isinstance(found, InputPlan)
    assert (found.size.value, found.size.rule) == (224, 224)
    assert (found.channels.value, found.rgb) == (3, None)
    wide = replace(PREPROCESSING, size=(224, 320))
    assert plan_for(network=network_facts(preprocessing=wide)).input is None
    assert plan_for(network=network_facts()).input is None


def test_other_bands_are_measured_and_the_base_models_input_stays_the_rule():
    bands = replace(PREPROCESSING, mean=(0.5,) * 5, std=(0.5,) * 5)
    facts = network_facts(preprocessing=bands, base_inputs=PREPROCESSING)
    found = plan_for(network=facts).input
    channels = found.channels
    assert (channels.value, channels.rule, channels.source) == (5, 3, "measured")
    assert channels.because == "your images have 5 bands"
    assert (found.size.value, found.size.rule, found.size.source) == (224, 224, "rule")


def test_what_the_user_set_stands_beside_the_base_models_input():
    small = replace(PREPROCESSING, size=(96, 96), mean=(0.5,), std=(0.5,))
    plan = plan_for(network=network_facts(preprocessing=small, base_inputs=PREPROCESSING))
    found = apply_settings(plan, ["input.size=96", "input.channels=1"]).input
    assert (found.size.value, found.size.rule, found.size.source) == (96, 224, "user")
    assert (found.channels.value, found.channels.rule, found.channels.source) == (1, 3, "user")


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_is_a_number_above_0(lr):
    with pytest.raises(PlanError, match=r"--lr .* is not a number above 0; write for instance"):
        plan_for("full", lr=lr)


@pytest.mark.parametrize("strategy", ["head", "auto"])
def test_a_learning_rate_without_training_is_refused(strategy):
    says = "--lr 0.001: nothing is trained step by step with strategy head; add --strategy last:N"
    with pytest.raises(PlanError, match=says):
        plan_for(strategy, lr=0.001)


def test_a_network_that_is_too_short_is_named_by_its_base_model():
    with pytest.raises(PlanError, match=r"last:9: timm:x has 4 blocks.*use last:4 or full"):
        plan_for("last:9", base="timm:x")
    with pytest.raises(PlanError, match="did you mean head"):
        plan_for("hed")


@pytest.mark.parametrize(("n", "is_fixed"), [(64, True), (65, False)])
def test_few_texts_choose_no_depth(n, is_fixed):
    facts = replace(FACTS, n=n, n_groups=n, kind="text")
    plan = plan_for("head", facts, network_facts(preprocessing=TEXTS))
    assert (plan.head.candidates.value == ("late",)) == is_fixed
    assert (plan.head.penalties.value == (0.1, 0.3)) == is_fixed
    numbers = plan_for("head", replace(facts, task="regress"), network_facts(preprocessing=TEXTS))
    assert len(numbers.head.penalties.value) == 7
    images = plan_for("head", replace(facts, kind="image"))
    assert len(images.head.penalties.value) == 7


@pytest.mark.parametrize("budget", ["fast", "balanced", "thorough"])
@pytest.mark.parametrize(("holdout", "folds"), [(0, 10), (60, 1)])
def test_the_head_is_estimated_by_the_budget(budget, holdout, folds):
    head = plan_for("head", replace(FACTS, holdout=holdout), budget=budget).head
    assert head.outer_folds.value == folds
    assert head.permutations.value == (199 if budget == "fast" else 999)
    assert head.penalties.value == (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def test_more_examples_never_mean_fewer_updates():
    last = 0
    for n in (30, 100, 300, 639, 640, 1600, 5000):
        plan = plan_for("full", many(n))
        assert plan.samples_seen >= last
        last = plan.samples_seen
