"""Surgery: the head, blocks that add nothing at first, blocks begun anew, and rebuilding."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from small_networks import noise, prep, rng, seeded, warm
from warmstart.errors import ModelError, PlanError
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.ledger import take_digests, tensors_of
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import (
    AddedBlock,
    MultiLayerHead,
    assemble,
    graft,
    make_block,
    rebuild,
    refresh,
    shift_layers,
    unique_state,
)
from warmstart.network.weights import digests, place, unique_tensors
from warmstart.records.network import BlockRecord, FeatureLayer


class Chain(nn.Sequential):
    """Runs all that it holds, and cannot be cut: its control flow depends on the data."""

    def forward(self, x):
        for layer in self:
            x = layer(x) if x.sum() < 1e9 else x
        return x


class Crowded(nn.Module):
    """Has something called `added` of its own."""

    def __init__(self):
        super().__init__()
        self.added = nn.Linear(12, 6)
        self.added_2 = "not a module"
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.added(x.flatten(1)).relu())


def timm_network(name, **options):
    return functools.partial(timm.create_model, name, num_classes=5, **options)


SWIN = {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}
NETWORKS = {
    "resnet18": (timm_network("resnet18"), 64),
    "swin": (timm_network("swin_tiny_patch4_window7_224", **SWIN), 64),
    "vit": (timm_network("vit_tiny_patch16_224", img_size=32, depth=2), 32),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 2)), 2),
    "whole": (lambda: Chain(nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 2)), 2),
    "crowded": (Crowded, 2),
    "convnext": (timm_network("convnext_atto", depths=(1, 1, 1, 1)), 32),
    "eva": (timm_network("eva02_tiny_patch14_224", img_size=28, depth=2), 28),
}


@functools.cache
def network_of(name):
    make, side = NETWORKS[name]
    module, generator = seeded(make), rng()
    with torch.no_grad():
        for tensor in module.state_dict().values():  # as if trained
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.01)
    return cut(module, prep(side))


def inputs_of(name, n=3):
    return noise(NETWORKS[name][1], n)


# ---- the head --------------------------------------------------------------------------------

SMALL, SHIFT = prep(64), torch.tensor([0.3, 0.0, -0.3])
CHOSEN = (
    FeatureLayer(block=3, pool="grid2"),
    FeatureLayer(block=6, pool="avg"),
    FeatureLayer(block=9, pool="neck"),
)


@pytest.fixture(scope="module")
def model():
    network = network_of("resnet18")
    width = sum(layer_width(network.record, layer) for layer in CHOSEN)
    weight = torch.randn(3, width, generator=rng(2)) * 0.01
    return assemble(network, CHOSEN, weight, torch.ones(3), 1.7, SHIFT)


def test_logits_are_scores_over_temperature_plus_class_bias(model):
    inputs = inputs_of("resnet18")
    with torch.no_grad():
        features = torch.cat(FeatureExtractor(network_of("resnet18"), CHOSEN)(inputs), dim=1)
        expected = (features @ model.head.weight.T + model.head.bias) / 1.7 + SHIFT
        torch.testing.assert_close(model(inputs), expected)
        torch.testing.assert_close(torch.jit.trace(model, inputs)(inputs), expected)


def test_backbone_tensors_keep_their_names_and_only_the_head_has_gradients(model):
    owners, names = network_of("resnet18").owners, set(model.state_dict())
    backbone = {f"backbone.{name}" for name, owner in owners.items() if owner != "head"}
    heads = {"head.weight", "head.bias", "head.temperature", "head.class_bias"}
    assert names == backbone | heads
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*list(heads)} - {
        "head.temperature",
        "head.class_bias",
    }


def test_the_original_head_is_the_case_of_the_last_feature_layer():
    network, inputs = network_of("resnet18"), inputs_of("resnet18")
    old, neck = network.classifier, feature_layers(network.record)[-1]
    with torch.no_grad():
        model = assemble(network, [neck], old.weight, old.bias)
        torch.testing.assert_close(model(inputs), network.logits(inputs))


def test_a_head_copies_its_weights_and_must_fit():
    weight = torch.zeros(2, 3, dtype=torch.float64)
    head = MultiLayerHead(weight, torch.zeros(2))
    weight += 1
    assert head([torch.ones(1, 3)]).tolist() == [[0.0, 0.0]]
    assert head.weight.dtype == torch.float32
    with pytest.raises(ModelError, match="fit the head on these layers"):
        assemble(network_of("resnet18"), CHOSEN, torch.zeros(3, 5), torch.zeros(3))


# ---- rebuilding ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extended():
    """Two blocks of other widths behind the last one, which add something."""
    network = network_of("resnet18")
    blocks = [make_block(network.record.blocks[-1], rng(4), width) for width in (4, 6)]
    clone = graft(copy.deepcopy(network), blocks)
    for block in blocks:
        nn.init.normal_(block.up.weight, generator=rng(5))
    return warm(clone, shift_layers(CHOSEN, len(network.blocks), 2))


@pytest.mark.parametrize(("name", "added"), [("model", ()), ("extended", (4, 6))])
def test_saved_and_rebuilt_gives_the_same_logits(name, added, request, tmp_path):
    model = request.getfixturevalue(name)
    save_file(unique_state(model), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    layers = model.scan.feature_layers
    again = rebuild("timm:resnet18", state, layers, 3, SMALL, added=added)
    with torch.no_grad():
        assert torch.equal(again(inputs_of("resnet18")), model(inputs_of("resnet18")))
    assert digests(again) == digests(model)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((4,), r"has no feature layer 11.neck"),
        ((4, 4), r"backbone.added_2.down.weight has shape \(6, 512, "),
    ],
)
def test_rebuilding_with_other_blocks_is_refused(extended, widths, message):
    state, layers = unique_state(extended), extended.scan.feature_layers
    with pytest.raises(ModelError, match=message):
        rebuild("timm:resnet18", state, layers, 3, SMALL, added=widths)


class Own(nn.Module):
    """A user's module with tied matrices."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 6), nn.Linear(6, 6)
        self.third, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        return self.out(self.third(self.second(x).relu()).relu())


