"""Law 5: blocks are bit-identical, parameters and buffers, for as long as they are frozen.

Low-rank blocks: before merging. Over networks of many kinds and all strategies, with weight
decay and `train()` called between the steps; then over random networks and random actions,
for which laws 1 and 2 must hold as well.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, cut_once, each, inputs_for, model_of, n_numbers, opened, pixels
from torch import nn
from torch.nn.functional import cross_entropy

from warmstart.errors import PlanError
from warmstart.network import freeze, lora, surgery
from warmstart.network.ledger import (
    prove_frozen,
    take_digests,
    tensors_of,
    violations,
    write_ledger,
)
from warmstart.network.partition import cut
from warmstart.records.network import Ledger

BATCH = 4
LABELS = torch.tensor([0, 1, 2, 1])
STRATEGIES = ("head", "last:1", "frozen:2", "full", "gradual", "add", "lora", "scratch")
NAMES = (*KINDS, "rows", "signals", "tokens", "bert", "distilbert", "wavlm", "vit")


@functools.cache
def cut_to_learn(name):
    """A cut network none of whose norms has the scale zero, behind which nothing could learn."""
    module, inputs = opened(name)
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        if parameter.ndim == 1 and not parameter.any():
            nn.init.constant_(parameter, 0.5)
    return cut(module, inputs)


def stages_of(names, strategy):
    """One action a block, from the input to the output; `gradual` has two such stages."""
    depth = {"head": 0, "add": 0, "last:1": 1, "lora": 1, "frozen:2": max(0, len(names) - 2)}
    word = {"lora": "low-rank", "scratch": "fresh"}.get(strategy, "tuned")
    depths = [depth.get(strategy, len(names))]
    if strategy == "gradual":
        depths = [len(names) - len(names) // 2, len(names)]
    stages = []
    for n_tuned in depths:
        actions = dict.fromkeys(names, "frozen")
        actions |= dict.fromkeys(names[len(names) - n_tuned :], word)
        if strategy in ("full", "scratch"):
            actions["neck"] = word
        stages.append({**actions, **({"added": "added"} if strategy == "add" else {})})
    return [{**actions, "output": "replaced"} for actions in stages]


def trainable(network, actions):
    """A copy of a network with what the actions add, and a model with a random head on it."""
    clone, rng = copy.deepcopy(network), torch.Generator().manual_seed(0)
    if n_added := [*actions.values()].count("added"):
        last = clone.record.blocks[-1]
        clone = surgery.graft(clone, [surgery.make_block(last, rng) for _ in range(n_added)])
    if renewed := [name for name, action in actions.items() if action == "fresh"]:
        surgery.refresh(clone, renewed, rng)
    model = model_of(clone)
    if adapted := [name for name, action in actions.items() if action == "low-rank"]:
        lora.inject(clone, adapted, 2, rng)
    return clone, model


def train(model, inputs, actions, owners, n_steps=3):
    """A few steps of AdamW over everything that moves, with `train()` called between them."""
    groups = freeze.groups(model, actions, owners, dict.fromkeys(actions, 1e-3))
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    with freeze.FrozenBlocks(model, actions, owners), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for _ in range(n_steps):
            model.train()
            loss = cross_entropy(model(inputs.clone()), LABELS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert bool(loss.isfinite())


def copied(network):
    return {name: tensor.clone() for name, tensor in tensors_of(network).items()}


def moved(before, network):
    now = tensors_of(network)
    return {n for n, t in now.items() if n not in before or not torch.equal(before[n], t)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@each(NAMES)
def test_frozen_blocks_stay_bit_identical(name, strategy):
    network = cut_to_learn(name)
    is_bare = network.blocks[-1].name in lora.bare_blocks(network)
    if (strategy == "lora" and is_bare) or (strategy == "add" and name == "signals"):
        pytest.skip("its last block takes none")
    stages = stages_of([block.name for block in network.blocks], strategy)
    clone, model = trainable(network, stages[0])
    base, head = copied(clone), model.head.weight.detach().clone()
    for actions in stages:
        before = copied(clone)
        train(model, inputs_for(name, BATCH), actions, clone.owners)
        behaviours = {n: freeze.behaviour_of(actions, clone.owners[n]).name for n in before}
        assert not {n for n in moved(before, clone) if behaviours[n] in ("frozen", "low-rank")}
    assert not torch.equal(head, model.head.weight)
    learns = {clone.owners[n] for n, t in tensors_of(clone).items() if isinstance(t, nn.Parameter)}
    trained = {n for n in learns if stages[-1].get(n) in ("tuned", "fresh", "added")}
    assert {clone.owners[n] for n in moved(base, clone)} >= trained
    if strategy == "lora":
        lora.merge(model)
        assert {clone.owners[n] for n in moved(base, clone)} == {clone.blocks[-1].name}


def test_the_tests_see_a_statistic_that_moves():
    """Without `FrozenBlocks` the same training breaks the law: the check can fail."""
    network = copy.deepcopy(cut_once("resnet18")[1])
    before = take_digests(network)
    (actions,) = stages_of([block.name for block in network.blocks], "head")
    freeze.apply(network.backbone, actions, network.owners)
    network.backbone.train()
    network.features(inputs_for("resnet18"))
    statistics = {n for n, t in tensors_of(network).items() if not isinstance(t, nn.Parameter)}
    assert set(violations(before, network, actions)) == statistics


# ---- random networks, random actions ---------------------------------------------------------


@st.composite
def random_networks(draw):
    """A small network of Conv, BatchNorm, Linear and LayerNorm blocks, with dropout between."""
    groups, width = [], 3
    for _ in range(draw(st.integers(1, 3))):
        to = draw(st.sampled_from((4, 8)))
        grouped = draw(st.booleans()) and width == to
        block = [nn.Conv2d(width, to, 3, padding=1, groups=to if grouped else 1)]
        block += draw(st.lists(st.sampled_from((nn.ReLU(), nn.Dropout(0.3))), max_size=2))
        if draw(st.booleans()):
            block.insert(1, nn.BatchNorm2d(to, affine=draw(st.booleans())))
        groups.append(nn.Sequential(*block))
        width = to
    groups += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(draw(st.integers(0, 2))):
        norm = draw(st.sampled_from((nn.LayerNorm, nn.BatchNorm1d, nn.Identity)))
        groups.append(nn.Sequential(nn.Linear(width, 6), norm(6), nn.Tanh(), nn.Dropout(0.2)))
        width = 6
    return nn.Sequential(*copy.deepcopy(groups), nn.Linear(width, 5))


FATES = {
    "frozen": {"frozen"},
    "tuned": {"frozen", "trained"},
    "low-rank": {"frozen", "merged"},
    "fresh": {"dropped", "new"},
    "added": {"new"},
    "replaced": {"dropped", "new"},
}


@settings(max_examples=25, derandomize=True)
@given(module=random_networks(), data=st.data())
def test_random_actions_keep_laws_1_2_and_5(module, data):
    network = cut(module.eval(), pixels(8))
    before = take_digests(network)
    words = ("frozen", "tuned", "fresh", "low-rank")
    actions = {block.name: data.draw(st.sampled_from(words)) for block in network.blocks}
    n_added = data.draw(st.integers(0, 2))
    actions |= {f"added#{n}" if n > 1 else "added": "added" for n in range(1, n_added + 1)}
    actions = {**actions, "output": "replaced"}
    inputs = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    try:
        clone, model = trainable(network, actions)
    except PlanError:  # a block of grouped convolutions alone has no layer for low-rank updates
        actions |= {n: "tuned" for n, action in actions.items() if action == "low-rank"}
        clone, model = trainable(network, actions)
    if "fresh" not in actions.values():
        with torch.no_grad():  # step 0 equals the old network
            assert torch.equal(clone.logits(inputs.clone()), network.logits(inputs.clone()))
    train(model, inputs, actions, clone.owners, n_steps=2)
    assert violations(before, clone, actions) == ()  # law 5
    lora.merge(model)
    assert violations(before, clone, actions) == ()
    assert take_digests(network) == before
    model.eval()
    with torch.no_grad():  # law 1
        vector = clone.features(inputs.clone())
        torch.testing.assert_close(model.head([vector]), model(inputs.clone()))
    rows = write_ledger(before, network, model, actions=actions).rows  # law 2
    assert rows == write_ledger(before, clone, model, actions=actions).rows
    assert n_numbers(module) == sum(row.numel for row in rows if row.fate != "new")
    assert n_numbers(model) == sum(row.numel for row in rows if row.fate != "dropped")
    assert len({(row.tensor, row.fate) for row in rows}) == len(rows)
    for row in rows:
        action = {"head": "replaced"}.get(row.block) or freeze.behaviour_of(actions, row.block).name
        assert row.fate in FATES[action], row
    frozen = frozenset(name for name, action in actions.items() if action == "frozen")
    assert prove_frozen(Ledger(rows=rows), frozen).identical
