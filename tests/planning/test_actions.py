"""What happens to each block, strategy by strategy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import NAMES, actions, network_facts, plan_for, rates
from warmstart.errors import PlanError
from warmstart.planning.learning_rates import LearningRateSpread
from warmstart.planning.strategy import (
    HEAD,
    added_name,
    blocks,
    body_actions,
    parse,
    resolve,
    rule_strategy,
    word,
)

TABLE = {
    "head": "frozen frozen frozen frozen replaced",
    "frozen:4": "frozen frozen frozen frozen replaced",
    "last:1": "frozen frozen frozen tuned replaced",
    "frozen:1": "frozen tuned tuned tuned replaced",
    "full": "tuned tuned tuned tuned replaced",
    "last:2+add": "frozen frozen tuned tuned added replaced",
    "add": "frozen frozen frozen frozen added replaced",
    "last:2+lora": "frozen frozen low-rank low-rank replaced",
    "gradual": "tuned tuned tuned tuned replaced",
    "scratch": "fresh fresh fresh fresh replaced",
    "auto+gradual": "frozen frozen tuned tuned replaced",
}


@pytest.mark.parametrize(("strategy", "expected"), TABLE.items())
def test_each_strategy_is_one_action_a_block(strategy, expected):
    plan = plan_for(strategy)
    assert [block.action.value for block in plan.blocks] == expected.split()
    assert plan.blocks[-1].name == "output"
    assert tuple(block.name for block in plan.blocks[:4]) == NAMES


def test_a_linear_probe_has_no_learning_rate_and_every_other_head_has_one():
    assert rates(plan_for("head")) == {}
    for strategy in TABLE.keys() - {"head", "frozen:4"}:
        assert "output" in rates(plan_for(strategy))


@given(count=st.integers(0, 4), extra=st.sampled_from(["", "+add", "+lora", "+gradual"]))
def test_frozen_blocks_and_only_they_have_no_learning_rate(count, extra):
    if count < {"+lora": 1, "+gradual": 2}.get(extra, 0):
        return
    strategy = resolve(parse(f"last:{count}{extra}"), None, 4)
    spread = None if strategy == HEAD else LearningRateSpread(base=0.001, decay=0.75)
    found = blocks(strategy, network_facts(), spread)
    for block in found:
        is_still = block.action.value == "frozen" or strategy == HEAD
        assert (block.lr is None) == is_still


def test_a_choice_of_the_user_says_what_the_rule_would_have_done():
    typed = plan_for("last:2")
    marks = [(p.action.value, p.action.source, p.action.rule) for p in typed.blocks]
    assert marks == [
        ("frozen", "user", "frozen"),
        ("frozen", "user", "frozen"),
        ("tuned", "user", "frozen"),
        ("tuned", "user", "frozen"),
        ("replaced", "rule", None),
    ]
    assert "last:2" in typed.blocks[2].action.because
    shallow = plan_for("head", network=network_facts(verdict="fine-tune"))
    assert [p.action.rule for p in shallow.blocks] == ["frozen", "frozen", "tuned", "tuned", None]
    for block in plan_for("auto", network=network_facts(verdict="fine-tune")).blocks:
        assert (block.action.source, block.action.rule) == ("rule", None)


def test_the_reason_of_gradual_explains_how_blocks_are_unfrozen():
    for block in plan_for("last:2+gradual").blocks[2:4]:
        assert "unfrozen from the top while validation improves" in block.action.because


def test_reasons_count_layers():
    assert "only the last of 4 layers is fine-tuned" in plan_for("last:1").blocks[0].action.because
    assert (
        "only the last 2 of 4 layers are fine-tuned" in plan_for("last:2").blocks[0].action.because
    )
    assert "all layers" in plan_for("full").blocks[0].action.because
    assert (
        "only the added layers and the head are trained" in plan_for("add").blocks[0].action.because
    )


def test_added_layers_have_a_name_of_their_own():
    names = ("stem", "added", "added#2")
    assert added_name(names) == "added#3"
    plan = plan_for("last:1+add", network=network_facts(names))
    assert list(actions(plan)) == [*names, "added#3", "output"]


@pytest.mark.parametrize("strategy", ["last:1", "full", "full+lora", "add", "scratch", "auto"])
def test_blocks_that_did_not_carry_over_are_fresh_whatever_the_strategy(strategy):
    plan = plan_for(strategy, network=network_facts(fresh=frozenset({"blocks.0"})))
    block = plan.blocks[1]
    assert (block.action.value, block.action.source) == ("fresh", "rule")
    assert "did not carry over" in block.action.because
    times = 1 if strategy == "scratch" else 3
    assert block.lr.value == pytest.approx(times * plan.training.lr.value)


def test_a_block_frozen_at_random_values_is_refused_with_the_strategy_that_trains_it():
    facts = network_facts(fresh=frozenset({"top", "blocks.1"}))
    says = "head: block blocks.1 would be frozen at random values.*use --strategy last:2"
    with pytest.raises(PlanError, match=says):
        plan_for("head", network=facts)
    assert actions(plan_for("last:2", network=facts))["blocks.1"] == "fresh"


def test_auto_goes_down_to_what_did_not_carry_over():
    plan = plan_for(
        "auto", network=network_facts(fresh=frozenset({"blocks.0"}), verdict="fine-tune")
    )
    assert plan.strategy.value == "last:3"
    assert "did not carry over" in plan.strategy.because
    assert word(rule_strategy("fine-tune", NAMES, frozenset())) == "last:2"
    assert word(rule_strategy("fine-tune", NAMES, frozenset({"top"}))) == "last:2"


@pytest.mark.parametrize(
    ("strategy", "action", "source"),
    [
        ("last:1", "tuned", "rule"),
        ("full", "tuned", "user"),
        ("last:3+lora", "tuned", "rule"),
        ("scratch", "fresh", "user"),
        ("add", "tuned", "rule"),
        ("auto", "tuned", "rule"),
    ],
)
def test_blocks_that_carried_over_partly_are_fine_tuned_and_not_thrown_away(
    strategy, action, source
):
    facts = network_facts(partly_fresh=frozenset({"blocks.0"}))
    block = plan_for(strategy, network=facts).blocks[1]
    assert (block.action.value, block.action.source) == (action, source)
    raised = strategy in ("last:1", "last:3+lora", "add")
    assert block.action.because.startswith("holds weights that did not carry over: ") == raised
    assert block.lr is not None


def test_a_block_that_carried_over_partly_is_not_frozen_by_head_and_auto_goes_down_to_it():
    facts = network_facts(partly_fresh=frozenset({"blocks.1"}), fresh=frozenset({"top"}))
    with pytest.raises(PlanError, match=r"block blocks.1 would be frozen .*use --strategy last:2"):
        plan_for("head", network=facts)
    plan = plan_for("auto", network=facts)
    assert plan.strategy.value == "last:2"
    assert actions(plan) == dict(
        zip((*NAMES, "output"), ("frozen", "frozen", "tuned", "fresh", "replaced"), strict=True)
    )


def test_body_actions_are_those_of_the_blocks():
    assert body_actions(parse("frozen:1+lora"), "abc") == ["frozen", "low-rank", "low-rank"]
