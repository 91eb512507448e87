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


def test_every_engine_is_tried_here():
    assert [param.values[0] for param in ENGINES] == list(get_args(EngineName))
    assert {"torch", "traced", "onnxruntime"} <= set(installed_engines())


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


def test_a_row_does_not_depend_on_its_position(built):
    _, engine = built
    alone = engine(IMAGES)
    for shift in (1, 5, 16, 31):
        for rows, moved in zip(alone, engine(np.roll(IMAGES, shift, axis=0)), strict=True):
            assert np.roll(rows, shift, axis=0).tobytes() == moved.tobytes()


@pytest.mark.parametrize("n", [1, 2, 7, 31])
def test_a_row_does_not_depend_on_its_company(built, n):
    _, engine = built
    for rows, fewer in zip(engine(IMAGES), engine(IMAGES[:n]), strict=True):
        assert rows[:n].tobytes() == fewer.tobytes()


@settings(max_examples=15)
@given(order=st.permutations(range(BATCH)), n=st.integers(1, BATCH))
def test_any_images_in_any_order_have_the_rows_that_they_have_elsewhere(built, order, n):
    """Extracting added images gives the same bits as extracting everything."""
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


def test_more_than_a_batch_is_refused(built):
    with pytest.raises(ValueError, match="33 images in one batch; at most 32 are allowed"):
        built[1](np.concatenate([IMAGES, IMAGES[:1]]))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_given_network_is_left_alone(engine):
    network = lively(Convnet()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    make_engine(engine, network, PREP, threads=2)(IMAGES)
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_pixels_are_channels_last_without_a_copy_of_the_values():
    inputs = normalised(IMAGES, PREP)
    assert inputs.shape == (BATCH, 3, 24, 24)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def n_norms(module):
    return sum(isinstance(block, nn.BatchNorm2d) for block in module.modules())


def test_norms_are_folded_into_the_convolutions_before_them():
    network = NETWORKS["convnet"]
    folded = fuse_batch_norms(network, normalised(IMAGES[:2], PREP))
    assert (n_norms(network), n_norms(folded)) == (2, 0)


class Backwards(nn.Module):
    """Declared convolution first, run norm first: neighbours that must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return (self.conv(self.norm(x)).relu().mean((2, 3)),)


def test_a_norm_that_runs_before_its_neighbour_is_not_folded():
    folded = fuse_batch_norms(lively(Backwards()), normalised(IMAGES[:2], PREP))
    assert n_norms(folded) == 1


class Unexportable(nn.Module):
    def forward(self, x):
        return (torch.linalg.eigvals(x.mean(1)[:, :4, :4]).real,)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_network_that_onnx_cannot_hold_is_an_engine_error(name):
    with pytest.raises(EngineError, match="cannot be exported to ONNX"):
        make_engine(name, Unexportable(), PREP, threads=2)


class Untraceable(nn.Module):
    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not like this\n  but otherwise")
        return (x.mean((2, 3)),)


def test_a_network_that_cannot_be_traced_is_an_engine_error():
    with pytest.raises(EngineError, match=r"^the network cannot be traced: not like this$"):
        make_engine("traced", Untraceable(), PREP, threads=2)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("onnxruntime", "ONNX Runtime"),
        pytest.param("openvino", "OpenVINO", marks=needs_openvino),
    ],
)
def test_a_graph_that_is_none_is_an_engine_error(name, title, monkeypatch):
    monkeypatch.setattr(features_engine, "_export", lambda module, prep: b"no graph")
    with pytest.raises(EngineError, match=f"{title} cannot load the network"):
        make_engine(name, NETWORKS["convnet"], PREP, threads=2)


def wrapped(monkeypatch, change):
    """ONNX Runtime's engine with something done to what it gives."""
    make = features_engine.onnxruntime_engine

    def output(*arguments):
        run = make(*arguments)
        return lambda images: [change(rows.copy()) for rows in run(images)]

    monkeypatch.setattr(features_engine, "onnxruntime_engine", output)


def test_an_engine_that_is_another_network_is_refused(monkeypatch):
    wrapped(monkeypatch, lambda rows: rows * np.float32(1.01))
    with pytest.raises(EngineError, match="ONNX Runtime disagrees with torch at feature layer 1"):
        make_engine("onnxruntime", NETWORKS["convnet"], PREP, threads=2)


def test_an_engine_of_numbers_that_are_none_is_refused(monkeypatch):
    wrapped(monkeypatch, lambda rows: rows * np.float32("nan"))
    with pytest.raises(EngineError, match="disagrees with torch at feature layer 1"):
        make_engine("onnxruntime", NETWORKS["convnet"], PREP, threads=2)


@pytest.mark.parametrize("place", [2, 17, BATCH - 1])
def test_an_engine_that_rounds_by_place_is_refused(monkeypatch, place):
    """One bit in one value: any later extraction of other images would find other rows."""

    def flip(rows):
        rows[place].view(np.uint32)[0] ^= 1
        return rows

    wrapped(monkeypatch, flip)
    with pytest.raises(
        EngineError, match="rounds an image by its position in the batch, at feature layer 1"
    ):
        make_engine("onnxruntime", NETWORKS["convnet"], PREP, threads=2)
