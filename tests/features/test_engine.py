"""A row depends on its image alone, and every engine is the network that it was given."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from warmstart.features import engine as features_engine
from warmstart.features.batches import normalised
from warmstart.features.cache_key import BATCH, EngineName, installed_engines
from warmstart.features.engine import EngineError, fuse_batch_norms, make_engine
from warmstart.records.inputs import Preprocessing

PREP = Preprocessing(size=(24, 24), resize=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
ENGINES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in installed_engines(), reason=f"{name} is not installed"
        ),
    )
    for name in get_args(EngineName)
]
needs_openvino = pytest.mark.skipif(
    "openvino" not in installed_engines(), reason="openvino is not installed"
)


class NormAct(nn.BatchNorm2d):
    """As timm's: a BatchNorm that carries its activation."""

    def __init__(self, n):
        super().__init__(n)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Convnet(nn.Module):
    """Two feature layers; channel counts that are no multiple of a vector's length."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 13, 3, 2, 1, bias=False), NormAct(13))
        self.two = nn.Sequential(nn.Conv2d(13, 21, 3, 2, 1), nn.BatchNorm2d(21), nn.SiLU())

    def forward(self, x):
        a = self.one(x)
        return a.mean((2, 3)), self.two(a).mean((2, 3))


class Transformer(nn.Module):
    """Patches, attention over them, and the mean token."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 17)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        weights = (self.query(tokens) @ tokens.transpose(1, 2) / tokens.shape[-1] ** 0.5).softmax(
            -1
        )
        return (self.out(self.norm(tokens + weights @ self.value(tokens)).mean(1)),)


def lively(module):
    """Seeded weights, and BatchNorm statistics that are far from doing nothing."""
    torch.manual_seed(0)
    for block in module.modules():
        if isinstance(block, nn.BatchNorm2d):
            block.running_mean.normal_()
            block.running_var.uniform_(0.3, 3)
            nn.init.normal_(block.weight, 1, 0.3)
            nn.init.normal_(block.bias)
    return module.eval()


NETWORKS = {"convnet": lively(Convnet()), "transformer": lively(Transformer())}
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """The name of a network."""
    return request.param


@pytest.fixture(scope="module", params=ENGINES)
def built(network, request):
    """A network and an engine made of it."""
    return NETWORKS[network], make_engine(request.param, NETWORKS[network], PREP, threads=2)


def test_an_engine_is_its_network(built):
    network, engine = built
    scaled = (IMAGES.astype(np.float64) / 255 - PREP.mean) / PREP.std
    inputs = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)).contiguous()
    with torch.no_grad():
        expected = [layer.numpy() for layer in network(inputs)]
    for ours, slow in zip(engine(IMAGES), expected, strict=True):
        assert ours.dtype == np.float32
        assert slow.std() > 0.01  # else equality would say nothing
        assert np.abs(ours - slow).max() <= 1e-3 * np.sqrt((slow**2).mean())
    with pytest.raises(ValueError, match="33 images in one batch; at most 32 are allowed"):
        engine(np.concatenate([IMAGES, IMAGES[:1]]))


@settings(max_examples=15)
@given(order=st.permutations(range(BATCH)), n=st.integers(1, BATCH))
def test_any_images_in_any_order_have_the_rows_that_they_have_elsewhere(built, order, n):
    """A row depends neither on its position nor on its neighbours, bit for bit."""
    _, engine = built
    chosen = order[:n]
    for rows, some in zip(engine(IMAGES), engine(IMAGES[chosen]), strict=True):
        assert rows[chosen].tobytes() == some.tobytes()


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_made_again_gives_the_same_bits(name, network):
    first, second = (make_engine(name, NETWORKS[network], PREP, threads=2) for _ in range(2))
    expected = [rows.tobytes() for rows in first(IMAGES)]
    for engine in (first, first, second, second):  # a call may not depend on those before it
        assert [rows.tobytes() for rows in engine(IMAGES)] == expected


@pytest.mark.parametrize("name", ENGINES)
def test_maps_come_out_as_maps(name):
    body = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU())

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            result = self.body(x)
            return result, result.mean((2, 3))

    maps, means = make_engine(name, Maps(), PREP, threads=2)(IMAGES[:3])
    assert (maps.shape, means.shape) == ((3, 5, 12, 12), (3, 5))
    np.testing.assert_allclose(maps.mean((2, 3)), means, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_given_network_is_left_alone(engine):
    network = lively(Convnet()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    make_engine(engine, network, PREP, threads=2)(IMAGES)
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def n_norms(module):
    return sum(isinstance(block, nn.BatchNorm2d) for block in module.modules())


class Backwards(nn.Module):
    """Declared convolution first, run norm first: neighbours that must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return (self.conv(self.norm(x)).relu().mean((2, 3)),)


def test_norms_are_folded_into_the_convolutions_that_they_follow():
    inputs = normalised(IMAGES[:2], PREP)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    for network, n in ((NETWORKS["convnet"], 0), (lively(Backwards()), 1)):
        before = n_norms(network)
        assert n_norms(fuse_batch_norms(network, inputs)) == n
        assert n_norms(network) == before


class Unexportable(nn.Module):
    def forward(self, x):
        return (torch.linalg.eigvals(x.mean(1)[:, :4, :4]).real,)


class Untraceable(nn.Module):
    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not like this\n  but otherwise")
        return (x.mean((2, 3)),)


@pytest.mark.parametrize(
    ("name", "network", "part"),
    [
        ("onnxruntime", Unexportable(), "cannot be exported to ONNX"),
        ("openvino", Unexportable(), "cannot be exported to ONNX"),
        ("traced", Untraceable(), r"^the network cannot be traced: not like this$"),
        ("onnxruntime", NETWORKS["convnet"], "ONNX Runtime cannot load the network"),
        pytest.param(
            "openvino",
            NETWORKS["convnet"],
            "OpenVINO cannot load the network",
            marks=needs_openvino,
        ),
    ],
)
def test_an_engine_that_cannot_be_made(name, network, part, monkeypatch):
    if network is NETWORKS["convnet"]:
        monkeypatch.setattr(features_engine, "_export", lambda module, prep: b"no graph")
    with pytest.raises(EngineError, match=part):
        make_engine(name, network, PREP, threads=2)


def flipped(place):
    """One bit in one value: any later extraction of other images would find other rows."""

    def flip(rows):
        rows[place].view(np.uint32)[0] ^= 1
        return rows

    return flip


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda rows: rows * np.float32(1.01), "disagrees with torch at feature layer 1"),
        (lambda rows: rows * np.float32("nan"), "disagrees with torch at feature layer 1"),
        *((flipped(n), "rounds an image by its position in the batch") for n in (2, BATCH - 1)),
    ],
)
def test_an_engine_that_is_another_network_or_rounds_by_position_is_refused(
    monkeypatch, change, part
):
    make = features_engine.onnxruntime_engine

    def changed(*arguments):
        run = make(*arguments)
        return lambda images: [change(rows.copy()) for rows in run(images)]

    monkeypatch.setattr(features_engine, "onnxruntime_engine", changed)
    with pytest.raises(EngineError, match=f"ONNX Runtime {part}"):
        make_engine("onnxruntime", NETWORKS["convnet"], PREP, threads=2)
