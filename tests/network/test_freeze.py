"""Freezing: what may move follows from the blocks that own the tensors, whoever calls train()."""

from __future__ import annotations

import contextlib
import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.utils import parametrizations, spectral_norm

from small_networks import noise, prep, rng, seeded, warm
from warmstart.errors import PlanError
from warmstart.network import freeze, lora
from warmstart.network.partition import cut


def _block(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5)
    )


class Three(nn.Module):
    """Three blocks with norms and dropout, dropout between them, and a layer for the output."""

    def __init__(self):
        super().__init__()
        self.early = nn.Dropout(0.5)
        self.a, self.b, self.c = (_block(3) for _ in range(3))
        self.late = nn.Dropout(0.5)
        self.output = nn.Linear(3, 2)

    def forward(self, x):
        x = self.c(self.b(self.a(self.early(x))))
        return self.output(self.late(x.mean((2, 3))))


def _owners(module):
    return {name: name.partition(".")[0] for name in module.state_dict()}


@pytest.fixture
def net():
    return seeded(Three).train()


@pytest.fixture
def x():
    return noise(8, 4)


def with_gradients(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def _below(module, *names):
    return {n for n, _ in module.named_parameters() if n.partition(".")[0] in names}


ACTIONS = {"a": "frozen", "b": "tuned", "c": "fresh", "output": "replaced"}


def unmoved(module, before):
    """Names of tensors that are what they were."""
    return {n for n, value in module.state_dict().items() if torch.equal(before[n], value)}


def test_only_what_is_to_move_has_gradients(net):
    freeze.apply(net, ACTIONS, _owners(net))
    assert with_gradients(net) == _below(net, "b", "c", "output")
    freeze.apply(net, {**ACTIONS, "a": "tuned", "b": "frozen"}, _owners(net))
    assert with_gradients(net) == _below(net, "a", "c", "output")
    all_frozen = dict.fromkeys(ACTIONS, "frozen")
    assert freeze.groups(net, all_frozen, _owners(net), {}) == []


def test_an_optimizer_that_still_holds_what_is_now_frozen_cannot_move_it(net, x):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    net(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy(net.a.state_dict())
    with freeze.FrozenBlocks(net, ACTIONS, _owners(net)):
        net(x).sum().backward()
        optimizer.step()
    assert unmoved(net.a, before) == before.keys()


def test_what_is_tied_to_a_frozen_block_is_frozen():
    net = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "output")})
    net["b"].weight = net["a"].weight
    owners = _owners(net)  # both names have an owner
    for a, b in (("frozen", "tuned"), ("tuned", "frozen"), ("frozen", "fresh")):
        actions = {"a": a, "b": b}
        freeze.apply(net, actions, owners)
        assert not net["a"].weight.requires_grad
        assert net["b"].bias.requires_grad == (b != "frozen")
        assert {net["a"], net["b"]} <= {*freeze.eval_modules(net, actions, owners)}
    freeze.apply(net, {"a": "tuned", "b": "tuned"}, owners)
    assert net["a"].weight.requires_grad
    del owners["b.weight"]  # named once: it goes with that name
    freeze.apply(net, {"a": "tuned", "b": "frozen"}, owners)
    assert net["b"].weight.requires_grad


# ---- groups ----------------------------------------------------------------------------------
def test_groups_hold_each_moving_parameter_once_at_the_rate_of_its_block(net):
    owners, rates = _owners(net), {"b": 0.1, "c": 0.2, "output": 0.3}
    groups = freeze.groups(net, ACTIONS, owners, rates)
    names = {id(p): name for name, p in net.named_parameters()}
    result = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(result) == sorted(_below(net, "b", "c", "output"))
    for group in groups:
        for parameter in group["params"]:
            block = owners[names[id(parameter)]]
            assert group["block"] == block
            assert group["lr"] == rates[block]
            assert group.get("weight_decay") == (0.0 if parameter.ndim == 1 else None)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.25)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.25}