def test_a_users_own_module_is_rebuilt_from_an_instance_with_its_blocks():
    base = load(Own(), preprocessing=prep(2))
    network = cut(base.module, prep(2))
    network = graft(network, [make_block(network.record.blocks[-1], rng(4))])
    model, other = warm(network), Own()
    state, layers, before = unique_state(model), model.scan.feature_layers, digests(other)
    again = rebuild(base.record.arch, state, layers, 3, prep(2), network=other, added=(8,))
    with torch.no_grad():
        assert torch.equal(again(noise(2)), model(noise(2)))
    assert digests(other) == before
    assert again.backbone.third.weight is again.backbone.second.weight
    with pytest.raises(ModelError, match=r"made from your own Own; pass an instance"):
        rebuild(base.record.arch, state, layers, 3, prep(2))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("backbone.conv1.weight", None, r"backbone.conv1.weight is missing"),
        ("backbone.extra", torch.ones(1), r"backbone.extra is not in the network"),
        ("backbone.bn1.bias", torch.ones(3), r"backbone.bn1.bias has shape \(3,\)"),
        ("head.bias", torch.full((3,), float("nan")), r"head.bias holds NaN"),
        ("head.weight", None, r"no head.weight for 3"),
        ("head.weight", torch.ones(3, 5), r"does not fit feature layers of widths"),
    ],
)
def test_rebuilding_is_strict(model, name, tensor, message):
    state = {**unique_state(model), name: tensor}
    state = {n: t for n, t in state.items() if t is not None}
    with pytest.raises(ModelError, match=message):
        rebuild("timm:resnet18", state, CHOSEN, 3, SMALL)


# ---- added blocks ----------------------------------------------------------------------------


def grafted(name, n=2, is_stirred=False):
    """A network with added blocks; stirred, they have something to add."""
    network = network_of(name)
    blocks = [make_block(network.record.blocks[-1], rng(), 4) for _ in range(n)]
    for block in blocks if is_stirred else ():
        nn.init.normal_(block.up.weight, std=0.1, generator=rng(5))
    return graft(network, blocks)


@pytest.mark.parametrize("name", list(NETWORKS)[:6])
def test_added_blocks_compose_each_once_and_the_old_network_stays(name):
    old, inputs = network_of(name), inputs_of(name)
    before, names = digests(old.backbone), [*old.backbone._modules]
    network = grafted(name, is_stirred=True)
    added = [network.backbone.get_submodule(step.modules[0]) for step in network.steps.blocks[-2:]]
    assert all(isinstance(module, AddedBlock) for module in added)
    with torch.no_grad():
        expected = old.logits(inputs)
        assert torch.equal(grafted(name).logits(inputs), expected)  # nothing is added at first
        value = inputs
        for block in old.blocks:
            value = block.run(old.backbone, value)
        for module in added:
            value = module(value)
        neck = old.steps.neck.run(old.backbone, value)
        assert torch.equal(network.features(inputs), neck)
        assert not torch.equal(network.logits(inputs), expected)
        model = warm(network)
        clone, answer = copy.deepcopy(model), model(inputs)
        assert torch.equal(clone(inputs), answer)
    assert (digests(old.backbone), [*old.backbone._modules]) == (before, names)
    shared = {place(tensor) for tensor in unique_tensors(old.backbone).values()}
    assert shared <= {place(tensor) for tensor in unique_tensors(network.backbone).values()}


