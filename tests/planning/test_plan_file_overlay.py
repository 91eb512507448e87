"""A plan from a file with options typed beside it: what was typed wins, all else stays."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import (
    ENGINE,
    FACTS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    actions,
    network,
    network_facts,
    plan_for,
    plan_options,
    rates,
)
from warmstart.errors import PlanError
from warmstart.planning.build import build
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.machine import Machine
from warmstart.planning.plan_file import options_for, overlay, read_plan, write_plan
from warmstart.planning.settings import apply_settings

FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)
FILES = {
    "head": plan_for("head", budget="fast", seed=5),
    "last:2": apply_settings(
        plan_for("last:2", budget="fast", seed=5), ["training.epochs=23.3333", "block.top.lr=0.5"]
    ),
    "lora": plan_for("lora", budget="fast", seed=5),
    "scratch": plan_for("scratch", budget="fast", seed=5),
}


def laid(file, wishes):
    """The whole way: wishes for the file, a plan built, the file's laid over it."""
    built = build(options_for(file, wishes), FACTS, FACTS_OF_BASE, PROFILES, ENGINE)
    return plan_cache(overlay(built, file, wishes.explicit), FACTS_OF_BASE, FACTS)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_with_nothing_typed_the_file_is_followed_to_the_letter(file):
    assert laid(file, plan_options()) == file
    assert laid(read_plan(write_plan(file)), plan_options()) == file


@given(
    file=st.sampled_from(list(FILES.values())),
    strategy=st.sampled_from(["auto", "head", "last:1", "full+lora", "scratch", "add"]),
    budget=st.sampled_from(["fast", "balanced", "thorough"]),
    lr=st.none() | st.floats(1e-6, 1),
    explicit=st.sets(st.sampled_from(["base", "budget", "seed"])),
)
def test_whatever_is_typed_the_plan_is_sound_or_refused(file, strategy, budget, lr, explicit):
    wishes = plan_options(strategy, budget, seed=9, lr=lr, explicit=explicit)
    is_still = not file.is_trained if strategy == "auto" else strategy == "head"
    if lr is not None and is_still:
        with pytest.raises(PlanError, match="nothing is trained step by step"):
            laid(file, wishes)
        return
    plan = laid(file, wishes)
    check_plan(plan, network())
    assert plan.training.seed.value == (9 if "seed" in explicit else 5)
    if strategy != "auto":
        assert plan.strategy.value == ("head+add" if strategy == "add" else strategy)
    else:
        assert (plan.strategy, actions(plan)) == (file.strategy, actions(file))


def test_a_typed_device_sets_what_follows_from_it():
    gpu = Machine(device="cuda", has_bfloat16=True, threads=16, is_explicit=True)
    file = plan_for("last:2", seed=5, machine=gpu)
    assert file.training.precision.value == "bfloat16"
    assert laid(file, plan_options()) == file
    plan = laid(file, plan_options(machine=Machine(is_explicit=True), explicit={"device"}))
    found, expected = plan.training, plan_for("last:2").training
    assert (found.device.value, found.device.source) == ("cpu", "user")
    for name in ("precision", "workers", "compile"):
        assert getattr(found, name) == getattr(expected, name)
    assert plan.blocks == file.blocks
    assert (
        laid(FILES["head"], plan_options(machine=gpu, explicit={"device"})).training.device is None
    )


def test_a_typed_strategy_sets_blocks_and_learning_rates_and_leaves_the_rest():
    file = FILES["last:2"]
    plan = laid(file, plan_options("full"))
    fresh = plan_for("full")
    assert (plan.blocks, plan.strategy) == (fresh.blocks, fresh.strategy)
    assert plan.training.epochs == file.training.epochs
    assert plan.head == file.head
    low = laid(file, plan_options("full+lora"))
    assert low.training.lora_rank.value == 8
    assert laid(FILES["lora"], plan_options("full")).training.lora_rank is None


