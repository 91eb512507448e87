"""Added blocks: nothing at first, a block like the others after, and the old network untouched."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from warmstart.errors import ModelError
from warmstart.network.feature_layers import FeatureExtractor, feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import AddedBlock, assemble, graft, make_block, shift_layers
from warmstart.network.weights import digests, place, unique_tensors
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import BlockRecord, FeatureLayer


def _prep(side, channels=3):
    return Preprocessing(
        size=(side, side), resize=side, mean=(0.5,) * channels, std=(0.5,) * channels
    )


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


NETWORKS = {
    "NCHW": (functools.partial(timm.create_model, "resnet18", num_classes=5), _prep(64)),
    "NHWC": (
        functools.partial(
            timm.create_model,
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=2,
            depths=(1, 1, 1, 1),
            num_classes=5,
        ),
        _prep(64),
    ),
    "NLC": (
        functools.partial(
            timm.create_model, "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5
        ),
        _prep(32),
    ),
    "NC": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 2)),
        _prep(2),
    ),
    "whole": (lambda: Chain(nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 2)), _prep(2)),
    "crowded": (Crowded, _prep(2)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def _cut(name):
    make, prep = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return cut(make().eval(), prep)


def _inputs(name, n=3):
    side = NETWORKS[name][1].size[0]
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(2))


def _grafted(name, n=2):
    network, rng = _cut(name), torch.Generator().manual_seed(0)
    return graft(network, [make_block(network.record.blocks[-1], rng, 4) for _ in range(n)])


def _stir(network):
    """Give the blocks something to add."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in network.blocks[-2:]:
            for module in map(network.backbone.get_submodule, block.modules):
                for parameter in module.parameters() if isinstance(module, AddedBlock) else ():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return network


@every_network
def test_at_birth_the_answers_are_the_old_ones_to_the_bit(name):
    with torch.no_grad():
        expected = _cut(name).logits(_inputs(name))
        assert torch.equal(_grafted(name).logits(_inputs(name)), expected)


@every_network
def test_law_1_the_blocks_compose_and_each_runs_once(name):
    network = _stir(_grafted(name))
    old = _cut(name)
    added = [network.backbone.get_submodule(step.modules[0]) for step in network.steps.blocks[-2:]]
    assert all(isinstance(module, AddedBlock) for module in added)
    with torch.no_grad():
        value = _inputs(name)
        for block in old.blocks:
            value = block.run(old.backbone, value)
        for module in added:
            value = module(value)
        expected = old.steps.neck.run(old.backbone, value)
        assert torch.equal(network.features(_inputs(name)), expected)
        assert not torch.equal(network.logits(_inputs(name)), old.logits(_inputs(name)))


@every_network
def test_the_old_network_is_left_alone_and_shares_its_tensors(name):
    old = _cut(name)
    before, names = digests(old.backbone), [*old.backbone._modules]
    network = _stir(_grafted(name))
    assert digests(old.backbone) == before
    assert [*old.backbone._modules] == names
    shared = {place(tensor) for tensor in unique_tensors(old.backbone).values()}
    assert shared <= {place(tensor) for tensor in unique_tensors(network.backbone).values()}
    assert len(old.blocks) == len(network.blocks) - 2 == len(old.record.blocks)


@every_network
def test_record_and_owners_tell_what_is_there(name):
    network, old = _grafted(name), _cut(name)
    new = network.record.blocks[-2:]
    assert [block.name for block in network.blocks] == [
        block.name for block in network.record.blocks
    ]
    assert len({block.name for block in network.record.blocks}) == len(network.blocks)
    for record, step in zip(new, network.blocks[-2:], strict=True):
        module = network.backbone.get_submodule(step.modules[0])
        value = torch.zeros(1, *record.shape_in)
        with FlopCounterMode(display=False) as counter:
            assert tuple(module(value).shape[1:]) == record.shape_out
        assert counter.get_total_flops() == 2 * record.macs
        assert record.parameters == sum(p.numel() for p in module.parameters())
        assert record.layout == old.record.blocks[-1].layout
        own = {f"{step.modules[0]}.{tensor}" for tensor in module.state_dict()}
        assert own == {n for n, o in network.owners.items() if o == record.name}
    assert network.owners.items() > old.owners.items()
    owned = {
        place(network.backbone.state_dict(keep_vars=True)[n])
        for n in network.owners
        if network.owners[n] != "head"
    }
    assert owned == {place(tensor) for tensor in unique_tensors(network.backbone).values()}


