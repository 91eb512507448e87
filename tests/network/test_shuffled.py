"""The control: the same architecture with shuffled weights, and the network itself untouched."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

from small_networks import seeded
from tiny import KINDS, PREP, network
from warmstart.features.batches import normalised
from warmstart.network import shuffled as network_shuffled
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.partition import cut
from warmstart.network.shuffled import (
    CHUNK,
    control_features,
    forward_images,
    halve_images,
    layer_scales,
    shuffled,
)
from warmstart.records.inputs import Preprocessing

NAMES = [*KINDS, "lcnet_035"]


normalise = partial(normalised, preprocessing=PREP)


LARGE = Preprocessing(size=(96, 96), resize=96, mean=(0.5,) * 3, std=(0.5,) * 3)


def module_of(name):
    if name in KINDS:
        return network(name)
    return seeded(lambda: timm.create_model(name, num_classes=5), 0)


def tapped_of(name, prep=PREP):
    cut_open = cut(module_of(name), prep)
    return FeatureExtractor(cut_open, feature_layers(cut_open.record))


def images_of(n=30, side=32, seed=0):
    """Smooth colours under noise, so that layers have something to see."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 200, (n, 1, 1, 3)) + np.linspace(0, 40, side)[:, None, None]
    noise = rng.normal(0, 15, (n, side, side, 3))
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def state_of(module):
    """All that can be changed: tensors, modes, hooks."""
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [(name, block.training) for name, block in module.named_modules()]
    hooks = [
        len(block._forward_hooks) + len(block._forward_pre_hooks) for block in module.modules()
    ]
    return tensors, modes, hooks


def same_state(one, other):
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_keeps_its_values_and_loses_their_order(name):
    module = module_of(name)
    before = state_of(module)
    clone = shuffled(module, np.random.default_rng(0))
    assert same_state(before, state_of(module))
    moved = 0
    for own, other in zip(module.parameters(), clone.parameters(), strict=True):
        assert own.data_ptr() != other.data_ptr()
        assert own.shape == other.shape
        assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)
        moved += not torch.equal(own, other)
    assert moved >= sum(p.ndim > 1 for p in module.parameters())
    assert all(map(torch.equal, module.buffers(), clone.buffers()))


def test_a_large_matrix_loses_its_rows_and_the_order_within_them(monkeypatch):
    monkeypatch.setattr(network_shuffled, "MANY", 100)
    module = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Embedding(20, 20))
    module[1].weight = module[0].weight
    clone = shuffled(module, np.random.default_rng(0))
    assert clone[1].weight is clone[0].weight
    own, other = module[0].weight, clone[0].weight
    assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)
    assert (own.sort(dim=1).values != other.sort(dim=1).values).any()
    assert (own == other).float().mean() < 0.1
    rows, shuffled_rows = ({*map(tuple, m[2].weight.tolist())} for m in (module, clone))
    assert rows == shuffled_rows  # of a table the rows alone


# ---- features of the control ---------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_features_are_finite_and_of_a_sane_scale(name):
    """That of the network's own where it has no BatchNorm, else about that of unit variance."""
    extractor, images = tapped_of(name), images_of()
    before = state_of(extractor)
    scales = layer_scales(extractor, images[:12], normalise)
    own = forward_images(extractor, images, normalise)
    result = control_features(extractor, images, normalise, np.random.default_rng(0), scales)
    assert same_state(before, state_of(extractor))
    assert [layer.shape for layer in result] == [(30, width) for width in extractor.scan.widths]
    for ours, theirs in zip(own, result, strict=True):
        assert np.isfinite(theirs).all()
        assert theirs.std(axis=0).max() > 0, "the images can be told apart"
        scale = np.sqrt((ours**2).mean()) if scales else 1.0
        assert 0.1 < np.sqrt((theirs**2).mean()) / scale < 10
    again = control_features(extractor, images, normalise, np.random.default_rng(0), scales)
    other = control_features(extractor, images, normalise, np.random.default_rng(1), scales)
    for first, second, third in zip(result, again, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, third)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_signals_neither_die_out_nor_blow_up(factor):
    """Without BatchNorm, shuffled weights of another size are brought back to scale."""
    extractor, images = tapped_of("layers"), images_of()
    before, scales = state_of(extractor), layer_scales(extractor, images, normalise)
    with pytest.raises(RuntimeError):
        layer_scales(extractor, images_of(4, side=40), normalise)
    assert same_state(before, state_of(extractor))  # no hook is left
    inputs, outputs = normalise(images), []
    for layer in module_of("layers")[:-1]:
        inputs = layer(inputs)
        outputs += [float(inputs.detach().pow(2).mean().sqrt())] * isinstance(layer, nn.Linear)
    assert scales == pytest.approx(outputs, rel=1e-5)
    own = forward_images(extractor, images, normalise)[-1]
    with torch.no_grad():
        for parameter in extractor.parameters():
            parameter.mul_(factor)
    result = control_features(extractor, images, normalise, np.random.default_rng(0), scales)[-1]
    assert 0.2 < np.sqrt((result**2).mean() / (own**2).mean()) < 5


def test_images_are_halved_where_the_network_takes_that():
    images = images_of(5, side=96)
    small = halve_images(tapped_of("lcnet_035", LARGE), images, normalise)
    squares = images.reshape(5, 48, 2, 48, 2, 3).astype(float).mean(axis=(2, 4))
    assert small.dtype == np.uint8
    assert np.abs(small - squares).max() <= 0.5
    for shape in ((2, 32, 32, 3), (2, 97, 98, 3)):
        odd = np.zeros(shape, np.uint8)
        assert halve_images(tapped_of("convolutions"), odd, normalise) is odd


class Positions(nn.Module):
    """Adds one embedding a patch, as a vision transformer does."""

    def __init__(self, side=96):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 16, stride=16)
        self.place = nn.Parameter(torch.randn(1, (side // 16) ** 2, 12))
        self.norm = nn.LayerNorm(12)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.out(self.norm(x).mean(dim=1))


def test_a_network_of_one_size_keeps_its_images():
    cut_open = cut(Positions().eval(), LARGE)
    extractor = FeatureExtractor(cut_open, feature_layers(cut_open.record))
    images = images_of(4, side=96)
    assert halve_images(extractor, images, normalise) is images


@pytest.mark.parametrize("n", [1, CHUNK, 2 * CHUNK + 3])
def test_chunks_give_the_same_features(n):
    extractor, images = tapped_of("convolutions"), images_of(n)
    with torch.inference_mode():
        whole = extractor(normalise(images))
    for ours, theirs in zip(forward_images(extractor, images, normalise), whole, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
