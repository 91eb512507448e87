"""Other input channels: what the changed network gives is what the old one gave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
import torchvision.models
from torch import nn

from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network.inputs import find_stems, rechannel, refit
from warmstart.network.segments import as_tensor
from warmstart.network.weights import digest
from warmstart.records.inputs import Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BANDS = (3, 2, 1)  # where Sentinel-2 has red, green and blue


class Normless(nn.Module):
    """A first layer without a bias, whose output is used by more than the BatchNorm behind it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.out((x + self.norm(x).relu()).mean((2, 3)))


class Branches(nn.Module):
    """Two convolutions side by side see the input."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out((self.norm(self.fine(x)) + self.wide(x)).relu().mean((2, 3)))


class Patches(nn.Module):
    """No padding anywhere, and a first layer without a bias before a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, stride=8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(self.cut(x).flatten(2).mT).mean(1))


def seeded(make):
    """A network with random weights and statistics that are not the trivial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        module = make()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean, -0.2, 0.2)
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module.eval().requires_grad_(False)


KINDS = {
    "convolutions": (lambda: network(), 32),
    "attention": (lambda: network("attention"), 32),
    "normless": (Normless, 16),
    "branches": (Branches, 16),
    "patches": (Patches, 32),
    "resnet18": (torchvision.models.resnet18, 32),
    "vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2), 64),
    "swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1)),
        64,
    ),
    "convnext": (lambda: timm.create_model("convnext_atto"), 32),
    "mobileone": (lambda: timm.create_model("mobileone_s0"), 32),
}
EXACT = ("attention", "patches", "vit_tiny", "swin", "convnext")  # nothing is padded


def build_network(kind, **options):
    """A network, and its preprocessing."""
    make, side = KINDS[kind]
    prep = Preprocessing(size=(side, side), resize=side, **(IMAGENET | options))
    return seeded(make), prep


def outputs(module, x):
    with torch.no_grad():
        return as_tensor(module(x))


def noise(prep, n=3, channels=None):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(n, channels or prep.channels, *prep.size, generator=generator)


def normalised(values, prep):
    mean, std = (torch.tensor(v)[:, None, None] for v in (prep.mean, prep.std))
    return (values - mean) / std


def difference(module, clone, prep, new):
    """The largest change of an output between a grey picture copied to RGB, and the picture."""
    grey = noise(prep, channels=1)
    expected = outputs(module, normalised(grey.expand(-1, 3, -1, -1), prep))
    result = outputs(clone, normalised(grey, new))
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_grey_is_the_picture_copied_to_all_channels_where_the_means_are_equal(kind):
    module, prep = build_network(kind, mean=(0.4,) * 3, std=(0.2, 0.25, 0.3))
    clone, _ = build_network(kind)
    new, changes = rechannel(clone, prep, number=1)
    assert new.mean == (0.4,)
    assert all(change.tensor.endswith("weight") for change in changes)
    assert difference(module, clone, prep, new) < 1e-5


@pytest.mark.parametrize("kind", EXACT)
def test_grey_is_exact_with_other_means_too_where_nothing_is_padded(kind):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    new, changes = rechannel(clone, prep, number=1)
    assert 0.406 <= new.mean[0] <= 0.485
    assert len(changes) == 2
    assert difference(module, clone, prep, new) < 1e-5


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {*EXACT}))
def test_with_other_means_only_the_borders_differ_and_little(kind):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    new, _ = rechannel(clone, prep, number=1)
    grey = noise(prep, channels=1)
    for stem in find_stems(clone, normalised(grey, new)):
        old = module.get_submodule(stem.name)
        expected = old(normalised(grey.expand(-1, 3, -1, -1), prep))
        result = stem.conv(normalised(grey, new))
        shift = (expected - result)[..., 4:-4, 4:-4].mean((0, 2, 3), keepdim=True)
        inside = (expected - result - shift)[..., 4:-4, 4:-4]
        assert inside.abs().max() < 1e-5 * expected.abs().max()
        worst = (expected - result - shift).abs().max() / expected.abs().max()
        assert worst < 0.15
    assert difference(module, clone, prep, new) < 0.05


def test_greys_mean_is_the_one_with_the_smallest_error_at_the_borders():
    module, prep = build_network("convolutions")
    weight = module.first.weight.double()
    new, _ = rechannel(module, prep, number=1)

    def error(mean):
        offsets = torch.tensor([(mean - m) / s for m, s in zip(prep.mean, prep.std, strict=True)])
        return float(((weight * offsets[:, None, None]).sum(1) ** 2).sum())

    tried = [error(mean) for mean in torch.linspace(0.406, 0.485, 200).tolist()]
    assert error(new.mean[0]) <= min(tried) * (1 + 1e-6)


def test_the_constant_goes_into_the_bias_the_batchnorm_or_a_new_bias():
    names = {}
    for kind in ("convnext", "resnet18", "patches", "normless", "branches"):
        module, prep = build_network(kind)
        _, changes = rechannel(module, prep, number=1)
        names[kind] = [(c.tensor, c.fate) for c in changes if not c.tensor.endswith("weight")]
    assert names == {
        "convnext": [("stem.0.bias", "reshaped")],
        "resnet18": [("bn1.running_mean", "reshaped")],
        "patches": [("cut.bias", "new")],
        "normless": [("stem.bias", "new")],  # the BatchNorm is not the only one to see it
        "branches": [("norm.running_mean", "reshaped"), ("wide.bias", "reshaped")],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_new_channels_of_a_tuned_layer_begin_at_zero_and_the_old_network_stays(kind):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    new, changes = rechannel(clone, prep, number=13, rgb=BANDS, is_tuned=True)
    inputs = noise(prep, channels=13)
    expected, result = outputs(module, inputs[:, BANDS]), outputs(clone, inputs)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert [new.mean[place] for place in BANDS] == list(prep.mean)
    assert new.mean[0] == new.mean[12] == pytest.approx(sum(prep.mean) / 3)
    assert new.std[4] == pytest.approx(sum(prep.std) / 3)
    for change in changes:
        old = module.state_dict()[change.tensor]
        assert (change.shape_before, change.before) == (tuple(old.shape), digest(old))
        assert change.shape_after == (old.shape[0], 13, *old.shape[2:])
        assert "10 new channels begin at zero" in change.because


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 4, 13])
def test_a_frozen_layer_sees_every_channel_and_equal_ones_as_it_did(kind, number):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    _, (change, *_) = rechannel(clone, prep, number=number)
    weight, old = clone.state_dict()[change.tensor], module.state_dict()[change.tensor]
    slow = old.mean(1) * 3 / number
    for channel in range(number):
        is_colour = number > 3 and channel < 3
        kernel = old[:, channel] * 3 / number if is_colour else slow
        torch.testing.assert_close(weight[:, channel], kernel)
    grey = noise(prep, channels=1)
    expected = outputs(module, grey.expand(-1, 3, -1, -1))
    result = outputs(clone, grey.expand(-1, number, -1, -1))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_network_for_grey_takes_more_channels():
    make = lambda: seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()))  # noqa: E731
    module, clone = make(), make()
    prep = Preprocessing(size=(8, 8), resize=8, mean=(0.3,), std=(0.2,))
    new, _ = rechannel(clone, prep, number=5)
    assert (new.mean, new.std) == ((0.3,) * 5, (0.2,) * 5)
    grey = noise(prep)
    torch.testing.assert_close(outputs(clone, grey.expand(-1, 5, -1, -1)), outputs(module, grey))


def test_three_channels_in_another_order():
    module, prep = build_network("resnet18")
    clone, _ = build_network("resnet18")
    new, _ = rechannel(clone, prep, number=3, rgb=(2, 1, 0))
    inputs = noise(prep)
    torch.testing.assert_close(outputs(clone, inputs.flip(1)), outputs(module, inputs))
    assert new.mean == prep.mean[::-1]


def test_the_same_channels_change_nothing():
    module, prep = build_network("resnet18")
    before = {name: digest(tensor) for name, tensor in module.state_dict().items()}
    assert rechannel(module, prep, number=3) == (prep, ())
    assert {name: digest(tensor) for name, tensor in module.state_dict().items()} == before
    many = replace(prep, mean=(0.5,) * 13, std=(0.5,) * 13)
    assert rechannel(module, many, number=13) == (many, ())


def test_nothing_asks_for_a_gradient_and_libraries_notice_the_number():
    module, prep = build_network("mobileone")
    module.in_chans = 3
    rechannel(module, prep, number=1)
    assert module.in_chans == 1
    assert not any(p.requires_grad for p in module.parameters())


class Checks(nn.Module):
    """A network that insists on colour."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("colour, please")
        return self.conv(x).flatten(1)


