"""Other inputs end to end: loaded, cut (law 1), saved, built again; no wish changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network.feature_layers import feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.ledger import tensors_of
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble, rebuild, unique_state
from warmstart.network.weights import digest, tensor_digest, unique_tensors

NO_WISH = InputOptions()
WISHES = {
    "grey": InputOptions(channels=1),
    "alpha": InputOptions(channels=4, is_tuned=True),
    "bands": InputOptions(channels=13, rgb=(3, 2, 1), ranges=((0.0, 9.0),) * 13),
    "size": InputOptions(size=64),
    "size and bands": InputOptions(size=96, channels=13, is_tuned=True),
    "size and grey": InputOptions(size=96, channels=1),
}
ARCHES = {
    "timm:lcnet_035": lambda: timm.create_model("lcnet_035"),
    "timm:resnetv2_18d": lambda: timm.create_model("resnetv2_18d"),
    "timm:vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224"),
    "torchvision:resnet18": torchvision.models.resnet18,
}
OWN = {
    "convolutions": network,
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights of each design."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for arch, make in ARCHES.items():
            save_file(make().state_dict(), folder / f"{arch.partition(':')[2]}.safetensors")
    return folder


def result(files, arch, inputs):
    return load(files / f"{arch.partition(':')[2]}.safetensors", arch=arch, inputs=inputs)


def inputs_for(prep):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(2, prep.channels, *prep.size, generator=generator)


def check(base, own=None):
    """Law 1 after surgery, and the same logits from what would be saved."""
    prep = base.record.preprocessing
    blocks, inputs = cut(base.module, prep), inputs_for(prep)
    with torch.no_grad():
        torch.testing.assert_close(blocks.logits(inputs), base.module(inputs))
    chosen = (feature_layers(blocks.record)[0], feature_layers(blocks.record)[-1])
    generator = torch.Generator().manual_seed(7)
    from warmstart.network.feature_layers import layer_width

    width = sum(layer_width(blocks.record, layer) for layer in chosen)
    weight = torch.randn(3, width, generator=generator)
    model = assemble(blocks, chosen, weight, torch.zeros(3))
    state = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    again = rebuild(base.record.arch, state, chosen, 3, prep, own)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), model(inputs))


@pytest.mark.parametrize("options", WISHES)
@pytest.mark.parametrize("arch", ARCHES)
def test_changed_cut_saved_and_built_again(files, arch, options):
    wanted = WISHES[options]
    base = result(files, arch, wanted)
    prep = base.record.preprocessing
    assert prep.channels == (wanted.channels or 3)
    assert prep.size == (wanted.size or 224,) * 2
    assert prep.ranges == wanted.ranges
    assert base.module(inputs_for(prep)).shape == (2, 1000)
    check(base)


@pytest.mark.parametrize("options", WISHES)
@pytest.mark.parametrize("kind", OWN)
def test_a_module_of_ones_own_is_changed_on_a_copy_and_serves_to_build_it_again(kind, options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        module = OWN[kind]().eval()
    before = {name: digest(tensor) for name, tensor in module.state_dict().items()}
    base = load(module, preprocessing=PREP, inputs=WISHES[options])
    check(base, own=module)
    assert {name: digest(tensor) for name, tensor in module.state_dict().items()} == before


def test_no_wish_is_what_it_was(files):
    for arch in ARCHES:
        plain, empty = result(files, arch, None), result(files, arch, NO_WISH)
        assert plain.record == empty.record
        assert plain.changes == empty.changes == ()
    assert load("lite0", inputs=NO_WISH).record == load("lite0").record


def test_the_record_is_that_of_the_changed_network(files):
    plain = result(files, "timm:lcnet_035", None)
    digests = {plain.record.sha256}
    for wanted in (
        WISHES["grey"],
        WISHES["bands"],
        dataclasses.replace(WISHES["bands"], is_tuned=True),
    ):
        base = result(files, "timm:lcnet_035", wanted)
        assert base.record.sha256 == tensor_digest(unique_tensors(base.module))
        assert base.record.parameters == sum(p.numel() for p in base.module.parameters())
        assert dataclasses.replace(
            base.record, sha256="", parameters=0, preprocessing=plain.record.preprocessing
        ) == dataclasses.replace(plain.record, sha256="", parameters=0)
        digests.add(base.record.sha256)
    assert len(digests) == 4  # a store that asks for the digest never mixes them up


def test_changes_name_the_tensors_of_the_base_model_by_their_bytes(files):
    plain = result(files, "timm:vit_tiny_patch16_224", None)
    before = {name: digest(tensor) for name, tensor in plain.module.state_dict().items()}
    base = result(files, "timm:vit_tiny_patch16_224", WISHES["size and bands"])
    assert [c.tensor for c in base.changes] == ["pos_embed", "patch_embed.proj.weight"]
    changed = {c.tensor for c in base.changes}
    assert all(c.before == before[c.tensor] for c in base.changes)
    blocks = cut(base.module, base.record.preprocessing)
    for name, tensor in tensors_of(blocks).items():  # law 2: all others are what they were
        assert (digest(tensor) == before[name]) == (name not in changed), name


def test_the_shipped_base_model_sees_rgb_among_thirteen_bands():
    plain, base = (
        load("lite0"),
        load("lite0", inputs=InputOptions(size=64, channels=13, rgb=(3, 2, 1), is_tuned=True)),
    )
    bands = torch.randn(2, 13, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = plain.module(bands[:, [3, 2, 1]]), base.module(bands)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_shipped_base_model_sees_grey_as_it_saw_copied_grey():
    plain, base = load("lite0"), load("lite0", inputs=InputOptions(channels=1))
    grey = torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = plain.module(grey.expand(-1, 3, -1, -1)), base.module(grey)
    assert float((actual - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_ranges_go_with_the_bands():
    with pytest.raises(
        ModelError, match=r"ranges are given for 2 bands, the network takes 3; give"
    ):
        load("lite0", inputs=InputOptions(ranges=((0.0, 1.0),) * 2))
    base = load("lite0", inputs=InputOptions(ranges=((0.0, 10.0),) * 3))
    assert base.record.preprocessing.ranges == ((0.0, 10.0),) * 3
    assert base.changes == ()


def test_a_network_for_bands_is_not_shown_pictures():
    own = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    says = r"^module:Sequential takes 5 bands, the images have 3; choose a base model for pictures"
    with pytest.raises(ModelError, match=says):
        load(own, inputs=InputOptions(image_channels=3))
    assert (
        load(own, inputs=InputOptions(image_channels=5, channels=5)).record.preprocessing.channels
        == 5
    )
    focus = nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert (
        load(focus, inputs=InputOptions(image_channels=3)).changes == ()
    )  # its first layer is no stem
    for image_channels in (1, 3):  # any start for pictures can be shown pictures
        for channels in (None, 1, 3, 4):
            load(
                network(),
                preprocessing=PREP,
                inputs=InputOptions(image_channels=image_channels, channels=channels),
            )


def test_the_unchanged_record_stays():
    plain = load(network(), preprocessing=PREP)
    assert (plain.origin, plain.origin.preprocessing) == (plain.record, PREP)
    base = load(network(), preprocessing=PREP, inputs=InputOptions(channels=1, size=48))
    assert (base.origin, base.origin.preprocessing) == (plain.record, PREP)
    assert base.record.preprocessing.channels == 1
    assert base.random_tensors == frozenset()


@pytest.mark.parametrize(
    ("tuned_blocks", "first", "is_zero"),
    [
        ((), False, False),
        ((), True, True),
        ((("first", True),), False, True),
        ((("first", False),), True, False),
        ((("second", True), ("fir", True)), False, False),
    ],
)
def test_new_channels_begin_at_zero_where_the_user_has_the_first_block_trained(
    tuned_blocks, first, is_zero
):
    options = InputOptions(channels=5, is_tuned=first, tuned_blocks=tuned_blocks)
    kernel = load(network(), preprocessing=PREP, inputs=options).module.first.weight
    assert bool((kernel[:, 3:] == 0).all()) == is_zero


def test_a_base_model_that_cannot_be_changed_says_why():
    with pytest.raises(ModelError, match="is a Linear"):
        load(network("layers"), preprocessing=PREP, inputs=InputOptions(channels=1))
    with pytest.raises(ModelError, match="Sequential cannot take images of 64 px"):
        load(network("layers"), preprocessing=PREP, inputs=InputOptions(size=64))
    with pytest.raises(ModelError, match="0 channels are not supported"):
        load(network(), preprocessing=PREP, inputs=InputOptions(channels=0))


def test_a_model_of_other_channels_is_not_built_from_another_network():
    base = load(network(), preprocessing=PREP, inputs=InputOptions(channels=4))
    blocks = cut(base.module, base.record.preprocessing)
    layer = feature_layers(blocks.record)[-1]
    model = assemble(blocks, [layer], torch.zeros(3, blocks.record.neck_width), torch.zeros(3))
    other = nn.Sequential(nn.Conv2d(3, 8, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="Sequential cannot take inputs of shape"):
        rebuild("module:Net", unique_state(model), [layer], 3, base.record.preprocessing, other)


def test_a_network_that_takes_as_many_channels_already_is_left_as_it_is(tmp_path):
    """Whatever the library says of its published weights."""
    module = timm.create_model("resnet18", in_chans=13, num_classes=2)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    options = InputOptions(channels=13, ranges=((0.0, 9.0),) * 13)
    own = nn.Sequential(nn.Conv2d(13, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for base in (
        load(tmp_path / "w.safetensors", arch="timm:resnet18", inputs=options),
        load(module, inputs=options),
        load(own, inputs=options),
    ):
        assert base.changes == ()
        prep = base.record.preprocessing
        assert (prep.channels, prep.ranges) == (13, options.ranges)
        assert prep.mean[0] == prep.mean[12] == pytest.approx(0.449)
        assert base.module(inputs_for(prep)).shape[0] == 2
