"""Low-rank updates: nothing at step 0, nothing else touched, exact when merged."""

from __future__ import annotations

import copy
import sys

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from warmstart.errors import PlanError
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.lora import base_tensors, has_updates, inject, merge, original_names
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.network.weights import digest, digests
from warmstart.records.inputs import Preprocessing

pytest.importorskip("peft")


def _prep(side):
    return Preprocessing(size=(side, side), resize=side, mean=(0.5,) * 3, std=(0.5,) * 3)


def _network(name, side, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return cut(timm.create_model(name, num_classes=5, **options).eval(), _prep(side))


@pytest.fixture
def resnet():
    return _network("resnet18", 32, zero_init_last=False)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _stir(module, seed=9):
    """Give the updates something to add."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=_rng(seed)))


def test_step_0_gives_the_old_answers_to_the_bit(resnet, inputs):
    with torch.no_grad():
        expected = resnet.logits(inputs)
        names = inject(resnet, ["layer3.0", "layer4.1"], 4, _rng())
        assert torch.equal(resnet.logits(inputs), expected)
    assert names == (
        "layer3.0.conv1",
        "layer3.0.conv2",
        "layer3.0.downsample.0",
        "layer4.1.conv1",
        "layer4.1.conv2",
    )


def test_merged_the_answers_stay_and_the_names_come_back(resnet, inputs):
    names = [*resnet.backbone.state_dict()]
    before = digests(resnet.backbone)
    targets = inject(resnet, ["layer4.1"], 4, _rng())
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
    inject(net, ["0"], 2, _rng())
    _stir(net)
    update = 2 * net[0].lora_B["default"].weight @ net[0].lora_A["default"].weight
    merge(net)
    torch.testing.assert_close(net[0].weight, old + update)


def test_random_numbers_come_from_the_generator_alone(resnet):
    others = copy.deepcopy(resnet), copy.deepcopy(resnet)
    state = torch.random.get_rng_state()
    for network, seed in zip((resnet, *others), (1, 1, 2), strict=True):
        inject(network, ["layer4.1"], 4, _rng(seed))
    assert torch.equal(torch.random.get_rng_state(), state)
    updates = [n.backbone.layer4[1].conv1.lora_A["default"].weight for n in (resnet, *others)]
    assert torch.equal(updates[0], updates[1])
    assert not torch.equal(updates[0], updates[2])


def test_flags_modes_and_attributes_stay_as_they_were(resnet):
    backbone = resnet.backbone
    backbone.requires_grad_(False)
    backbone.layer1.requires_grad_(True)
    backbone.layer1.train()
    flags = {name: p.requires_grad for name, p in backbone.named_parameters()}
    inject(resnet, ["layer4.1"], 4, _rng())
    origins = original_names(backbone)
    result = {
        origins[n][0]: p.requires_grad for n, p in backbone.named_parameters() if not origins[n][1]
    }
    assert result == flags
    assert not hasattr(backbone, "peft_config")
    assert not any(module.training for module in backbone.layer4.modules())
    assert all(module.training for module in backbone.layer1.modules())


def test_copies_are_independent_and_run_on_their_own_updates(resnet, inputs):
    last = feature_layers(resnet.record)[-1]
    width = layer_width(resnet.record, last)
    weight = torch.randn(3, width, generator=_rng(4))
    model = assemble(resnet, [last], weight, torch.zeros(3))
    inject(resnet, ["layer4.1"], 4, _rng())
    clone = copy.deepcopy(model)
    _stir(clone)
    with torch.no_grad():
        expected = clone(inputs)
        assert not torch.allclose(model(inputs), expected)
        merge(clone)
        torch.testing.assert_close(clone(inputs), expected, rtol=1e-4, atol=1e-4)
    assert has_updates(model)
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in clone.parameters()}


def test_a_model_takes_dotted_names_of_its_modules(resnet, inputs):
    last = feature_layers(resnet.record)[-1]
    model = assemble(
        resnet, [last], torch.zeros(3, layer_width(resnet.record, last)), torch.zeros(3)
    )
    result = inject(model, ["backbone.layer4.1", "backbone.bn1"], 2, _rng())
    assert result == ("backbone.layer4.1.conv1", "backbone.layer4.1.conv2")
    origins = original_names(model)
    assert origins["backbone.layer4.1.conv1.base_layer.weight"] == (
        "backbone.layer4.1.conv1.weight",
        False,
    )
    assert origins["backbone.layer4.1.conv1.lora_A.default.weight"] == (
        "backbone.layer4.1.conv1.weight",
        True,
    )


def test_layers_whose_weights_are_read_and_not_called_are_left_out():
    """timm's Eva adds a bias of its own to q and v: it reads qkv.weight and never calls qkv."""
    network = _network("eva02_tiny_patch14_224", 28, img_size=28, depth=2)
    result = inject(network, [network.blocks[-1].name], 2, _rng())
    assert "blocks.1.attn.proj" in result
    assert "blocks.1.attn.qkv" not in result


class Torchs(nn.Module):
    """PyTorch's own encoder layer: in eval mode it reads all weights itself."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.layer(self.first(x.flatten(2)))
        return self.mix(x, x, x)[0].mean(1)


def test_attention_of_pytorch_is_left_out():
    net = Torchs().eval()
    assert inject(net, ["first"], 2, _rng()) == ("first",)
    for name in ("layer", "mix"):
        with pytest.raises(PlanError, match=f"block {name} has no linear or plain convolution"):
            inject(net, [name], 2, _rng())


def _odd_layers():
    tied = nn.Linear(4, 4)
    clone = nn.Linear(4, 4)
    clone.weight = tied.weight
    shared = nn.Linear(4, 4)
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
            "plain": nn.Conv2d(4, 4, 3, stride=2, padding=1),
        }
    )


def test_layers_that_cannot_be_merged_exactly_are_left_out():
    net = _odd_layers()
    for name in net:
        if name == "plain":
            assert inject(net, [name], 2, _rng()) == ("plain",)
        else:
            with pytest.raises(PlanError, match="no linear or plain convolution layer"):
                inject(net, [name], 2, _rng())


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
    x = torch.randn(2, 4, 8, 8, generator=_rng(1))
    inject(net, ["0"], 3, _rng())
    _stir(net)
    expected = net(x)
    merge(net)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_base_tensors_have_their_names_and_stand_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    net[1].weight = net[0].weight
    names = [*base_tensors(net)]
    assert names == ["0.weight", "0.bias", "1.bias", "2.weight", "2.bias"]
    inject(net, ["2"], 1, _rng())
    assert [*base_tensors(net)] == names


def test_what_a_plan_gets_wrong(resnet):
    with pytest.raises(PlanError, match=r"training.lora_rank 0: low-rank updates have a rank of 1"):
        inject(resnet, ["layer4.1"], 0, _rng())
    with pytest.raises(PlanError, match=r"has no block 'layer9'; it has conv1, layer1.0"):
        inject(resnet, ["layer9"], 1, _rng())
    with pytest.raises(PlanError, match=r"has no layers 'layer9'; see its named_modules"):
        inject(resnet.backbone, ["layer9"], 1, _rng())
    with pytest.raises(PlanError, match=r"block bn1 has no linear"):
        inject(resnet.backbone, ["bn1"], 1, _rng())
    assert not has_updates(resnet.backbone)


def test_a_block_without_such_layers_is_named():
    network = _network("tf_efficientnet_lite0", 32)
    with pytest.raises(PlanError, match=r"block conv_stem has no linear .* tune it or leave it"):
        inject(network, ["conv_stem"], 2, _rng())


def test_without_peft_the_error_says_what_to_install(resnet, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PlanError, match=r"run `pip install .*peft`\.$"):
        inject(resnet, ["layer4.1"], 4, _rng())
    assert not has_updates(resnet.backbone)