def test_tied_parameters_stand_once_and_vectors_are_not_decayed():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    (group,) = freeze.groups(net, {"p": "tuned"}, {"0.weight": "p"}, {"p": 1.0})
    assert group["params"] == [net[0].weight]
    net = nn.Module()
    net.token, net.table = nn.Parameter(torch.ones(1, 1, 6)), nn.Parameter(torch.ones(1, 4, 6))
    groups = freeze.groups(net, {"p": "tuned"}, {"token": "p", "table": "p"}, {"p": 1.0})
    assert [(len(g["params"]), g.get("weight_decay")) for g in groups] == [(1, 0.0), (1, None)]


def test_the_neck_goes_with_the_highest_rate_of_its_action():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    owners = {n: ["a", "b", "neck"][int(n[0])] for n in net.state_dict()}
    actions = {"a": "tuned", "b": "tuned", "neck": "tuned"}
    rates = {"a": 0.1, "b": 0.2, "output": 9.0}
    assert freeze.groups(net, actions, owners, rates)[-1]["lr"] == 0.2
    assert freeze.groups(net, actions, owners, {**rates, "neck": 0.5})[-1]["lr"] == 0.5
    del actions["neck"]  # not named: frozen
    assert {g["block"] for g in freeze.groups(net, actions, owners, rates)} == {"a", "b"}


