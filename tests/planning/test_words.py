"""A plan in words: every block is listed once, with its action."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from plans import a_choice, actions, network_facts, plan_for, rates, with_block
from warmstart.planning.plan_file import describe_failure, in_words, runs, user_choices
from warmstart.planning.settings import apply_settings

NAMES = tuple(f"p{i}" for i in range(18))
WORDS = (
    "head",
    "last:1",
    "last:4",
    "frozen:3",
    "full",
    "full+gradual",
    "head+add",
    "last:4+add",
    "full+lora",
    "last:2+lora",
    "scratch",
)


def plan(strategy, names=NAMES, **wishes):
    return plan_for(strategy, network=network_facts(names), **wishes)


@pytest.mark.parametrize("strategy", WORDS)
@pytest.mark.parametrize("n_blocks", [4, 18])
def test_every_block_is_listed_once_with_its_action_and_learning_rates(strategy, n_blocks):
    made = plan(strategy, NAMES[:n_blocks])
    found = [*runs(made)]
    listed = [name for run in found for name in run.names]
    assert listed == [block.name for block in made.blocks if block.name != "output"]
    assert [(run.first, run.last) for run in found] == [
        (listed.index(run.names[0]) + 1, listed.index(run.names[-1]) + 1) for run in found
    ]
    for run in found:
        assert {actions(made)[name] for name in run.names} == {run.action}
        moving = [rates(made)[name] for name in run.names if name in rates(made)]
        assert (run.low, run.high) == ((min(moving), max(moving)) if moving else (None, None))
        assert (run.rates == "") == (run.action == "frozen")
    assert all(a.action != b.action for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        ("head", "Layers 1–18 frozen"),
        ("last:4", "Layers 1–14 frozen · 15–18 fine-tuned at 0.000562 to 0.001"),
        ("last:1", "Layers 1–17 frozen · 18 fine-tuned at 0.001"),
        ("scratch", "Layers 1–18 randomly initialised at 0.001"),
        ("head+add", "Layers 1–18 frozen · 1 layer block added at 0.003"),
    ],
)
def test_one_line_names_what_is_frozen_and_what_moves(strategy, text):
    assert in_words(plan(strategy)) == text


def test_low_rank_updates_are_called_so():
    text = in_words(plan("full+lora", NAMES[:2], lr=0.01))
    assert text == "Layers 1–2 low-rank updates at 0.0075 to 0.01"


def test_a_network_of_one_block_is_called_the_network():
    one = NAMES[:1]
    assert in_words(plan("head", one)) == "The network frozen"
    assert in_words(plan("full", one)) == "The network fine-tuned at 0.001"


def test_neighbours_are_separated_by_their_action():
    made = plan("full", NAMES[:5], lr=0.01)
    made = with_block(made, 2, action=a_choice("frozen"), lr=None)
    assert [(run.layers, run.action) for run in runs(made)] == [
        ("1–2", "tuned"),
        ("3", "frozen"),
        ("4–5", "tuned"),
    ]
    assert in_words(made).startswith("Layers 1–2 fine-tuned at ")
    assert " · 3 frozen · 4–5 fine-tuned at 0.0075 to 0.01" in in_words(made)


def test_every_block_that_is_added_is_counted():
    made = plan("head+add", NAMES[:2])
    (block,) = [block for block in made.blocks if block.name == "added"]
    two = (*made.blocks[:3], replace(block, name="added#2"), made.blocks[-1])
    assert in_words(replace(made, blocks=two)) == (
        "Layers 1–2 frozen · 2 layer blocks added at 0.003"
    )


@pytest.mark.parametrize("strategy", WORDS)
def test_the_line_is_plain_and_short(strategy):
    text = in_words(plan(strategy))
    assert "\n" not in text
    assert len(text) < 90
    assert "  " not in text


# ---- what the user set -------------------------------------------------------------------


def test_a_plan_of_the_rules_has_no_user_choice():
    assert [*user_choices(plan("auto"))] == []


def test_every_user_choice_is_listed_with_the_value_of_the_rule():
    made = plan("last:2", NAMES[:4], lr=0.002, seed=3, explicit={"seed"})
    made = apply_settings(
        made,
        ["training.epochs=3", "block.p3.lr=0.5", "block.p0.action=tuned", "head.penalties=0.1,1"],
    )
    found = dict(line.split(" = ", 1) for line in user_choices(made))
    assert found == {
        "strategy": "last:2; the rule: head",
        "training.lr": "0.002; the rule: 0.001",
        "training.seed": "3; the rule: 0",
        "training.epochs": "3; the rule: 10",
        "head.penalties": "0.1, 1; the rule: 0.01, 0.03, 0.1, 0.3, 1, 3, 10",
        "block.p3.lr": "0.5; the rule: 0.002",
        "block.p0.action": "tuned; the rule: frozen",
    }


@pytest.mark.parametrize("strategy", WORDS)
def test_no_choice_of_the_rules_is_listed_as_the_users(strategy):
    made = plan(strategy)
    assert [line.partition(" = ")[0] for line in user_choices(made)] == ["strategy"]


@pytest.mark.parametrize(
    ("lr", "kind", "scales", "says"),
    [
        (
            10.0,
            "diverged",
            (1.0, 1 / 3, 1 / 9),
            "training diverged at learning rates 10, 3.33 and 1.11; the rule's is 0.001",
        ),
        (
            1e-9,
            "stuck",
            (1.0,),
            "training made no progress at learning rate 1e-09; the rule's is 0.001",
        ),
        (
            None,
            "stuck",
            (1 / 3, 1 / 9),
            "training made no progress at learning rates 0.000333 and 0.000111",
        ),
    ],
)
def test_a_training_that_was_given_up_is_described_with_its_learning_rates(lr, kind, scales, says):
    assert describe_failure(plan_for("full", lr=lr), kind, scales) == says
