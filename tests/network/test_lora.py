"""Low-rank updates: nothing at step 0, nothing else touched, exact when merged."""

from __future__ import annotations

import copy
import sys

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from small_networks import noise, prep, rng, seeded, warm
from warmstart.errors import PlanError
from warmstart.network.lora import base_tensors, has_updates, inject, merge, original_names
from warmstart.network.partition import cut
from warmstart.network.weights import digest, digests

pytest.importorskip("peft")


def _network(name, side, **options):
    make = lambda: timm.create_model(name, num_classes=5, **options)  # noqa: E731
    return cut(seeded(make), prep(side))


@pytest.fixture
def resnet():
    return _network("resnet18", 32, zero_init_last=False)


@pytest.fixture
def inputs():
    return noise(32, 2)


def _stir(module, seed=9):
    """Give the updates something to add."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng(seed)))


def test_step_0_gives_the_old_answers_to_the_bit(resnet, inputs):
    with torch.no_grad():
        expected = resnet.logits(inputs)
        names = inject(resnet, ["layer3.0", "layer4.1"], 4, rng())
        assert torch.equal(resnet.logits(inputs), expected)
    own = {"layer3.0": ["conv1", "conv2", "downsample.0"], "layer4.1": ["conv1", "conv2"]}
    assert names == tuple(f"{block}.{name}" for block, each in own.items() for name in each)


def test_merged_the_answers_stay_and_the_names_come_back(resnet, inputs):
    names = [*resnet.backbone.state_dict()]
    before = digests(resnet.backbone)
    targets = inject(resnet, ["layer4.1"], 4, rng())
    assert has_updates(resnet.backbone)
    _stir(resnet.backbone)
    assert {name: digest(one) for name, one in base_tensors(resnet.backbone).items()} == before
    with torch.no_grad():
        expected = resnet.logits(inputs)
        merge(resnet.backbone)
        torch.testing.assert_close(resnet.logits(inputs), expected, rtol=1e-4, atol=1e-4)
    assert [*resnet.backbone.state_dict()] == names
    assert not has_updates(resnet.backbone)
    changed = {name for name, value in digests(resnet.backbone).items() if value != before[name]}
    assert changed == {f"{name}.weight" for name in targets}
    merge(resnet.backbone)  # nothing left to merge
    assert [*resnet.backbone.state_dict()] == names


def test_an_update_is_twice_b_times_a():
    net = nn.Sequential(nn.Linear(4, 3))
    old = net[0].weight.detach().clone()
    inject(net, ["0"], 2, rng())
    _stir(net)
    update = 2 * net[0].lora_B["default"].weight @ net[0].lora_A["default"].weight
    merge(net)
    torch.testing.assert_close(net[0].weight, old + update)


def test_random_numbers_come_from_the_generator_alone(resnet):
    others = copy.deepcopy(resnet), copy.deepcopy(resnet)
    state = torch.random.get_rng_state()
    for network, seed in zip((resnet, *others), (1, 1, 2), strict=True):
        inject(network, ["layer4.1"], 4, rng(seed))
    assert torch.equal(torch.random.get_rng_state(), state)
    updates = [n.backbone.layer4[1].conv1.lora_A["default"].weight for n in (resnet, *others)]
    assert torch.equal(updates[0], updates[1])
    assert not torch.equal(updates[0], updates[2])


def test_flags_modes_and_attributes_stay_as_they_were(resnet):
    backbone = resnet.backbone.requires_grad_(False)
    backbone.layer1.requires_grad_(True).train()
    flags = {name: p.requires_grad for name, p in backbone.named_parameters()}
    inject(resnet, ["layer4.1"], 4, rng())
    origins = original_names(backbone)
    now = [(*origins[n], p.requires_grad) for n, p in backbone.named_parameters()]
    assert {name: flag for name, is_update, flag in now if not is_update} == flags
    assert not hasattr(backbone, "peft_config")
    assert not any(module.training for module in backbone.layer4.modules())
    assert all(module.training for module in backbone.layer1.modules())


def test_copies_are_independent_and_run_on_their_own_updates(resnet, inputs):
    model = warm(resnet)
    inject(resnet, ["layer4.1"], 4, rng())
    clone = copy.deepcopy(model)
    _stir(clone)
    with torch.no_grad():
        expected = clone(inputs)
        assert not torch.allclose(model(inputs), expected)
        merge(clone)
        torch.testing.assert_close(clone(inputs), expected, rtol=1e-4, atol=1e-4)
    assert has_updates(model)


def test_a_model_takes_dotted_names_of_its_modules(resnet):
    model, conv = warm(resnet), "backbone.layer4.1.conv1"
    result = inject(model, ["backbone.layer4.1", "backbone.bn1"], 2, rng())
    assert result == (conv, "backbone.layer4.1.conv2")
    origins = original_names(model)
    assert origins[f"{conv}.base_layer.weight"] == (f"{conv}.weight", False)
    assert origins[f"{conv}.lora_A.default.weight"] == (f"{conv}.weight", True)


def test_layers_whose_weights_are_read_and_not_called_are_left_out():
    """timm's Eva adds a bias of its own to q and v: it reads qkv.weight and never calls qkv."""
    network = _network("eva02_tiny_patch14_224", 28, img_size=28, depth=2)
    result = inject(network, [network.blocks[-1].name], 2, rng())
    assert "blocks.1.attn.proj" in result
    assert "blocks.1.attn.qkv" not in result


