"""Other inputs: sizes, channels, ranges; the changed network answers as the old one did."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from small_networks import noise, prep, rng, seeded, warm
from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network import load as network_load
from warmstart.network.architectures import build, build_pretrained, preprocessing_of, size_option
from warmstart.network.feature_layers import feature_layers
from warmstart.network.inputs import (
    InputOptions,
    find_stems,
    rechannel,
    refit,
    refit_size,
    resize,
    resized_preprocessing,
    set_kernel,
    set_size,
)
from warmstart.network.ledger import tensors_of
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.segments import as_tensor
from warmstart.network.surgery import rebuild, unique_state
from warmstart.network.weights import digest, tensor_digest, unique_tensors
from warmstart.records.inputs import Preprocessing

VIT = "timm:vit_tiny_patch16_224"


SWIN = "timm:swin_tiny_patch4_window7_224"


TORCHVISION = "torchvision:vit_b_16"


def moved(arch):
    """A network of a library with random weights that all differ, and its preprocessing."""
    module = seeded(lambda: build(arch))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng()), alpha=0.02)
    return module.requires_grad_(False), preprocessing_of(arch)


def own_vit():
    return torchvision.models.VisionTransformer(64, 16, 1, 2, 24, 48, num_classes=3).eval()


def answers(module, prep):
    with torch.no_grad():
        return module(torch.randn(2, prep.channels, *prep.size, generator=rng(3)))


def bytes_of(module):
    return {name: digest(tensor) for name, tensor in module.state_dict().items()}


def test_a_convnet_takes_another_size_as_it_is():
    module, original = moved("timm:resnet18")
    assert resize(module, "timm:resnet18", original, 224).preprocessing is original
    result = resize(module, "timm:resnet18", original, 96)
    assert (result.module, result.changes) == (module, ())
    assert result.preprocessing == resized_preprocessing(original, 96)
    assert answers(module, result.preprocessing).shape == (2, 1000)
    own = Preprocessing(size=(224, 224), resize=256, mean=(0.5,), std=(0.5,))
    for size, resized in ((224, 256), (112, 128), (192, 219), (448, 512)):  # the crop's share
        assert resized_preprocessing(own, size).resize == resized


@pytest.mark.parametrize(
    ("arch", "size", "names"),
    [
        (VIT, 64, ["pos_embed"]),
        (SWIN, 64, ["layers.2"] * 6 + ["layers.3"] * 2),
        ("timm:cait_xxs24_224", 96, ["pos_embed"]),  # resampled by our own rule
        ("timm:pit_ti_224", 96, ["pos_embed"]),
        ("timm:volo_d1_224", 96, ["pos_embed"]),
        ("timm:hiera_tiny_224", 96, ["pos_embed"]),
    ],
)
def test_position_embeddings_are_resampled(arch, size, names):
    module, original = moved(arch)
    before = bytes_of(module)
    result = resize(module, arch, original, size)
    assert [c.tensor[: len(n)] for c, n in zip(result.changes, names, strict=True)] == names
    assert bytes_of(module) == before
    state, after = result.module.state_dict(), bytes_of(result.module)
    for change in result.changes:
        assert (change.fate, change.before) == ("reshaped", before[change.tensor])
        assert change.shape_after == tuple(state[change.tensor].shape) != change.shape_before
        assert "resampled" in change.because
    changed = {change.tensor for change in result.changes}
    assert {n for n, value in after.items() if before.get(n) != value} - changed == set()
    assert answers(result.module, result.preprocessing).isfinite().all()
    assert not any(p.requires_grad for p in result.module.parameters())


def test_a_smooth_table_stays_what_it_was():
    module, prep = moved(VIT)
    plane = torch.linspace(-1, 1, 14)
    with torch.no_grad():
        module.pos_embed.zero_()
        module.pos_embed[0, 1:, 0] = plane.repeat(14)  # grows from left to right
        module.pos_embed[0, 0] = 7.0  # of the class token
    result = resize(module, VIT, prep, 112).module.pos_embed[0]
    assert (result[0] == 7).all()
    rows = result[1:, 0].view(7, 7)
    torch.testing.assert_close(rows, rows[:1].expand(7, -1))
    torch.testing.assert_close(rows[0, 1:-1], plane.view(7, 2).mean(1)[1:-1], atol=0.02, rtol=0)


@pytest.mark.parametrize(("arch", "size"), [(VIT, 288), (SWIN, 64), (SWIN, 160)])
def test_timm_itself_would_load_the_weights_so(arch, size):
    module, original = moved(arch)
    ours = resize(module, arch, original, size).module
    theirs = build_pretrained(arch, module.state_dict(), (size, size)).eval()
    wanted = resized_preprocessing(original, size)
    torch.testing.assert_close(answers(ours, wanted), answers(theirs, wanted))


def test_torchvision_itself_would_load_the_weights_so():
    module, original = moved(TORCHVISION)
    theirs = torchvision.models.vit_b_16(image_size=96).eval()
    theirs.load_state_dict(interpolate_embeddings(96, 16, dict(module.state_dict())))
    result = resize(module, TORCHVISION, original, 96)
    assert [change.tensor for change in result.changes] == ["encoder.pos_embedding"]
    wanted = result.preprocessing
    torch.testing.assert_close(answers(result.module, wanted), answers(theirs, wanted))


def test_torchvisions_vit_is_built_for_the_size_that_it_is_published_for(monkeypatch, tmp_path):
    """One of them is published for 518 px, and its weights did not fit; here one for 96 px."""
    state = torchvision.models.vit_b_16(image_size=96, num_classes=2).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    monkeypatch.setattr(network_load, "preprocessing_of", lambda _arch: prep(96))
    base = load(tmp_path / "w.safetensors", arch=TORCHVISION)
    assert base.module.image_size == 96


SWINS = {"img_size": 64, "depths": (1, 1, 1, 1)}


RESIZED = {
    "timm": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval(),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWINS).eval(),
    "torchvision": own_vit,
}


@pytest.mark.parametrize("kind", RESIZED)
def test_your_own_module_is_resized_on_a_copy_and_a_fresh_one_shaped_like_it(kind):
    module, fresh = RESIZED[kind](), RESIZED[kind]()
    before = bytes_of(module)
    result = resize(module, "module:Net", prep(64), 96)
    assert bytes_of(module) == before
    assert {c.fate for c in result.changes} == {"reshaped"}
    refit_size(fresh, result.module.state_dict(), (96, 96))
    fresh.load_state_dict(result.module.state_dict())
    wanted = result.preprocessing
    torch.testing.assert_close(answers(fresh.eval(), wanted), answers(result.module, wanted))


IMPOSSIBLE = {
    "no multiple of a patch": (VIT, 100, r"\(its patches are 16 px .* it takes: 96 and 112\.$"),
    "patches of 14 px": ("timm:eva02_tiny_patch14_224", 96, r"that it takes: 84 and 98\.$"),
    "windows of 7": ("torchvision:maxvit_t", 96, r"partition size.*; the nearest size .*: 224\.$"),
    "a layer over all positions": (
        "timm:mixer_s32_224",
        96,
        r"fc1.weight has a value for each position and cannot be resampled\); the nearest size",
    ),
}


@pytest.mark.parametrize(("arch", "size", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_size_is_refused_with_the_nearest_possible_ones(arch, size, message):
    module, original = moved(arch)
    with pytest.raises(ModelError, match=message):
        resize(module, arch, original, size)


def test_sizes_of_your_own_module_that_are_refused():
    class Untouchable(nn.Module):
        def forward(self, inputs):
            raise AssertionError("it was tried")

    for size in (15, 1025):
        says = rf"^Untouchable cannot take images of {size} px; sizes from 16 to 1024 px are pos"
        with pytest.raises(ModelError, match=says):
            resize(Untouchable(), "module:Untouchable", prep(32), size)
    large = torchvision.models.VisionTransformer(96, 96, 1, 2, 24, 48).eval()
    with pytest.raises(ModelError, match=r"the nearest size .*: 960\.$"):  # 1056 is out of range
        resize(large, "module:Net", prep(96), 1020)
    module = nn.Sequential(nn.Flatten(), nn.Linear(300, 5))
    with pytest.raises(ModelError, match=r"^Sequential cannot .* \(mat1 .*\); it takes 10 x 10 px"):
        resize(module, "module:Sequential", prep(10), 64)
    with pytest.raises(ModelError, match="its patches are 16 px wide"):
        set_size(own_vit(), (72, 72))
    assert size_option("torchvision:maxvit_t", (448, 448)) == {"input_size": (448, 448)}


STEMS = {
    "convolutions": (network, ["first"], ["norm"]),
    "attention": (lambda: network("attention"), ["patches"], [None]),
    "branches": (
        lambda: timm.create_model("mobileone_s0"),
        ["stem.conv_scale.conv", "stem.conv_kxk.0.conv"],
        ["stem.conv_scale.bn", "stem.conv_kxk.0.bn"],
    ),
}


@pytest.mark.parametrize(("make", "names", "norms"), STEMS.values(), ids=STEMS)
def test_the_first_layer_is_the_one_that_is_called_first(make, names, norms):
    module = make().eval()
    stems = find_stems(module, torch.rand(2, 3, 32, 32))
    assert [stem.name for stem in stems] == names
    assert [stem.norm and stem.norm[0] for stem in stems] == norms
    with pytest.raises(ModelError, match=r" not take inputs of 13 channels .*; pass the prepro"):
        find_stems(module, torch.rand(2, 13, 32, 32))
    assert not [m for m in module.modules() if m._forward_hooks]


def test_only_what_takes_that_number_of_channels_is_reshaped():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 3, groups=2))
    shapes = {"0.weight": (4, 3, 3, 3), "1.weight": (2, 13, 3, 3), "2.weight": (2, 13, 3, 3)}
    refit(module, {name: torch.zeros(shape) for name, shape in shapes.items()}, 13)
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


MOMENTS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


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


KINDS = {
    "convolutions": (network, 32),
    "attention": (lambda: network("attention"), 32),
    "normless": (Normless, 16),
    "branches": (Branches, 16),
    "resnet18": (torchvision.models.resnet18, 32),
    "vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2), 64),
    "convnext": (lambda: timm.create_model("convnext_atto"), 32),
    "mobileone": (lambda: timm.create_model("mobileone_s0"), 32),
}


EXACT = ("attention", "vit_tiny", "convnext")  # nothing is padded


def build_network(kind, **options):
    """A network with statistics that are not the trivial ones, and its preprocessing."""
    make, side = KINDS[kind]
    module = seeded(make)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2, generator=rng())
            nn.init.uniform_(norm.running_var, 0.5, 2.0, generator=rng())
    original = Preprocessing(size=(side, side), resize=side, **(MOMENTS | options))
    return module.requires_grad_(False), original


def outputs(module, x):
    with torch.no_grad():
        return as_tensor(module(x))


def values(prep, n=3, channels=None):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(n, channels or prep.channels, *prep.size, generator=generator)


def normalised(values, prep):
    mean, std = (torch.tensor(v)[:, None, None] for v in (prep.mean, prep.std))
    return (values - mean) / std


def difference(module, clone, prep, new):
    """The largest change of an output between a grey picture copied to RGB, and the picture."""
    grey = values(prep, channels=1)
    expected = outputs(module, normalised(grey.expand(-1, 3, -1, -1), prep))
    result = outputs(clone, normalised(grey, new))
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_grey_is_the_picture_copied_to_all_channels(kind):
    """Exactly where the means are equal or nothing is padded, else but for the borders."""
    for mean in ((0.4,) * 3, MOMENTS["mean"]):
        module, prep = build_network(kind, mean=mean, std=(0.2, 0.25, 0.3))
        clone, _ = build_network(kind)
        new, changes = rechannel(clone, prep, number=1)
        is_equal = len({*mean}) == 1
        assert min(mean) <= new.mean[0] <= max(mean)
        assert is_equal == all(change.tensor.endswith("weight") for change in changes)
        most = 1e-5 if is_equal or kind in EXACT else 0.05
        assert difference(module, clone, prep, new) < most
        assert not any(p.requires_grad for p in clone.parameters())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("convnext", [("stem.0.bias", "reshaped")]),
        ("resnet18", [("bn1.running_mean", "reshaped")]),
        ("normless", [("stem.bias", "new")]),  # the BatchNorm is not the only one to see it
        ("branches", [("norm.running_mean", "reshaped"), ("wide.bias", "reshaped")]),
    ],
)
def test_the_constant_goes_into_the_bias_the_batchnorm_or_a_new_bias(kind, expected):
    _, changes = rechannel(*build_network(kind), number=1)
    assert [(c.tensor, c.fate) for c in changes if not c.tensor.endswith("weight")] == expected


def same(result, expected):
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [BANDS, (2, 1, 0)])
def test_new_channels_of_a_tuned_layer_begin_at_zero_and_the_old_network_stays(kind, places):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    number = 13 if places == BANDS else 3
    new, changes = rechannel(clone, prep, number=number, rgb=places, is_tuned=True)
    inputs = values(prep, channels=number)
    same(outputs(clone, inputs), outputs(module, inputs[:, places]))
    assert [new.mean[place] for place in places] == list(prep.mean)
    for change in changes:
        old = module.state_dict()[change.tensor]
        assert (change.shape_before, change.before) == (tuple(old.shape), digest(old))
        assert change.shape_after == (old.shape[0], number, *old.shape[2:])
    if number == 13:
        assert "10 new channels begin at zero" in changes[0].because
        assert new.mean[0] == new.mean[12] == pytest.approx(sum(prep.mean) / 3)
        assert new.std[4] == pytest.approx(sum(prep.std) / 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 13])
def test_a_frozen_layer_sees_every_channel_and_equal_ones_as_it_did(kind, number):
    module, prep = build_network(kind)
    clone, _ = build_network(kind)
    new, (change, *_) = rechannel(clone, prep, number=number)
    weight, old = clone.state_dict()[change.tensor], module.state_dict()[change.tensor]
    for channel in range(number):
        kernel = old[:, channel] if number > 3 and channel < 3 else old.mean(1)
        torch.testing.assert_close(weight[:, channel], kernel * 3 / number)
    grey = values(prep, channels=1)
    expected = outputs(module, grey.expand(-1, 3, -1, -1))
    same(outputs(clone, grey.expand(-1, number, -1, -1)), expected)
    fresh = seeded(KINDS[kind][0], 2)
    refit(fresh, clone.state_dict(), number)
    fresh.load_state_dict(clone.state_dict())
    assert torch.equal(outputs(fresh, values(new)), outputs(clone, values(new)))


def test_the_same_channels_change_nothing_and_a_network_for_grey_takes_more():
    module, original = build_network("resnet18")
    before = bytes_of(module)
    assert rechannel(module, original, number=3) == (original, ())
    assert bytes_of(module) == before
    module = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()))
    clone, original = copy.deepcopy(module), replace(prep(8), mean=(0.3,), std=(0.2,))
    new, _ = rechannel(clone, original, number=5)
    assert (new.mean, new.std) == ((0.3,) * 5, (0.2,) * 5)
    grey = values(original)
    same(outputs(clone, grey.expand(-1, 5, -1, -1)), outputs(module, grey))


class Standardised(nn.Conv2d):
    """Works on its kernel first."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return torch.nn.functional.conv2d(x, weight / weight.std(), self.bias)


