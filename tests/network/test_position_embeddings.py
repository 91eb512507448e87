"""Other image sizes: position embeddings are resampled, and the nearest sizes are named."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network import load
from warmstart.network.architectures import build, build_pretrained, preprocessing_of, size_option
from warmstart.network.inputs import (
    refit_size,
    resize,
    resized_preprocessing,
    set_size,
)
from warmstart.network.weights import digest
from warmstart.records.inputs import Preprocessing

VIT = "timm:vit_tiny_patch16_224"
SWIN = "timm:swin_tiny_patch4_window7_224"
TORCHVISION = "torchvision:vit_b_16"


def random_network(arch):
    """A network of the library with random weights, and its preprocessing."""
    module = build(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return module.eval().requires_grad_(False), preprocessing_of(arch)


def own_vit():
    return torchvision.models.VisionTransformer(64, 16, 1, 2, 24, 48, num_classes=3).eval()


def outputs(module, prep):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        return module(torch.randn(2, prep.channels, *prep.size, generator=generator))


def own_prep(side):
    return Preprocessing(size=(side, side), resize=side, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_convnet_takes_another_size_as_it_is():
    module, prep = random_network("timm:resnet18")
    result = resize(module, "timm:resnet18", prep, 96)
    assert result.module is module
    assert result.changes == ()
    assert result.preprocessing == resized_preprocessing(prep, 96)
    assert outputs(module, result.preprocessing).shape == (2, 1000)


@pytest.mark.parametrize(("size", "resize_px"), [(224, 256), (112, 128), (192, 219), (448, 512)])
def test_the_crop_keeps_its_share(size, resize_px):
    prep = Preprocessing(size=(224, 224), resize=256, mean=(0.5,), std=(0.5,))
    assert resized_preprocessing(prep, size).resize == resize_px


def test_the_same_size_changes_nothing():
    module, prep = random_network("timm:resnet18")
    assert resize(module, "timm:resnet18", prep, 224).preprocessing is prep


@pytest.mark.parametrize(
    ("arch", "size", "names"),
    [
        (VIT, 64, ["pos_embed"]),
        (
            SWIN,
            64,
            [
                "layers.2",
                "layers.2",
                "layers.2",
                "layers.2",
                "layers.2",
                "layers.2",
                "layers.3",
                "layers.3",
            ],
        ),
        ("timm:cait_xxs24_224", 96, ["pos_embed"]),  # resampled by our own rule
        ("timm:pit_ti_224", 96, ["pos_embed"]),
        ("timm:volo_d1_224", 96, ["pos_embed"]),
        ("timm:hiera_tiny_224", 96, ["pos_embed"]),
    ],
)
def test_position_embeddings_are_resampled(arch, size, names):
    module, prep = random_network(arch)
    before = {name: digest(tensor) for name, tensor in module.state_dict().items()}
    result = resize(module, arch, prep, size)
    assert [c.tensor[: len(n)] for c, n in zip(result.changes, names, strict=True)] == names
    assert {name: digest(tensor) for name, tensor in module.state_dict().items()} == before
    state = result.module.state_dict()
    for change in result.changes:
        assert change.fate == "reshaped"
        assert change.before == before[change.tensor]
        assert change.shape_after == tuple(state[change.tensor].shape) != change.shape_before
        assert "resampled" in change.because
    changed = {change.tensor for change in result.changes}
    unchanged = {name: digest(tensor) for name, tensor in state.items() if name not in changed}
    assert unchanged == {name: before[name] for name in unchanged}
    assert outputs(result.module, result.preprocessing).isfinite().all()
    assert not any(p.requires_grad for p in result.module.parameters())


def test_a_smooth_table_stays_what_it_was():
    module, prep = random_network(VIT)
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


@pytest.mark.parametrize(("arch", "size"), [(VIT, 64), (VIT, 288), (SWIN, 64), (SWIN, 160)])
def test_timm_itself_would_load_the_weights_so(arch, size):
    module, prep = random_network(arch)
    ours = resize(module, arch, prep, size).module
    theirs = build_pretrained(arch, module.state_dict(), (size, size)).eval()
    wanted = resized_preprocessing(prep, size)
    torch.testing.assert_close(outputs(ours, wanted), outputs(theirs, wanted))


def test_torchvision_itself_would_load_the_weights_so():
    module, prep = random_network(TORCHVISION)
    from torchvision.models.vision_transformer import interpolate_embeddings

    theirs = torchvision.models.vit_b_16(image_size=96)
    theirs.load_state_dict(interpolate_embeddings(96, 16, dict(module.state_dict())))
    result = resize(module, TORCHVISION, prep, 96)
    assert [change.tensor for change in result.changes] == ["encoder.pos_embedding"]
    torch.testing.assert_close(
        outputs(result.module, result.preprocessing), outputs(theirs.eval(), result.preprocessing)
    )


OWN = {
    "timm": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval(), 96),
    "swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1)
        ).eval(),
        96,
    ),
    "torchvision": (own_vit, 96),
}


@pytest.mark.parametrize("kind", OWN)
def test_the_size_of_your_own_module_is_set_on_a_copy(kind):
    make, size = OWN[kind]
    module = make()
    before = {name: digest(tensor) for name, tensor in module.state_dict().items()}
    result = resize(module, "module:Net", own_prep(64), size)
    assert {name: digest(tensor) for name, tensor in module.state_dict().items()} == before
    assert result.changes
    assert all(c.fate == "reshaped" for c in result.changes)
    assert outputs(result.module, result.preprocessing).isfinite().all()


@pytest.mark.parametrize("kind", OWN)
def test_a_fresh_module_is_shaped_as_the_changed_one(kind):
    make, size = OWN[kind]
    result = resize(make(), "module:Net", own_prep(64), size)
    fresh = make()
    refit_size(fresh, result.module.state_dict(), (size, size))
    fresh.load_state_dict(result.module.state_dict())
    torch.testing.assert_close(
        outputs(fresh.eval(), result.preprocessing), outputs(result.module, result.preprocessing)
    )


def test_a_module_that_needs_no_telling_is_left_alone():
    module = network()
    set_size(module, (64, 64))
    refit_size(module, module.state_dict(), (64, 64))
    assert resize(module, "module:Net", PREP, 64).module is module


REFUSED = {
    "no multiple of a patch": (
        VIT,
        100,
        r"vit_tiny_patch16_224 cannot take images of 100 px \(its patches are 16 px wide"
        r"\); the nearest sizes that it takes: 96 and 112\.$",
    ),
    "patches of 14 px": (
        "timm:eva02_tiny_patch14_224",
        96,
        r"the nearest sizes that it takes: 84 and 98\.$",
    ),
    "windows of 7": (
        "torchvision:maxvit_t",
        96,
        r"partition size.*; the nearest size that it takes: 224\.$",
    ),
    "a layer over all positions": (
        "timm:mixer_s32_224",
        96,
        r"fc1.weight has a value for each position and cannot be resampled\); the nearest size",
    ),
}


@pytest.mark.parametrize(("arch", "size", "message"), REFUSED.values(), ids=REFUSED)
def test_an_impossible_size_is_refused_with_the_nearest_possible_ones(arch, size, message):
    module, prep = random_network(arch)
    with pytest.raises(ModelError, match=message):
        resize(module, arch, prep, size)


@pytest.mark.parametrize("size", [0, 15, 1025, 9999])
def test_sizes_out_of_range_are_refused_without_a_trial(size):
    class Untouchable(nn.Module):
        def forward(self, inputs):
            raise AssertionError("it was tried")

    says = (
        rf"^Untouchable cannot take images of {size} px; sizes from 16 to 1024 px are possible\.$"
    )
    with pytest.raises(ModelError, match=says):
        resize(Untouchable(), "module:Untouchable", own_prep(32), size)


def test_no_size_out_of_range_is_proposed():
    module, prep = random_network(VIT)
    with pytest.raises(ModelError, match=r"sizes? that it takes: 1008 and 1024\.$"):
        resize(module, VIT, prep, 1020)


def test_a_module_for_one_size_alone_says_so():
    module = nn.Sequential(nn.Flatten(), nn.Linear(300, 5))
    with pytest.raises(ModelError, match=r"^Sequential cannot .* \(mat1 .*\); it takes 10 x 10 px"):
        resize(module, "module:Sequential", own_prep(10), 64)


def test_torchvisions_vit_is_not_cut_short_in_silence():
    with pytest.raises(ModelError, match="its patches are 16 px wide"):
        resize(own_vit(), "module:VisionTransformer", own_prep(64), 72)
    with pytest.raises(ModelError, match="its patches are 16 px wide"):
        set_size(own_vit(), (72, 72))


def test_size_options_of_the_library():
    assert size_option(VIT, (224, 224)) == size_option(VIT, None) == {}
    assert size_option(VIT, (64, 64)) == {"img_size": (64, 64)}
    assert size_option("torchvision:maxvit_t", (448, 448)) == {"input_size": (448, 448)}
    assert size_option("torchvision:maxvit_t", (224, 224)) == {}
    assert size_option("torchvision:resnet18", (64, 64)) == {}


def test_torchvisions_vit_is_built_for_the_size_that_it_is_published_for(monkeypatch, tmp_path):
    """One of them is published for 518 px, and its weights did not fit; here one for 96 px."""
    state = torchvision.models.vit_b_16(image_size=96, num_classes=2).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    for module in (load, load):
        monkeypatch.setattr(module, "preprocessing_of", lambda _arch: own_prep(96))
    base = load.load(tmp_path / "w.safetensors", arch=TORCHVISION)
    assert base.module.image_size == 96