def test_frozen_rests_tuned_keeps_its_statistics_fresh_learns_them(net, x):
    before = copy.deepcopy(net.state_dict())
    with freeze.FrozenBlocks(net, ACTIONS, _owners(net)):
        net.train()
        net(x).sum().backward()
        assert not any(module.training for module in net.a.modules())
        assert [m.training for m in net.b] == [True, False, True, True]
        assert all(module.training for module in net.c.modules())
        assert not net.early.training  # goes with what comes after it: it stands first
        assert net.late.training
        assert bool(net.b[1].bias.grad.any())  # scale and shift of the norm are trained
        assert not torch.equal(net.b(x), net.b(x))  # dropout
        for layer in net.a:  # a frozen container need not be called: its members are
            x = layer(x)
    moved = {f"c.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert unmoved(net, before) == before.keys() - moved


def test_norms_with_statistics_of_other_kinds():
    net = nn.ModuleDict(
        {
            "one": nn.InstanceNorm1d(3, track_running_stats=True),
            "two": nn.BatchNorm1d(3, track_running_stats=False),
            "three": nn.GroupNorm(1, 3),
        }
    )
    owners = dict.fromkeys(net.state_dict(), "p")
    for action, wanted in (("tuned", {net["one"]}), ("frozen", {*net.modules()}), ("fresh", set())):
        assert {*freeze.eval_modules(net, {"p": action}, owners)} == wanted


class Reading(nn.Module):
    """Uses a norm's tensors and mode without calling it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.output = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        norm = self.norm
        return self.output(
            batch_norm(x, norm.running_mean, norm.running_var, training=norm.training)
        )


def test_norms_that_are_read_and_not_called_rest_too(x):
    net = Reading()
    before = copy.deepcopy(net.norm.state_dict())
    with freeze.FrozenBlocks(net, {"norm": "frozen"}, _owners(net)):
        net.train()
        net(x)
    assert unmoved(net.norm, before) == before.keys()


@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_power_iterations_of_spectral_norms_stop(wrap):
    # With some weights one iteration converges, and nothing moves.
    make = lambda: nn.ModuleDict({"a": wrap(nn.Linear(4, 4)), "output": nn.Linear(4, 2)})  # noqa: E731
    net = seeded(make, 0)
    before = copy.deepcopy(net["a"].state_dict())

    def step():
        net.train()
        net["output"](net["a"](torch.ones(2, 4))).sum().backward()

    with freeze.FrozenBlocks(net, {"a": "frozen"}, _owners(net)):
        step()
    assert unmoved(net["a"], before) == before.keys()
    step()  # not held: it moves
    assert unmoved(net["a"], before) != before.keys()


def test_remove_puts_flags_modes_and_hooks_back_after_an_error_too(net):
    net.a.eval()
    net.b.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in net.named_parameters()}
    modes = {n: m.training for n, m in net.named_modules()}
    frozen = freeze.FrozenBlocks(net, ACTIONS, _owners(net))
    with contextlib.suppress(RuntimeError), frozen:
        assert {n: p.requires_grad for n, p in net.named_parameters()} != flags
        net.train()
        raise RuntimeError("stop")
    assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert not any(m._forward_pre_hooks for m in net.modules())
    frozen.remove()  # once is enough
    assert net.train().a.training


# ---- whose tensor is it ----------------------------------------------------------------------
class Mixed(nn.Module):
    """Dropout that is defined far from where it is used: only the steps know its place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.drop_first, self.drop_second = nn.Dropout(0.5), nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.drop_first(self.first(x).relu())
        return self.head(self.drop_second(self.second(x).relu()).mean((2, 3)))


def _mixed():
    network = cut(Mixed().eval(), prep(8))
    return network, warm(network)


def test_in_a_warm_model_dropout_goes_with_its_step(x):
    network, model = _mixed()
    with freeze.FrozenBlocks(model, {"first": "frozen", "second": "tuned"}, network.owners):
        model.train()
        model(x)
        assert not model.backbone.drop_first.training
        assert model.backbone.drop_second.training
        model.backbone.drop_first.train()
        frozen = network.steps.blocks[0].run(model.backbone, x)
        assert torch.equal(frozen, network.steps.blocks[0].run(model.backbone, x))


def test_the_head_of_a_warm_model_is_the_output_whatever_the_old_one_was_called():
    network, model = _mixed()
    assert network.owners["head.weight"] == "head"
    blocks = freeze.tensor_blocks(model, network.owners)
    assert (blocks["head.weight"], blocks["backbone.first.weight"]) == ("output", "first")
    full = {f"backbone.{n}": block for n, block in network.owners.items() if block != "head"}
    assert freeze.tensor_blocks(model, full) == blocks  # owners may use the names of the model
    actions = {"first": "frozen", "second": "frozen"}
    freeze.apply(model, actions, network.owners)
    assert with_gradients(model) == {"head.weight", "head.bias"}
    freeze.apply(model, {**actions, "output": "frozen"}, network.owners)
    assert with_gradients(model) == set()


def test_updates_belong_to_the_block_of_their_layer():
    pytest.importorskip("peft")
    network = cut(timm.create_model("resnet18", num_classes=2).eval(), prep(8))
    model = warm(network)
    lora.inject(network, ["layer4.1"], 2, rng())
    blocks = freeze.tensor_blocks(model, network.owners)
    for name in ("lora_A.default", "base_layer"):
        assert blocks[f"backbone.layer4.1.conv1.{name}.weight"] == "layer4.1"
    actions = {block.name: "frozen" for block in network.blocks} | {"layer4.1": "low-rank"}
    groups = freeze.groups(model, actions, network.owners, {"layer4.1": 0.1, "output": 0.2})
    sizes = [(g["block"], len(g["params"])) for g in groups]
    assert sizes == [("layer4.1", 4), ("output", 1), ("output", 1)]


def test_a_missing_action_rate_or_owner_is_an_error(net):
    owners, before = _owners(net), with_gradients(net)
    with pytest.raises(PlanError, match=r"block 'c' is fresh but has no learning rate; set block."):
        freeze.groups(net, ACTIONS, owners, {"b": 0.1, "output": 0.1})
    with pytest.raises(PlanError, match=r"no action for block 'c'; set block.c.action"):
        freeze.FrozenBlocks(net, {"a": "frozen", "b": "tuned"}, owners)
    del owners["b.0.weight"]
    with pytest.raises(PlanError, match=r"tensor b.0.weight belongs to no block"):
        freeze.apply(net, ACTIONS, owners)
    assert with_gradients(net) == before
    assert not any(m._forward_pre_hooks for m in net.modules())