def test_a_typed_budget_sets_the_model_soup_and_the_epochs_of_its_trainings():
    thorough = plan_options(budget="thorough", explicit={"budget"})
    plan = laid(plan_for("last:2"), thorough)
    found, expected = plan.training, plan_for("last:2", budget="thorough").training
    for name in ("folds", "model_soup", "epochs", "ema_decay"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.model_soup.value == 3
    once = replace(expected, model_soup=None, epochs=replace(expected.epochs, value=20.0))
    older = replace(plan_for("last:2"), training=once)  # of a version with twenty epochs
    assert laid(older, thorough).training.epochs == expected.epochs
    mine = apply_settings(plan_for("last:2"), ["training.epochs=2.3333"])
    assert laid(mine, thorough).samples_seen == 700
    assert (
        laid(
            plan_for("last:2", budget="thorough"), plan_options(explicit={"budget"})
        ).training.model_soup
        is None
    )


@pytest.mark.parametrize("strategy", ["full+gradual", "full+lora", "scratch", "last:2+add"])
def test_where_no_model_soup_is_possible_there_is_one_training(strategy):
    plan = laid(plan_for(strategy), plan_options(budget="thorough", explicit={"budget"}))
    assert plan.training.model_soup is None
    assert plan.training.epochs == plan_for(strategy).training.epochs
    check_plan(plan, network())


def test_a_typed_strategy_keeps_the_model_soup_where_one_is_possible():
    file = plan_for("last:2", budget="thorough")
    assert laid(file, plan_options("full")).training.model_soup == file.training.model_soup
    assert laid(file, plan_options("full+gradual")).training.model_soup is None


def test_from_a_head_to_training_and_back():
    plan = laid(FILES["head"], plan_options("full"))
    assert plan.training == replace(plan_for("full").training, seed=FILES["head"].training.seed)
    back = laid(FILES["last:2"], plan_options("head"))
    assert not back.is_trained
    assert back.training.epochs is None
    assert back.training.batch_size.value == 32


def test_a_typed_learning_rate_changes_every_block_that_was_not_set_by_itself():
    plan = laid(FILES["last:2"], plan_options(lr=0.01))
    assert rates(plan) == {"blocks.1": 0.0075, "top": 0.5, "output": 0.01}
    assert (plan.training.lr.source, plan.training.lr.rule) == ("user", 0.001)
    assert plan.samples_seen == 7000
    assert rates(laid(FILES["lora"], plan_options(lr=0.0002)))["top"] == 0.002
    new = laid(FILES["scratch"], plan_options(lr=0.01))
    assert set(rates(new).values()) == {0.01}
    assert new.training.lr.rule == 0.001
    edited = replace(FILES["last:2"], strategy=a_choice("head"))
    assert rates(laid(edited, plan_options(lr=0.01)))["blocks.1"] == 0.0075


def test_a_typed_budget_changes_heads_permutations_and_folds():
    file = FILES["last:2"]
    plan = laid(file, plan_options(budget="thorough", explicit={"budget"}))
    expected = plan_for("last:2", budget="thorough")
    assert plan.head.candidates == expected.head.candidates != file.head.candidates
    assert plan.head.permutations.value == 999
    assert plan.head.penalties == file.head.penalties
    assert (plan.training.folds.value, file.training.folds.value) == (5, 1)
    assert plan.blocks == file.blocks
    assert (
        laid(FILES["head"], plan_options(budget="thorough", explicit={"budget"})).training.folds
        is None
    )


def test_another_base_model_brings_its_architecture_and_its_input():
    file = replace(FILES["last:2"], arch=a_choice("timm:old"), partial=a_choice(True))
    plan = laid(file, plan_options(base="mine.pt", arch="timm:new", explicit={"base"}))
    assert (plan.base.value, plan.arch.value, plan.partial) == ("mine.pt", "timm:new", None)
    assert plan.input == plan_for().input
    bare = laid(file, plan_options(base="lite1", explicit={"base"}))
    assert (bare.base.value, bare.arch) == ("lite1", None)
    assert laid(file, plan_options(arch="timm:new")).base == file.base


def test_a_learning_rate_is_refused_by_a_plan_that_trains_nothing():
    with pytest.raises(PlanError, match="--lr: nothing is trained step by step in this plan; add"):
        overlay(plan_for("full", lr=0.1), FILES["head"], frozenset({"lr"}))
    with pytest.raises(PlanError, match=r"--lr 0\.1: nothing is trained step by step"):
        laid(FILES["head"], plan_options(lr=0.1))


def test_a_file_for_a_longer_network_is_not_taken_for_a_typed_strategy():
    long = plan_for("last:9", network=network_facts([f"p{n}" for n in range(12)]))
    plan = laid(long, plan_options())
    with pytest.raises(
        PlanError, match="made for another network: it has block p0, lite0 has stem"
    ):
        check_plan(plan, network())