@pytest.mark.parametrize("name", list(NETWORKS)[:6])
def test_record_and_owners_describe_added_blocks(name):
    network, old = grafted(name), network_of(name)
    names = [block.name for block in network.record.blocks]
    assert [block.name for block in network.blocks] == names
    assert len(set(names)) == len(names) == len(old.blocks) + 2
    for record, step in zip(network.record.blocks[-2:], network.blocks[-2:], strict=True):
        module = network.backbone.get_submodule(step.modules[0])
        with FlopCounterMode(display=False) as counter:
            assert tuple(module(torch.zeros(1, *record.shape_in)).shape[1:]) == record.shape_out
        assert counter.get_total_flops() == 2 * record.macs
        assert record.parameters == sum(p.numel() for p in module.parameters())
        assert record.layout == old.record.blocks[-1].layout
        own = {f"{step.modules[0]}.{tensor}" for tensor in module.state_dict()}
        assert own == {n for n, o in network.owners.items() if o == record.name}
    assert network.owners.items() > old.owners.items()


def test_names_of_added_blocks_do_not_clash_and_more_can_follow():
    network = grafted("resnet18")
    assert [s.modules[0] for s in network.steps.blocks[-2:]] == ["added", "added_2"]
    assert [p.name for p in network.blocks[-2:]] == ["added", "added#2"]
    crowded = grafted("crowded", 1)
    assert crowded.steps.blocks[-1].modules == ("added_3",)
    assert [p.name for p in crowded.blocks] == ["added#2", "added"]  # the word is the block's
    twice = graft(crowded, [make_block(crowded.record.blocks[-1], rng(4))])
    with torch.no_grad():
        assert torch.equal(twice.logits(noise(2)), crowded.logits(noise(2)))


@pytest.mark.parametrize("name", list(NETWORKS)[:6])
def test_feature_layers_of_the_last_block_move_up_and_the_others_stay(name):
    old, network = network_of(name), grafted(name, is_stirred=True)
    n, wanted = len(old.blocks), feature_layers(old.record)
    moved = shift_layers(wanted, n, 2)
    assert [layer.pool for layer in moved] == [layer.pool for layer in wanted]
    assert [layer.block for layer in moved] == [t.block if t.block < n else n + 2 for t in wanted]
    with torch.no_grad():
        result = FeatureExtractor(network, moved)(inputs_of(name))
        expected = FeatureExtractor(old, wanted)(inputs_of(name))
    for layer, new, before in zip(wanted, result, expected, strict=True):
        assert torch.equal(new, before) == (layer.block < n)