def test_names_do_not_clash_and_are_the_same_each_time():
    assert [s.modules[0] for s in _grafted("NCHW").steps.blocks[-2:]] == ["added", "added_2"]
    assert [p.name for p in _grafted("NCHW").blocks[-2:]] == ["added", "added#2"]
    crowded = _grafted("crowded", 1)
    assert crowded.steps.blocks[-1].modules == ("added_3",)
    assert [p.name for p in crowded.blocks] == ["added#2", "added"]  # the word is the block's
    assert crowded.backbone.added_2 == "not a module"


def test_blocks_can_be_added_again():
    once = _grafted("NC", 1)
    rng = torch.Generator().manual_seed(4)
    twice = graft(once, [make_block(once.record.blocks[-1], rng)])
    assert [p.name for p in twice.blocks[-2:]] == ["added", "added#2"]
    with torch.no_grad():
        assert torch.equal(twice.logits(_inputs("NC")), once.logits(_inputs("NC")))


@every_network
def test_feature_layers_of_the_last_block_move_up_and_the_others_stay(name):
    old, network = _cut(name), _stir(_grafted(name))
    n = len(old.blocks)
    wanted = feature_layers(old.record)
    moved = shift_layers(wanted, n, 2)
    assert [layer.pool for layer in moved] == [layer.pool for layer in wanted]
    assert [layer.block for layer in moved] == [t.block if t.block < n else n + 2 for t in wanted]
    widths = [layer_width(old.record, layer) for layer in wanted]
    assert [layer_width(network.record, layer) for layer in moved] == widths
    with torch.no_grad():
        result = FeatureExtractor(network, moved)(_inputs(name))
        expected = FeatureExtractor(old, wanted)(_inputs(name))
    for layer, new, before in zip(wanted, result, expected, strict=True):
        assert torch.equal(new, before) == (layer.block < n)


@every_network
def test_a_copy_of_a_model_runs_on_its_own_blocks(name):
    network = _stir(_grafted(name))
    last = feature_layers(network.record)[-1]
    model = assemble(
        network, [last], torch.ones(2, layer_width(network.record, last)), torch.zeros(2)
    )
    with torch.no_grad():
        expected = model(_inputs(name))
        clone = copy.deepcopy(model)
        for parameter in model.backbone.parameters():
            parameter += 1
        assert torch.equal(clone(_inputs(name)), expected)
        assert not torch.equal(model(_inputs(name)), expected)
        for parameter in model.backbone.parameters():
            parameter -= 1


def test_only_the_generator_is_used():
    record = _cut("NCHW").record.blocks[-1]
    state = torch.random.get_rng_state()
    one, two, other = (
        make_block(record, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.down.weight, two.down.weight)
    assert not torch.equal(one.down.weight, other.down.weight)
    assert one.hidden == 128
    assert not one.up.weight.any()
    assert not one.up.bias.any()


def test_a_block_learns_and_is_the_same_for_one_image_and_for_many():
    block = make_block(_cut("NCHW").record.blocks[-1], torch.Generator().manual_seed(1), 8)
    x = torch.randn(4, 512, 2, 2, generator=torch.Generator().manual_seed(2))
    (block(x) - 1).square().sum().backward()
    assert block.up.weight.grad.any()
    with torch.no_grad():
        block.up.weight.add_(0.1)
        block.train()
        torch.testing.assert_close(block(x)[:1], block(x[:1]))


def test_what_has_no_channels_is_refused():
    odd = BlockRecord(
        name="odd", parameters=1, shape_in=(3,), shape_out=(2, 3, 4, 5), macs=1, layout="other"
    )
    with pytest.raises(ModelError, match="no axis of channels: no layers can be added"):
        make_block(odd, torch.Generator())


def test_a_block_of_another_width_is_refused():
    network = _cut("NC")
    block = make_block(_cut("NCHW").record.blocks[-1], torch.Generator(), 4)
    with pytest.raises(ModelError, match=r"does not fit the output \(6,\) \(NC\) of 1"):
        graft(network, [block])


def test_neck_layers_alone_can_be_moved():
    assert shift_layers([FeatureLayer(block=3, pool="neck")], 3, 1) == (
        FeatureLayer(block=4, pool="neck"),
    )
