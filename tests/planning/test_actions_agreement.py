"""The word of a plan's strategy follows its blocks; what cannot be trained is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import FACTS, PREPROCESSING, a_choice, network, network_facts, plan_for, refusal
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.settings import apply_settings
from warmstart.planning.strategy import (
    check_agreement,
    parse,
    reconcile_strategy,
    strategy_of,
    word_of,
)

FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)
WORDS = (
    "head",
    "last:1",
    "last:2",
    "frozen:1",
    "frozen:4",
    "full",
    "scratch",
    "add",
    "last:2+add",
    "full+lora",
    "last:2+lora+add",
    "last:2+gradual",
    "full+gradual",
    "auto",
)


def after(strategy, *settings):
    return reconcile_strategy(apply_settings(plan_for(strategy), settings), FACTS_OF_BASE)


@pytest.mark.parametrize("strategy", WORDS)
def test_a_plan_as_it_was_built_keeps_its_word(strategy):
    plan = plan_for(strategy)
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan
    check_agreement(plan)


@pytest.mark.parametrize("strategy", ["last:2", "last:4", "full+lora", "full+add", "scratch"])
def test_blocks_at_random_values_or_without_low_rank_layers_are_no_other_strategy(strategy):
    facts = network_facts(
        preprocessing=PREPROCESSING,
        fresh=frozenset({"blocks.1"}),
        partly_fresh=frozenset({"stem"}),
        no_lora=frozenset({"blocks.0"}),
    )
    plan = plan_for(strategy, network=facts)
    assert reconcile_strategy(plan, facts) == plan


@pytest.mark.parametrize(
    ("strategy", "settings", "word"),
    [
        ("last:1", ("block.3.action=tuned",), "last:2"),
        ("full", ("block.1.action=frozen",), "last:3"),
        ("last:1+add", ("block.4.action=frozen",), "head+add"),
        ("last:1+lora", ("block.4.action=tuned",), "last:1"),
        ("last:1", ("block.4.action=low-rank", "training.lora_rank=4"), "last:1+lora"),
        ("full+gradual", ("block.1.action=frozen",), "last:3+gradual"),
        ("full", tuple(f"block.{n}.action=fresh" for n in range(1, 5)), "scratch"),
    ],
)
def test_a_word_that_describes_the_blocks_is_their_strategy(strategy, settings, word):
    plan, before = after(strategy, *settings), plan_for(strategy)
    assert (plan.strategy.value, plan.strategy.source) == (word, "user")
    assert plan.strategy.rule == before.strategy.rule
    assert str(before.strategy.value) in plan.strategy.because
    assert replace(plan, strategy=before.strategy) == apply_settings(before, settings)
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan
    check_plan(plan_cache(plan, FACTS_OF_BASE, FACTS), network())


def test_a_mixture_keeps_the_word_and_its_reason_says_so():
    plan = after("full", "block.3.action=frozen")
    assert plan.strategy.value == "full"
    assert plan.strategy.because == "your choice, with single blocks set otherwise"
    assert reconcile_strategy(plan, FACTS_OF_BASE) == plan


def test_the_rules_word_stays_beside_the_new_one():
    found = replace(plan_for("last:2"), strategy=a_choice("head"))
    plan = reconcile_strategy(found, FACTS_OF_BASE)
    assert (plan.strategy.value, plan.strategy.rule) == ("last:2", "head")


@pytest.mark.parametrize("strategy", ["last:9", "frozen:4+lora"])
def test_a_word_that_the_network_is_too_short_for_is_replaced(strategy):
    plan = replace(plan_for("last:2"), strategy=a_choice(strategy))
    assert reconcile_strategy(plan, FACTS_OF_BASE).strategy.value == "last:2"


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (
            after("scratch", "block.1.action=frozen"),
            "strategy scratch and block stem frozen, and in",
        ),
        (
            replace(plan_for("head"), strategy=a_choice("last:2")),
            "write strategy head, or set blocks",
        ),
        (
            after("full+gradual", *(f"block.{n}.action=frozen" for n in (1, 2, 3))),
            "'last:1' in last",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(plan, says):
    plan = reconcile_strategy(plan, FACTS_OF_BASE)
    found = refusal(check_agreement, plan)
    if says.startswith("'"):  # a single block is fine-tuned without gradual
        assert (found, plan.strategy.value) == (None, "last:1")
    else:
        assert says in found


@given(
    strategy=st.sampled_from(WORDS),
    places=st.dictionaries(
        st.integers(1, 4), st.sampled_from(["frozen", "tuned", "low-rank", "fresh"])
    ),
)
def test_a_plan_that_passes_has_the_word_of_its_blocks_or_a_mixture(strategy, places):
    settings = [f"block.{place}.action={action}" for place, action in places.items()]
    base = plan_for(strategy)
    if not base.is_trained or refusal(apply_settings, base, settings):
        return
    plan = reconcile_strategy(apply_settings(base, settings), FACTS_OF_BASE)
    if refusal(check_agreement, plan):
        return
    found = word_of([block.action.value for block in plan.blocks])
    named = strategy_of(plan)
    if found is None:
        assert named == parse(str(base.strategy.value))
        assert plan.strategy.because.endswith(", with single blocks set otherwise")
    else:
        assert (named.depth == "scratch") == (found.depth == "scratch")
        assert named.extras - {"gradual"} == found.extras