class Checks(nn.Sequential):
    """A network that insists on colour."""

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("colour, please")
        return super().forward(x).flatten(1)


def starting(*layers):
    return nn.Sequential(*layers, nn.Flatten())


WEIGHT_NORM = torch.nn.utils.parametrizations.weight_norm


CHANGED = r"which transforms its kernels before it uses them"
REFUSED = [
    (lambda: network("layers"), 1, r"first layer \(1\) is a Linear;"),
    (lambda: starting(nn.BatchNorm2d(3)), 1, r"first layer \(0\) is a BatchNorm2d;"),
    (lambda: starting(nn.Conv2d(3, 6, 3, groups=3)), 4, r" is a convolution in 3 groups; choose"),
    (lambda: starting(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), 1, r"takes 12 channels made of"),
    (lambda: starting(Standardised(3, 4, 3)), 1, rf"is a Standardised, {CHANGED}"),
    (lambda: starting(WEIGHT_NORM(nn.Conv2d(3, 4, 3))), 1, rf"is a ParametrizedConv2d, {CHANGED}"),
    (nn.Flatten, 1, r"Flatten has no layer whose channels"),
    (lambda: Checks(nn.Conv2d(3, 2, 3)), 4, r"4 channels \(colour, please\); choose another"),
    (network, 14, r"^14 channels are not supported; give images of 1 to"),
    (network, 0, r"^0 channels are not supported"),
]


