"""Plans for a network of one's own: what is frozen, how fast the rest moves, and freezing it."""

from __future__ import annotations

import pytest
import torch
import torchvision.models
from torch import nn

import warmstart
from warmstart.errors import PlanError

IMAGE = torch.zeros(1, 3, 32, 32)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def rates(plan):
    return {block.name: block.lr and block.lr.value for block in plan.blocks}


def actions(plan):
    return [block.action.value for block in plan.blocks]


def test_head_freezes_all_and_trains_the_output_at_three_times_the_rate():
    plan = warmstart.plan(torchvision.models.resnet18(), inputs=IMAGE)
    assert actions(plan) == ["frozen"] * 9 + ["tuned"]
    assert plan.training.lr.value == 1e-3
    assert rates(plan)["output"] == 3e-3
    assert plan.is_trained
    assert (plan.input.size.value, plan.input.channels.value) == (32, 3)


def test_rates_fall_towards_the_input():
    plan = warmstart.plan(torchvision.models.resnet18(), "frozen:7", inputs=IMAGE, lr=0.01)
    assert actions(plan) == ["frozen"] * 7 + ["tuned"] * 3
    decay = plan.training.layer_decay.value
    assert rates(plan)["layer4.1"] == 0.01
    assert rates(plan)["layer4.0"] == pytest.approx(0.01 * decay, rel=1e-3)
    assert rates(plan)["output"] == 0.1
    assert (plan.training.lr.source, plan.training.lr.rule) == ("user", 1e-3)
    assert rates(warmstart.plan(mlp(), lr=0.02))["output"] == 0.02  # trained alone: its own rate


def test_every_strategy_of_the_grammar_that_needs_no_surgery():
    words = {"head": 0, "last:1": 1, "frozen:1": 1, "full": 2, "last:0": 0}
    for word, count in words.items():
        plan = warmstart.plan(mlp(), word)
        assert actions(plan) == ["frozen"] * (2 - count) + ["tuned"] * (count + 1)
        assert str(plan.strategy.value) in ("head", "last:1", "frozen:1", "full")


def test_sgd_has_rates_of_its_own_and_the_number_of_examples_sets_the_length():
    plan = warmstart.plan(mlp(), "full", optimizer="sgd")
    assert plan.training.optimizer.value == "sgd"
    assert plan.training.lr.value == 1e-2
    assert plan.training.weight_decay.value == 1e-4

    assert warmstart.plan(mlp()).training.epochs.value == 10
    assert warmstart.plan(mlp(), n=600).training.epochs.value == 10
    assert warmstart.plan(mlp(), n=50).training.epochs.value == 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "auto"}, "needs the measurements of warmstart.fit"),
        ({"strategy": "scratch"}, "changes the network itself"),
        ({"strategy": "last:1+lora"}, "changes the network itself"),
        ({"strategy": "last:3"}, "Sequential has 2 blocks"),
        ({"strategy": "heads"}, "did you mean head"),
        ({"lr": 0.0}, "lr=0.0 is not a number above 0"),
        ({"lr": float("nan")}, "lr=nan is not a number above 0"),
        ({"optimizer": "lion"}, "'lion' is not known; it is adamw or sgd"),
        ({"classes": 3}, "gives 2 numbers and there are 3 classes"),
    ],
)
def test_what_cannot_be_followed_is_said(options, says):
    with pytest.raises(PlanError, match=says):
        warmstart.plan(mlp(), **options)
    assert warmstart.plan(mlp(), classes=2)


def test_a_network_without_an_output_layer_needs_a_depth():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3)
    with pytest.raises(PlanError, match="no output layer of its own"):
        warmstart.plan(net)
    assert actions(warmstart.plan(net, "last:1")) == ["frozen", "frozen", "tuned", "tuned"]


# ---- freezing for an optimizer of one's own ----


def small():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def test_groups_hold_what_moves_at_the_rates_of_the_plan():
    net = small()
    plan = warmstart.plan(net, "last:1", lr=0.01)
    with warmstart.freeze(net, plan) as frozen:
        groups = frozen.groups()
    moving = [parameter for group in groups for parameter in group["params"]]
    expected = [net[3].weight, net[3].bias, net[5].weight, net[5].bias]
    assert set(map(id, moving)) == set(map(id, expected))
    assert len(moving) == len(expected)
    assert {(g["block"], g["lr"]) for g in groups} == {("3", 0.01), ("output", 0.1)}


def test_gradients_that_are_left_from_before_are_dropped():
    net = small()
    net(torch.randn(6, 4)).sum().backward()
    with warmstart.freeze(net, warmstart.plan(net)):
        assert net[0].weight.grad is None