class Standardised(nn.Conv2d):
    """Works on its kernel first."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return torch.nn.functional.conv2d(x, weight / weight.std(), self.bias)


REFUSED = {
    "a layer on all pixels": (
        lambda: network("layers"),
        {"number": 1},
        r"first layer \(1\) is a Linear;",
    ),
    "BatchNorm first": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        {"number": 1},
        r"first layer \(0\) is a BatchNorm2d;",
    ),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten()),
        {"number": 4},
        r"first layer \(0\) is a convolution in 3 groups; choose a base model",
    ),
    "pixels to channels": (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.Flatten()),
        {"number": 1},
        r"takes 12 channels made of the input's 3",
    ),
    "standardised kernels": (
        lambda: nn.Sequential(Standardised(3, 4, 3), nn.Flatten()),
        {"number": 1},
        r"is a Standardised, which transforms its kernels before it uses them",
    ),
    "derived kernels": (
        lambda: nn.Sequential(
            torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten()
        ),
        {"number": 1},
        r"is a ParametrizedConv2d, which transforms its kernels",
    ),
    "no layers": (nn.Flatten, {"number": 1}, r"Flatten has no layer whose channels"),
    "a network that checks": (
        Checks,
        {"number": 4},
        r"Checks cannot be made to take inputs of 4 channels \(colour, please\); choose another",
    ),
    "too many": (
        network,
        {"number": 14},
        r"^14 channels are not supported; give images of 1 to",
    ),
    "none": (network, {"number": 0}, r"^0 channels are not supported"),
    "a place twice": (
        network,
        {"number": 5, "rgb": (1, 1, 2)},
        r"at 1, 1, 2 are not three positions among 5",
    ),
    "a place beyond": (network, {"number": 5, "rgb": (3, 4, 5)}, r"counted from 0\.$"),
}


@pytest.mark.parametrize(("make", "wanted", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(make, wanted, message):
    with pytest.raises(ModelError, match=message):
        rechannel(make().eval(), PREP, **wanted)


def test_a_network_for_bands_takes_no_other_number():
    many = replace(PREP, mean=(0.5,) * 13, std=(0.5,) * 13)
    with pytest.raises(ModelError, match=r"takes 13 channels, the images have 4; only a network"):
        rechannel(nn.Conv2d(13, 2, 3), many, number=4)


@pytest.mark.parametrize("number", [1, 4, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_network_is_shaped_as_the_changed_one(kind, number):
    module, prep = build_network(kind)
    new, _ = rechannel(module, prep, number=number)
    fresh = seeded(KINDS[kind][0])
    refit(fresh, module.state_dict(), number)
    fresh.load_state_dict(module.state_dict())
    inputs = noise(new)
    torch.testing.assert_close(outputs(fresh, inputs), outputs(module, inputs))