@pytest.mark.parametrize(("make", "number", "message"), REFUSED)
def test_other_channels_that_cannot_be_given_are_refused(make, number, message):
    with pytest.raises(ModelError, match=message):
        rechannel(make().eval(), PREP, number)


def test_positions_and_bands_that_make_no_sense_are_refused():
    for rgb, message in (
        ((1, 1, 2), r"at 1, 1, 2 are not three positions among 5"),
        ((3, 4, 5), r"counted from 0\.$"),
    ):
        with pytest.raises(ModelError, match=message):
            rechannel(network(), PREP, 5, rgb)
    with pytest.raises(ModelError, match=r"takes 13 channels, the images have 4; only a network"):
        rechannel(nn.Conv2d(13, 2, 3), prep(32, 13), number=4)


WISHES = {
    "grey": InputOptions(channels=1),
    "bands": InputOptions(channels=13, rgb=(3, 2, 1), ranges=((0.0, 9.0),) * 13),
    "size and bands": InputOptions(size=96, channels=13, is_tuned=True),
}


ARCHES = {
    "timm:lcnet_035": lambda: timm.create_model("lcnet_035"),
    "timm:vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224"),
    "torchvision:resnet18": torchvision.models.resnet18,
}


OWN = {
    "convolutions": network,
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48),
}


