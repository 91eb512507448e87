"""A row depends on its image alone, and both engines are the network that they were given."""

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.features.engine import EngineError, fused, make_engine, normalised
from warmstart.features.key import BATCH
from warmstart.records import Preprocessing

PREP = Preprocessing(size=(24, 24), resize=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
ENGINES = ("torch", "onnxruntime")


class NormAct(nn.BatchNorm2d):
    """As timm's: a BatchNorm that carries its activation."""

    def __init__(self, n):
        super().__init__(n)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Convnet(nn.Module):
    """Two taps; channel counts that are no multiple of a vector's length."""

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
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 3)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias)
    return module.eval()


NETWORKS = {"convnet": lively(Convnet()), "transformer": lively(Transformer())}
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[(n, e) for n in NETWORKS for e in ENGINES], ids="-".join)
def built(request):
    """A network and an engine made of it."""
    network, engine = request.param
    return NETWORKS[network], make_engine(engine, NETWORKS[network], PREP, threads=2)


def test_an_engine_is_its_network(built):
    network, engine = built
    scaled = (IMAGES.astype(np.float64) / 255 - PREP.mean) / PREP.std
    inputs = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)).contiguous()
    with torch.no_grad():
        expected = [tap.numpy() for tap in network(inputs)]
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


def test_more_than_a_batch_is_refused(built):
    with pytest.raises(ValueError, match="33 images in one pass; the most is 32"):
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
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def test_norms_are_folded_into_the_convolutions_before_them():
    network = NETWORKS["convnet"]
    folded = fused(network, normalised(IMAGES[:2], PREP))
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
    folded = fused(lively(Backwards()), normalised(IMAGES[:2], PREP))
    assert n_norms(folded) == 1


class Unexportable(nn.Module):
    def forward(self, x):
        return (torch.linalg.eigvals(x.mean(1)[:, :4, :4]).real,)


def test_a_network_that_onnx_cannot_hold_is_an_engine_error():
    with pytest.raises(EngineError, match="cannot be exported to ONNX"):
        make_engine("onnxruntime", Unexportable(), PREP, threads=2)