def test_an_added_block_draws_from_its_generator_alone_and_ignores_the_batch():
    record = network_of("resnet18").record.blocks[-1]
    state = torch.random.get_rng_state()
    one, two, other = (make_block(record, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.down.weight, two.down.weight)
    assert not torch.equal(one.down.weight, other.down.weight)
    assert one.hidden == 128
    x = noise(2, 4, 512)
    (one(x) - 1).square().sum().backward()
    assert one.up.weight.grad.any()
    with torch.no_grad():
        one.up.weight.add_(0.1)
        torch.testing.assert_close(one.train()(x)[:1], one(x[:1]))


def test_added_blocks_that_do_not_fit_are_refused():
    odd = BlockRecord(
        name="odd", parameters=1, shape_in=(3,), shape_out=(2, 3, 4, 5), macs=1, layout="other"
    )
    with pytest.raises(ModelError, match="no axis of channels: no layers can be added"):
        make_block(odd, rng())
    block = make_block(network_of("resnet18").record.blocks[-1], rng(), 4)
    with pytest.raises(ModelError, match=r"does not fit the output \(6,\) \(NC\) of 1"):
        graft(network_of("mlp"), [block])


# ---- fresh blocks ----------------------------------------------------------------------------

each_real = pytest.mark.parametrize("name", ["resnet18", "vit", "convnext", "swin", "eva"])


@each_real
def test_every_parameter_of_a_fresh_block_is_new_and_no_other_moved(name):
    network = copy.deepcopy(network_of(name))
    before, block = take_digests(network), network.blocks[len(network.blocks) // 2].name
    changed = refresh(network, [block], rng())
    own = {n for n, owner in network.owners.items() if owner == block}
    after, tensors = take_digests(network), tensors_of(network)
    assert {n for n in own if isinstance(tensors[n], nn.Parameter)} == set(changed)
    assert set(changed) <= {n for n in before if before[n] != after[n]} <= own
    assert all(bool(tensors[n].isfinite().all()) for n in changed)


@each_real
def test_a_network_of_fresh_blocks_tells_images_apart_and_can_learn(name):
    network = copy.deepcopy(network_of(name))
    refresh(network, [block.name for block in network.blocks], rng())
    network.backbone.train().requires_grad_(True)
    features = network.features(inputs_of(name, 4))
    assert float(features.detach().std(dim=0).mean()) > 1e-3
    features.square().mean().backward()
    for tensor, value in tensors_of(network).items():
        if network.owners[tensor] not in ("head", "unused") and isinstance(value, nn.Parameter):
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
    network = cut(Pooled().eval(), prep(4))
    assert set(refresh(network, ["one"], rng())) == {"one.weight", "one.bias"}
    assert network.backbone.norm.weight.tolist() == [7.0] * 6
    result = refresh(network, ["two"], rng())
    assert set(result) == {"two.weight", "two.bias", "norm.weight", "norm.bias"}
    assert network.backbone.norm.weight.tolist() == [1.0] * 6


def test_layers_draw_by_their_own_rule_from_the_generator_and_statistics_begin_anew():
    state = torch.random.get_rng_state()
    networks = [copy.deepcopy(network_of("resnet18")) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        refresh(network, ["layer4.1"], rng(seed))
    assert torch.equal(torch.random.get_rng_state(), state)
    one, two, other = (digests(network.backbone) for network in networks)
    assert one == two != other
    block = networks[0].backbone.layer4[1]
    bound = 1 / math.sqrt(block.conv1.weight[0].numel())  # nn.Conv2d.reset_parameters
    assert 0.99 * bound < float(block.conv1.weight.detach().abs().max()) <= bound
    for norm in (block.bn1, block.bn2):
        assert not any(t.any() for t in (norm.running_mean, norm.num_batches_tracked, norm.bias))
        assert bool((norm.running_var == 1).all())
        assert bool((norm.weight == 1).all())


class Odd(nn.Module):
    """Parameters of its own, a table that is constant, a reset that needs an argument."""

    def __init__(self):
        super().__init__()
        self.block = nn.Module()
        for name, shape in {"gamma": (8,), "shift": (8,), "token": (1, 8), "heat": ()}.items():
            self.block.register_parameter(name, nn.Parameter(torch.full(shape, 7.0)))
        self.block.register_buffer("table", torch.arange(8.0))
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 2)

    def reset_parameters(self, gain):
        raise AssertionError(gain)


def test_parameters_without_a_layer_of_their_own():
    net = Odd()
    state = copy.deepcopy(net.state_dict())
    refresh(net, ["block"], rng())
    assert net.block.gamma.tolist() == [1.0] * 8
    assert not net.block.shift.any()
    assert net.block.heat.item() == 1.0
    assert 0 < float(net.block.token.detach().abs().max()) <= 0.04
    assert torch.equal(net.block.table, state["block.table"])
    assert torch.equal(net.out.weight, state["out.weight"])
    refresh(net, ["mix"], rng())  # PyTorch calls its own rule `_reset_parameters`
    assert not torch.equal(net.mix.in_proj_weight, state["mix.in_proj_weight"])
    assert not net.mix.out_proj.bias.any()
    assert "out.weight" in refresh(net, [""], rng())


def test_tensors_tied_to_another_block_stay_where_the_other_owns_them():
    network = cut(Own().eval(), prep(2))
    before = take_digests(network)
    assert [block.name for block in network.blocks] == ["first", "second", "third"]
    assert refresh(network, ["third"], rng()) == ("third.bias",)
    after = take_digests(network)
    assert {n for n in before if before[n] != after[n]} == {"third.bias"}


def test_fresh_blocks_of_an_unknown_name_are_refused():
    for where in (network_of("resnet18"), Odd()):
        with pytest.raises(PlanError, match=r"has no block 'nine' to make fresh"):
            refresh(where, ["nine"], rng())