def check(base, own=None):
    """Law 1 after surgery, and the same logits from what would be saved."""
    wanted = base.record.preprocessing
    blocks, inputs = cut(base.module, wanted), values(wanted)
    with torch.no_grad():
        torch.testing.assert_close(blocks.logits(inputs), base.module(inputs))
    chosen = (feature_layers(blocks.record)[0], feature_layers(blocks.record)[-1])
    model = warm(blocks, chosen)
    state = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    again = rebuild(base.record.arch, state, chosen, 3, wanted, own)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), model(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
def test_changed_cut_saved_and_built_again(tmp_path, arch):
    path = tmp_path / "w.safetensors"
    save_file(seeded(ARCHES[arch]).state_dict(), path)
    plain = load(path, arch=arch)
    empty = load(path, arch=arch, inputs=InputOptions())
    assert (empty.record, empty.changes) == (plain.record, ())
    before, digests = bytes_of(plain.module), {plain.record.sha256}
    for options in WISHES.values():
        base = load(path, arch=arch, inputs=options)
        record, wanted = base.record, base.record.preprocessing
        assert wanted.channels == options.channels
        assert (wanted.size, wanted.ranges) == ((options.size or 224,) * 2, options.ranges)
        assert record.sha256 == tensor_digest(unique_tensors(base.module))
        assert record.parameters == sum(p.numel() for p in base.module.parameters())
        assert base.origin == plain.record
        assert (
            replace(
                record,
                sha256=plain.record.sha256,
                parameters=plain.record.parameters,
                preprocessing=plain.record.preprocessing,
            )
            == plain.record
        )
        changed = {c.tensor: c.before for c in base.changes}
        assert all(digest in (None, before[name]) for name, digest in changed.items())
        for name, tensor in tensors_of(cut(base.module, wanted)).items():  # law 2
            assert name in changed or digest(tensor) == before[name], name
        digests.add(record.sha256)
        check(base)
    assert len(digests) == 1 + len(WISHES)  # no two share a feature cache


@pytest.mark.parametrize("options", WISHES)
@pytest.mark.parametrize("kind", OWN)
def test_a_module_of_ones_own_is_changed_on_a_copy_and_serves_to_build_it_again(kind, options):
    module = seeded(OWN[kind])
    before = bytes_of(module)
    check(load(module, preprocessing=PREP, inputs=WISHES[options]), own=module)
    assert bytes_of(module) == before


def test_the_shipped_base_model_sees_grey_as_it_saw_copied_grey():
    plain, grey = load("lite0"), noise(224, 2, 1)
    base = load("lite0", inputs=InputOptions(channels=1))
    with torch.no_grad():
        same(base.module(grey), plain.module(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(ModelError, match=r"ranges are given for 2 bands, the network takes 3; gi"):
        load("lite0", inputs=InputOptions(ranges=((0.0, 1.0),) * 2))
    base = load("lite0", inputs=InputOptions(ranges=((0.0, 10.0),) * 3))
    assert base.record.preprocessing.ranges == ((0.0, 10.0),) * 3
    assert base.changes == ()


def test_a_network_for_bands_is_not_shown_pictures():
    own = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    says = r"^module:Sequential takes 5 bands, the images have 3; choose a base model for pictures"
    with pytest.raises(ModelError, match=says):
        load(own, inputs=InputOptions(image_channels=3))
    base = load(own, inputs=InputOptions(image_channels=5, channels=5))
    assert base.record.preprocessing.channels == 5
    focus = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), *own[1:])
    assert load(focus, inputs=InputOptions(image_channels=3)).changes == ()  # not a stem
    for image_channels, channels in itertools.product((1, 3), (None, 1, 3, 4)):
        options = InputOptions(image_channels=image_channels, channels=channels)
        load(network(), preprocessing=PREP, inputs=options)


def test_new_channels_begin_at_zero_where_the_user_has_the_first_block_trained():
    for blocks, is_tuned, is_zero in (
        ((), False, False),
        ((), True, True),
        ((("first", True),), False, True),
        ((("first", False),), True, False),
        ((("second", True), ("fir", True)), False, False),
    ):
        options = InputOptions(channels=5, is_tuned=is_tuned, tuned_blocks=blocks)
        kernel = load(network(), preprocessing=PREP, inputs=options).module.first.weight
        assert bool((kernel[:, 3:] == 0).all()) == is_zero


def test_a_network_that_takes_as_many_channels_already_is_left_as_it_is(tmp_path):
    """Whatever the library says of its published weights."""
    module, path = timm.create_model("resnet18", in_chans=13, num_classes=2), tmp_path / "w.pt"
    torch.save(module.state_dict(), path)
    options = InputOptions(channels=13, ranges=((0.0, 9.0),) * 13)
    own = nn.Sequential(nn.Conv2d(13, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for base, arch in ((path, "timm:resnet18"), (module, None), (own, None)):
        loaded = load(base, arch=arch, inputs=options)
        assert loaded.changes == ()
        wanted = loaded.record.preprocessing
        assert (wanted.channels, wanted.ranges) == (13, options.ranges)
        assert wanted.mean[0] == wanted.mean[12] == pytest.approx(0.449)
        assert len(loaded.module(values(wanted))) == 3
