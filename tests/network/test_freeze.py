"""Freezing: what may move follows from the blocks that own the tensors, whoever calls train()."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.utils import parametrizations, spectral_norm

from warmstart.errors import PlanError
from warmstart.network import freeze, lora
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.records.inputs import Preprocessing

SMALL = Preprocessing(size=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Three()


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def _asking(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def _below(module, *names):
    return {n for n, _ in module.named_parameters() if n.partition(".")[0] in names}


ACTIONS = {"a": "frozen", "b": "tuned", "c": "fresh", "output": "replaced"}


# ---- gradients -------------------------------------------------------------------------------


def test_only_what_is_to_move_has_gradients(net):
    freeze.apply(net, ACTIONS, _owners(net))
    assert _asking(net) == _below(net, "b", "c", "output")
    freeze.apply(net, {**ACTIONS, "a": "tuned", "b": "frozen"}, _owners(net))
    assert _asking(net) == _below(net, "a", "c", "output")


def test_an_optimizer_that_still_holds_what_is_now_frozen_cannot_move_it(net, x):
    owners = _owners(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    net(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy(net.a.state_dict())
    freeze.apply(net, ACTIONS, owners)
    with freeze.FrozenBlocks(net, ACTIONS, owners):
        net(x).sum().backward()
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in net.a.state_dict().items())


def test_of_low_rank_blocks_the_updates_alone_move(net):
    pytest.importorskip("peft")
    owners = _owners(net)
    lora.inject(net, ["b"], 1, torch.Generator())
    actions = {"a": "frozen", "b": "low-rank", "c": "frozen", "output": "replaced"}
    freeze.apply(net, actions, owners)
    assert _asking(net) == {
        "b.0.lora_A.default.weight",
        "b.0.lora_B.default.weight",
        "output.weight",
        "output.bias",
    }
    frozen = freeze.eval_modules(net, actions, owners)
    assert {id(m) for m in frozen} > {id(m) for m in net.b.modules()}


def test_what_is_tied_to_a_frozen_block_is_frozen():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "output": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    owners = _owners(net)  # both names have an owner
    for actions in (
        {"a": "frozen", "b": "tuned"},
        {"a": "tuned", "b": "frozen"},
        {"a": "frozen", "b": "fresh"},
    ):
        freeze.apply(net, actions, owners)
        assert not net["a"].weight.requires_grad
        assert net["b"].bias.requires_grad == (actions["b"] != "frozen")
        assert {id(m) for m in freeze.eval_modules(net, actions, owners)} >= {
            id(net["a"]),
            id(net["b"]),
        }
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


def test_tokens_are_not_decayed():
    net = nn.Module()
    net.token, net.table = nn.Parameter(torch.ones(1, 1, 6)), nn.Parameter(torch.ones(1, 4, 6))
    groups = freeze.groups(net, {"p": "tuned"}, {"token": "p", "table": "p"}, {"p": 1.0})
    assert [(len(g["params"]), g.get("weight_decay")) for g in groups] == [(1, 0.0), (1, None)]


def test_tied_parameters_stand_once():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    (group,) = freeze.groups(net, {"p": "tuned"}, {"0.weight": "p"}, {"p": 1.0})
    assert group["params"] == [net[0].weight]


def test_the_neck_goes_with_the_highest_rate_of_its_action():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    owners = {n: ["a", "b", "neck"][int(n[0])] for n in net.state_dict()}
    actions = {"a": "tuned", "b": "tuned", "neck": "tuned"}
    rates = {"a": 0.1, "b": 0.2, "output": 9.0}
    assert freeze.groups(net, actions, owners, rates)[-1]["lr"] == 0.2
    assert freeze.groups(net, actions, owners, {**rates, "neck": 0.5})[-1]["lr"] == 0.5
    del actions["neck"]  # not named: frozen
    assert {g["block"] for g in freeze.groups(net, actions, owners, rates)} == {"a", "b"}


def test_a_trained_block_needs_a_learning_rate(net):
    with pytest.raises(
        PlanError, match=r"block 'c' is fresh but has no learning rate; set block.c.lr"
    ):
        freeze.groups(net, ACTIONS, _owners(net), {"b": 0.1, "output": 0.1})


def test_nothing_moves_where_all_is_frozen(net):
    actions = dict.fromkeys(ACTIONS, "frozen")
    assert freeze.groups(net, actions, _owners(net), {}) == []


# ---- modes and statistics --------------------------------------------------------------------


def test_frozen_rests_tuned_keeps_its_statistics_fresh_learns_them(net, x):
    before = copy.deepcopy(net.state_dict())
    with freeze.FrozenBlocks(net, ACTIONS, _owners(net)):
        net.train()
        net(x)
        assert not any(module.training for module in net.a.modules())
        assert [m.training for m in net.b] == [True, False, True, True]
        assert all(module.training for module in net.c.modules())
        assert not net.early.training  # goes with what comes after it: it stands first
        assert net.late.training
    moved = {n for n, value in net.state_dict().items() if not torch.equal(before[n], value)}
    assert moved == {f"c.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}


def test_scale_and_shift_of_a_tuned_norm_are_trained_and_its_dropout_drops(net, x):
    with freeze.FrozenBlocks(net, {**ACTIONS, "c": "frozen"}, _owners(net)):
        net.train()
        one, two = net.b(x), net.b(x)
        net(x).sum().backward()
    assert not torch.equal(one, two)
    assert net.b[1].weight.grad is not None
    assert bool(net.b[1].bias.grad.any())


def test_blocks_that_are_called_one_by_one_rest_too(net, x):
    """A container that is frozen as a whole need not be called: its members are."""
    owners = _owners(net)
    before = copy.deepcopy(net.state_dict())
    with freeze.FrozenBlocks(net, dict.fromkeys(ACTIONS, "frozen"), owners):
        net.train()
        for layer in net.a:
            x = layer(x)
        net.b[1].train()
        net.b[1](x)
    assert all(torch.equal(before[n], value) for n, value in net.state_dict().items())


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
    assert all(torch.equal(before[n], value) for n, value in net.norm.state_dict().items())


@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_power_iterations_of_spectral_norms_stop(wrap):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # with some weights one iteration converges, and nothing moves
        net = nn.ModuleDict({"a": wrap(nn.Linear(4, 4)), "output": nn.Linear(4, 2)})
    owners = _owners(net)
    before = copy.deepcopy(net["a"].state_dict())
    value = torch.ones(2, 4)

    def step():
        net.train()
        net["output"](net["a"](value)).sum().backward()

    with freeze.FrozenBlocks(net, {"a": "frozen"}, owners):
        step()
    state = net["a"].state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    step()  # not held: it moves
    assert not all(torch.equal(before[n], t) for n, t in net["a"].state_dict().items())


def test_norms_with_statistics_of_other_kinds():
    net = nn.ModuleDict(
        {
            "one": nn.InstanceNorm1d(3, track_running_stats=True),
            "two": nn.BatchNorm1d(3, track_running_stats=False),
            "three": nn.GroupNorm(1, 3),
        }
    )
    owners = dict.fromkeys(net.state_dict(), "p")
    assert freeze.eval_modules(net, {"p": "tuned"}, owners) == (net["one"],)
    assert {*freeze.eval_modules(net, {"p": "frozen"}, owners)} == {*net.modules()}
    assert freeze.eval_modules(net, {"p": "fresh"}, owners) == ()


def test_remove_puts_flags_modes_and_hooks_back(net, x):
    net.a.eval()
    net.b.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in net.named_parameters()}
    modes = {n: m.training for n, m in net.named_modules()}
    frozen = freeze.FrozenBlocks(net, ACTIONS, _owners(net))
    assert {n: p.requires_grad for n, p in net.named_parameters()} != flags
    net.train()
    frozen.remove()
    assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert not any(m._forward_pre_hooks for m in net.modules())
    frozen.remove()  # once is enough
    net.train()
    net(x)
    assert net.a.training


def test_remove_comes_after_an_error_too(net):
    with pytest.raises(RuntimeError, match="stop"), freeze.FrozenBlocks(net, ACTIONS, _owners(net)):
        raise RuntimeError("stop")
    assert not any(m._forward_pre_hooks for m in net.modules())


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


def _warm(module):
    network = cut(module.eval(), SMALL)
    last = feature_layers(network.record)[-1]
    width = layer_width(network.record, last)
    return network, assemble(network, [last], torch.zeros(3, width), torch.zeros(3))


def test_in_a_warm_model_dropout_goes_with_its_step(x):
    network, model = _warm(Mixed())
    actions = {"first": "frozen", "second": "tuned"}
    with freeze.FrozenBlocks(model, actions, network.owners):
        model.train()
        model(x)
        assert not model.backbone.drop_first.training
        assert model.backbone.drop_second.training
        model.backbone.drop_first.train()
        frozen = network.steps.blocks[0].run(model.backbone, x)
        assert torch.equal(frozen, network.steps.blocks[0].run(model.backbone, x))


def test_the_head_of_a_warm_model_is_the_output_whatever_the_old_one_was_called(x):
    network, model = _warm(Mixed())
    assert network.owners["head.weight"] == "head"
    assert freeze.tensor_blocks(model, network.owners)["head.weight"] == "output"
    actions = {"first": "frozen", "second": "frozen"}
    freeze.apply(model, actions, network.owners)
    assert _asking(model) == {"head.weight", "head.bias"}
    freeze.apply(model, {**actions, "output": "frozen"}, network.owners)
    assert _asking(model) == set()


def test_owners_may_carry_the_names_of_the_model():
    network, model = _warm(Mixed())
    full = {f"backbone.{n}": block for n, block in network.owners.items() if block != "head"}
    expected = freeze.tensor_blocks(model, network.owners)
    assert freeze.tensor_blocks(model, full) == expected
    assert expected["backbone.first.weight"] == "first"


def test_updates_belong_to_the_block_of_their_layer():
    pytest.importorskip("peft")
    network, model = _warm(timm.create_model("resnet18", num_classes=2))
    lora.inject(network, ["layer4.1"], 2, torch.Generator())
    blocks = freeze.tensor_blocks(model, network.owners)
    assert blocks["backbone.layer4.1.conv1.lora_A.default.weight"] == "layer4.1"
    assert blocks["backbone.layer4.1.conv1.base_layer.weight"] == "layer4.1"
    rates = {"layer4.1": 0.1, "output": 0.2}
    actions = {block.name: "frozen" for block in network.blocks} | {"layer4.1": "low-rank"}
    groups = freeze.groups(model, actions, network.owners, rates)
    assert [(g["block"], len(g["params"])) for g in groups] == [
        ("layer4.1", 4),
        ("output", 1),
        ("output", 1),
    ]


def test_a_missing_action_is_an_error(net):
    owners = _owners(net)
    before = _asking(net)
    with pytest.raises(PlanError, match=r"no action for block 'c'; set block.c.action"):
        freeze.FrozenBlocks(net, {"a": "frozen", "b": "tuned"}, owners)
    del owners["b.0.weight"]
    with pytest.raises(PlanError, match=r"tensor b.0.weight belongs to no block"):
        freeze.apply(net, ACTIONS, owners)
    assert _asking(net) == before
    assert not any(m._forward_pre_hooks for m in net.modules())
