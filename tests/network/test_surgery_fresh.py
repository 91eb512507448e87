"""Fresh blocks: reinitialised by their layers' own rules, and nothing else moves."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import timm
import torch
from torch import nn

from warmstart.errors import PlanError
from warmstart.network.ledger import take_digests, tensors_of
from warmstart.network.partition import cut
from warmstart.network.surgery import refresh
from warmstart.network.weights import digests
from warmstart.records.inputs import Preprocessing


def _prep(side):
    return Preprocessing(size=(side, side), resize=side, mean=(0.5,) * 3, std=(0.5,) * 3)


class Odd(nn.Module):
    """Parameters of its own, tied matrices, norms with statistics, a table that is constant."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=0.5))
        self.block = nn.Module()
        self.block.gamma = nn.Parameter(torch.full((8,), 7.0))
        self.block.shift = nn.Parameter(torch.full((8,), 7.0))
        self.block.token = nn.Parameter(torch.full((1, 8), 7.0))
        self.block.heat = nn.Parameter(torch.tensor(7.0))
        self.block.register_buffer("table", torch.arange(8.0))
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.out = nn.Linear(8, 2)


NETWORKS = {
    "resnet18": (functools.partial(timm.create_model, "resnet18", num_classes=5), 32),
    "vit": (
        functools.partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, depth=2),
        32,
    ),
    "convnext": (
        functools.partial(timm.create_model, "convnext_atto", depths=(1, 1, 1, 1)),
        32,
    ),
    "swin": (
        functools.partial(
            timm.create_model,
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=2,
            depths=(1, 1, 1, 1),
        ),
        64,
    ),
    "eva": (
        functools.partial(timm.create_model, "eva02_tiny_patch14_224", img_size=28, depth=2),
        28,
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def _pristine(name):
    make, side = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make().eval()
        for tensor in module.state_dict().values():  # as if trained
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return cut(module, _prep(side))


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


@every_network
def test_every_parameter_of_the_block_is_new_and_finite_and_no_other_moved(name):
    network = copy.deepcopy(_pristine(name))
    before = take_digests(network)
    block = network.blocks[len(network.blocks) // 2].name
    changed = refresh(network, [block], _rng())
    own = {n for n, owner in network.owners.items() if owner == block}
    after = take_digests(network)
    tensors = tensors_of(network)
    assert {n for n in own if isinstance(tensors[n], nn.Parameter)} == set(changed)
    assert {n for n in before if before[n] != after[n]} <= own
    assert {n for n in changed if before[n] == after[n]} == set()
    assert all(bool(tensors[n].isfinite().all()) for n in changed)


@every_network
def test_a_network_of_fresh_blocks_knows_nothing_and_can_learn(name):
    network = copy.deepcopy(_pristine(name))
    refresh(network, [block.name for block in network.blocks], _rng())
    inputs = torch.randn(4, 3, NETWORKS[name][1], NETWORKS[name][1], generator=_rng(3))
    network.backbone.train().requires_grad_(True)
    features = network.features(inputs)
    assert bool(features.isfinite().all())
    assert float(features.detach().std(dim=0).mean()) > 1e-3  # images can be told apart
    features.square().mean().backward()
    for tensor, value in tensors_of(network).items():
        if network.owners[tensor] not in ("head", "unused") and isinstance(value, nn.Parameter):
            assert value.grad is not None, tensor
            assert bool(value.grad.isfinite().all()), tensor


class Pooled(nn.Module):
    """A norm between the last block and the classifier."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.norm, self.out = nn.BatchNorm1d(6), nn.Linear(6, 2)
        nn.init.constant_(self.norm.weight, 7.0)

    def forward(self, x):
        return self.out(self.norm(self.two(self.one(x).relu()).amax((2, 3))))


def test_the_neck_goes_with_the_last_block():
    network = cut(Pooled().eval(), _prep(4))
    assert {n for n, owner in network.owners.items() if owner == "neck"} > {"norm.weight"}
    assert set(refresh(network, ["one"], _rng())) == {"one.weight", "one.bias"}
    assert network.backbone.norm.weight.tolist() == [7.0] * 6
    result = refresh(network, ["two"], _rng())
    assert set(result) == {"two.weight", "two.bias", "norm.weight", "norm.bias"}
    assert network.backbone.norm.weight.tolist() == [1.0] * 6


def test_layers_draw_by_their_own_rule_and_statistics_begin_anew():
    network = copy.deepcopy(_pristine("resnet18"))
    refresh(network, ["layer4.1"], _rng())
    block = network.backbone.layer4[1]
    bound = 1 / math.sqrt(block.conv1.weight[0].numel())  # nn.Conv2d.reset_parameters
    assert 0.99 * bound < float(block.conv1.weight.detach().abs().max()) <= bound
    for norm in (block.bn1, block.bn2):
        assert not norm.running_mean.any()
        assert bool((norm.running_var == 1).all())
        assert not norm.num_batches_tracked
        assert bool((norm.weight == 1).all())
        assert not norm.bias.any()


def test_parameters_without_a_layer_of_their_own():
    net = Odd()
    state = copy.deepcopy(net.state_dict())
    refresh(net, ["first", "block"], _rng())
    assert net.block.gamma.tolist() == [1.0] * 8
    assert not net.block.shift.any()
    assert net.block.heat.item() == 1.0
    assert 0 < float(net.block.token.detach().abs().max()) <= 0.04
    assert torch.equal(net.block.table, state["block.table"])
    assert torch.equal(net.out.weight, state["out.weight"])
    refresh(net, ["mix"], _rng())  # PyTorch calls its own rule `_reset_parameters`
    assert not torch.equal(net.mix.in_proj_weight, state["mix.in_proj_weight"])
    assert not net.mix.out_proj.bias.any()


def test_tensors_tied_to_another_block_stay_where_the_other_owns_them():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 2)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.out(self.two(self.one(x.flatten(1)).tanh()).tanh())

    network = cut(Tied().eval(), _prep(2))
    before = take_digests(network)
    assert [block.name for block in network.blocks] == ["one", "two"]
    assert refresh(network, ["two"], _rng()) == ("two.bias",)
    after = take_digests(network)
    assert {n for n in before if before[n] != after[n]} == {"two.bias"}


def test_only_the_generator_is_used_and_repeats():
    state = torch.random.get_rng_state()
    one, two, other = (copy.deepcopy(_pristine("vit")) for _ in range(3))
    for network, seed in ((one, 1), (two, 1), (other, 2)):
        refresh(network, [block.name for block in network.blocks], _rng(seed))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digests(one.backbone) == digests(two.backbone) != digests(other.backbone)


def test_a_reset_that_wants_arguments_is_not_called():
    class Wanting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((3, 3), 7.0))

        def reset_parameters(self, gain):
            raise AssertionError(gain)

    net = nn.Sequential(Wanting())
    assert refresh(net, ["0"], _rng()) == ("0.weight",)
    assert float(net[0].weight.detach().abs().max()) <= 0.04


def test_a_name_that_is_not_there():
    with pytest.raises(PlanError, match=r"has no block 'layer9' to make fresh"):
        refresh(_pristine("resnet18"), ["layer9"], _rng())
    with pytest.raises(PlanError, match=r"has no block 'nine' to make fresh"):
        refresh(Odd(), ["nine"], _rng())
