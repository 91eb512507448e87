"""Freezing for somebody else's optimizer: what it gets, and at which rates."""

from __future__ import annotations

import torch
from torch import nn

import warmstart


def network():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def test_groups_hold_what_moves_at_the_rates_of_the_plan():
    net = network()
    plan = warmstart.plan(net, "last:1", lr=0.01)
    with warmstart.freeze(net, plan) as frozen:
        groups = frozen.groups()
    moving = [parameter for group in groups for parameter in group["params"]]
    expected = [net[3].weight, net[3].bias, net[5].weight, net[5].bias]
    assert set(map(id, moving)) == set(map(id, expected))
    assert len(moving) == len(expected)
    assert {(g["block"], g["lr"]) for g in groups} == {("3", 0.01), ("output", 0.1)}


def test_an_optimizer_with_decay_leaves_the_rest_alone():
    net = network()
    frozen = warmstart.freeze(net, warmstart.plan(net, "last:1"))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)  # all of it
    before = [tensor.clone() for tensor in (net[0].weight, net[1].running_mean, net[1].weight)]
    for _ in range(3):
        net.train()
        net(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
    after = [net[0].weight, net[1].running_mean, net[1].weight]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    frozen.remove()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_gradients_that_are_left_from_before_are_dropped():
    net = network()
    net(torch.randn(6, 4)).sum().backward()
    with warmstart.freeze(net, warmstart.plan(net)):
        assert net[0].weight.grad is None
