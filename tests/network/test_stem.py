"""The first layer: found by watching, whatever stands before and around it, and reshaped."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from tiny import network
from warmstart.errors import ModelError
from warmstart.network.inputs import find_stems, refit, set_kernel


class Wrapped(nn.Module):
    """Pads and scales its input first, passes it by name, and holds parameters of its own."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.inner = nn.ModuleDict({"late": nn.Conv2d(4, 2, 1), "early": nn.Conv2d(3, 4, 3)})
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = nn.functional.pad(2 * x, (1, 1, 1, 1))
        x = self.norm(self.inner["early"](input=x))
        return (self.inner["late"](x) + self.token).flatten(1)


KINDS = {
    "convolutions": (network, ["first"], ["norm"]),
    "wrapped": (Wrapped, ["inner.early"], ["norm"]),
    "attention": (lambda: network("attention"), ["patches"], [None]),
    "resnet18": (lambda: timm.create_model("resnet18"), ["conv1"], ["bn1"]),
    "branches": (
        lambda: timm.create_model("mobileone_s0"),
        ["stem.conv_scale.conv", "stem.conv_kxk.0.conv"],
        ["stem.conv_scale.bn", "stem.conv_kxk.0.bn"],
    ),
    "vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1),
        ["patch_embed.proj"],
        [None],
    ),
}


@pytest.mark.parametrize(("make", "names", "norms"), KINDS.values(), ids=KINDS)
def test_the_first_layer_is_the_one_that_is_called_first(make, names, norms):
    module = make().eval()
    stems = find_stems(module, torch.rand(2, 3, 32, 32))
    assert [stem.name for stem in stems] == names
    assert [stem.norm and stem.norm[0] for stem in stems] == norms
    for stem in stems:
        assert stem.conv is module.get_submodule(stem.name)
    assert not [m for m in module.modules() if m._forward_hooks]


def test_inputs_that_the_network_does_not_take_at_all():
    module = nn.Sequential(nn.Conv2d(13, 4, 3), nn.Flatten())
    with pytest.raises(
        ModelError,
        match=r"^Sequential does not take inputs of 3 channels "
        r"\(.*\); pass the preprocessing",
    ):
        find_stems(module, torch.rand(2, 3, 8, 8))
    assert not module[0]._forward_hooks


def test_the_same_shape_is_left_alone():
    module = network()
    kernel = module.first.weight
    refit(module, module.state_dict(), 3)
    assert module.first.weight is kernel


def test_only_what_takes_that_number_of_channels_is_reshaped():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 3, groups=2))
    state = {
        "0.weight": torch.zeros(4, 3, 3, 3),
        "1.weight": torch.zeros(2, 13, 3, 3),
        "2.weight": torch.zeros(2, 13, 3, 3),
    }
    refit(module, state, 13)
    assert [layer.in_channels for layer in module] == [3, 4, 2]
    refit(module, {"0.weight": torch.zeros(4, 13, 3, 3)}, 13)
    assert module[0].weight.shape == (4, 13, 3, 3)


def test_parents_that_store_the_number_of_channels_are_updated():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3))
    outer = nn.ModuleDict({"stem": inner, "other": nn.Flatten()})
    for module in (outer, inner, outer["other"]):
        module.num_channels = 3
    inner.in_chans = 5
    set_kernel(outer, "stem.0", torch.zeros(4, 2, 3, 3))
    assert (outer.num_channels, inner.num_channels, outer["other"].num_channels) == (2, 2, 3)
    assert inner.in_chans == 5
    assert inner[0].in_channels == 2


def test_a_layer_that_is_no_convolution():
    with pytest.raises(TypeError, match="1 is a Flatten"):
        set_kernel(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), "1", torch.zeros(2, 1, 1, 1))