def _odd_layers():
    tied, clone, shared = (nn.Linear(4, 4) for _ in range(3))
    clone.weight = tied.weight
    return nn.ModuleDict(
        {
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "dilated": nn.Conv2d(4, 4, 3, dilation=2),
            "mirrored": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "padding": timm.layers.Conv2dSame(4, 4, 3, stride=2),
            "standard": timm.layers.StdConv2d(4, 4, 3),
            "spectral": parametrizations.spectral_norm(nn.Linear(4, 4)),
            "tied": tied,
            "twin": clone,
            "shared": nn.Sequential(shared, shared),
            # PyTorch's own attention reads its weights itself in eval mode.
            "layer": nn.TransformerEncoderLayer(8, 2, 16),
            "mix": nn.MultiheadAttention(8, 2),
            "plain": nn.Conv2d(4, 4, 3, stride=2, padding=1),
        }
    )


def test_layers_that_cannot_be_merged_exactly_are_left_out():
    net = _odd_layers()
    assert inject(net, ["plain"], 2, rng()) == ("plain",)
    for name in net.keys() - {"plain"}:
        with pytest.raises(PlanError, match=f"block {name} has no linear or plain convolution"):
            inject(net, [name], 2, rng())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 1), stride=2),
        nn.Conv2d(4, 6, 3, padding="same"),
    ],
)
def test_a_convolution_gives_the_same_merged(conv):
    net = nn.Sequential(copy.deepcopy(conv)).requires_grad_(False)
    x = torch.randn(2, 4, 8, 8, generator=rng(1))
    inject(net, ["0"], 3, rng())
    _stir(net)
    expected = net(x)
    merge(net)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_base_tensors_have_their_names_and_stand_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight = net[0].weight
    names = [*base_tensors(net)]
    assert names == ["0.weight", "0.bias", "1.bias", "2.weight", "2.bias"]
    inject(net, ["2"], 1, rng())
    assert [*base_tensors(net)] == names


def test_what_a_plan_gets_wrong(resnet, monkeypatch):
    backbone = resnet.backbone
    for where, name, rank, message in (
        (resnet, "layer4.1", 0, r"training.lora_rank 0: low-rank updates have a rank of 1"),
        (resnet, "layer9", 1, r"has no block 'layer9'; it has conv1, layer1.0"),
        (backbone, "layer9", 1, r"has no layers 'layer9'; see its named_modules"),
        (backbone, "bn1", 1, r"block bn1 has no linear .* tune it or leave it"),
    ):
        with pytest.raises(PlanError, match=message):
            inject(where, [name], rank, rng())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PlanError, match=r"run `pip install .*peft`\.$"):
        inject(resnet, ["layer4.1"], 4, rng())
    assert not has_updates(backbone)
