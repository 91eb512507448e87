"""Small networks of every kind, random weights, for the laws that must hold over all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

import tiny_audio_encoder
import tiny_image_encoder
import tiny_text_encoder
from warmstart.features.batches import to_tensor
from warmstart.modalities.registry import modality_of
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.load import load
from warmstart.network.partition import Network, cut
from warmstart.network.surgery import WarmModel, assemble
from warmstart.network.table_network import draw
from warmstart.network.weights import unique_tensors
from warmstart.records.inputs import (
    ColumnRecord,
    Inputs,
    Preprocessing,
    Sound,
    TableInputs,
    TensorInputs,
    WaveInputs,
)
from warmstart.records.network import FeatureLayer


@dataclass(frozen=True, slots=True)
class Kind:
    """How to make one network, what it takes, and how many blocks it must have."""

    make: Callable[[], nn.Module]
    inputs: Inputs
    n_blocks: int


def pixels(side: int, channels: int = 3) -> Preprocessing:
    """Square images."""
    half = (0.5,) * channels
    return Preprocessing(size=(side, side), resize=side, mean=half, std=half)


class Residual(nn.Module):
    """A user's own network: a residual, functional calls, a size taken at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.full((1, 3, 1, 1), 0.1))
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(16, 12, 3, stride=2)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.shape
        assert channels == 3
        x = F.relu(self.stem(x - self.centre))
        x = x + F.relu(self.left(x))
        x = torch.cat([self.right(x), x], dim=1)
        x = F.dropout(F.relu(self.wide(x)), 0.5, training=self.training)
        return self.out(x.mean((2, 3)).view(batch, -1))


class Wandering(nn.Module):
    """Control flow that depends on the data: it cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU())
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        while hidden.norm() > 1.0:
            hidden = hidden / 2
        return self.out(hidden)


class Answer(nn.Module):
    """Gives a dictionary and branches on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 64, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x.flatten(1))
        return {"logits": self.out(hidden if hidden.sum() > 0 else -hidden)}


class Fork(nn.Module):
    """One of two convolutions, as `choose` says of what comes in; seldom the second."""

    def __init__(self, choose: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) if self.choose(x) else self.right(x)


class Forked(nn.Module):
    """A fork in a module of its own, where a trace does not look, or in the forward itself."""

    def __init__(self, choose: Callable[[Tensor], object], is_inside: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fork = Fork(choose)
        self.out = nn.Linear(8, 5)
        self.is_inside = is_inside

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.fork(x) if self.is_inside else Fork.forward(self.fork, x)
        return self.out(torch.relu(x).mean((2, 3)))


# Ways to branch of which images of noise show one side alone.
FORKS: dict[str, Callable[[Tensor], object]] = {
    "sign of the mean": lambda x: x.mean() > -1,
    "largest value": lambda x: x.amax() < 1e4,
    "a single value": lambda x: x.flatten()[0].item() < 1e4,
    "values as an array": lambda x: float(x.detach().numpy().mean()) < 1e4,
    "each image": lambda x: all(one.mean() < 1e4 for one in x),
    "values as a list": lambda x: max(x[0, 0, 0].tolist()) < 1e4,
    "no number": lambda x: not torch.isnan(x).any(),
    "batch size": lambda x: x.shape[0] < 40,
    "length of the batch": lambda x: len(x) < 40,
    "number of values": lambda x: x.numel() < 10**6,
}


class Tied(nn.Module):
    """Two layers share one matrix, and one of them is the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 12)
        self.first = nn.Linear(3 * 64, 12)
        self.second = nn.Linear(12, 12)
        self.out.weight = self.second.weight
        self.spare = nn.Linear(2, 2)  # forward never reads it

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


class OddNorms(nn.Module):
    """BatchNorm first, twice in a row, after the pooling, and on the logits' side."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.twice = nn.Sequential(nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False))
        self.again = nn.Conv2d(6, 10, 3)
        self.pooled = nn.BatchNorm1d(10)
        self.out = nn.Linear(10, 4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.twice(self.conv(self.entry(x))).relu_())
        return self.out(self.pooled(x.amax((2, 3))))


class Wrapper(nn.Module):
    """A whole library network inside one attribute, ended by a log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", num_classes=7)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return F.log_softmax(self.backbone(x * scale), dim=1)


class Attending(nn.Module):
    """Tokens, two blocks of attention, their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.first = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.second = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(self.embed(x))).mean(1))


def perceptron() -> nn.Module:
    """Its last part is dropout and one layer."""
    inner = nn.Sequential(nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(16, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(True), *inner)


def convolutions(dimensions: int, channels: int) -> nn.Module:
    """Two convolutions with BatchNorm over signals, images or volumes, and their mean."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    mean = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dimensions - 1]
    first = (conv(channels, 8, 3), norm(8), nn.ReLU())
    second = (conv(8, 16, 3, stride=2), norm(16), nn.ReLU())
    return nn.Sequential(*first, *second, mean(1), nn.Flatten(), nn.Linear(16, 5))


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return functools.partial(timm.create_model, name, **options)


_vit = _timm("vit_tiny_patch16_224", img_size=64, depth=12)
_swin = _timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=24)
_eva = _timm("eva02_tiny_patch14_224", img_size=56, depth=3)
KINDS = {
    "tf_efficientnet_lite0": Kind(_timm("tf_efficientnet_lite0"), pixels(32), 18),
    "resnet18": Kind(_timm("resnet18"), pixels(32), 9),
    "vit_tiny": Kind(_vit, pixels(64), 13),
    "mobilenetv3_small": Kind(_timm("mobilenetv3_small_100"), pixels(64), 14),
    "convnext_atto": Kind(_timm("convnext_atto"), pixels(32), 16),
    "swin_tiny": Kind(_swin, pixels(64), 16),
    "regnety_002": Kind(_timm("regnety_002"), pixels(32), 14),
    "densenet121": Kind(_timm("densenet121"), pixels(32), 8),
    "eva02_tiny": Kind(_eva, pixels(56), 4),
    "torchvision_resnet18": Kind(torchvision.models.resnet18, pixels(32), 9),
    "mlp": Kind(perceptron, pixels(8, 1), 2),
    "residual": Kind(Residual, pixels(16), 4),
    "wandering": Kind(Wandering, pixels(8), 1),
    "answer": Kind(Answer, pixels(8), 1),
    "tied": Kind(Tied, pixels(8), 2),
    "odd_norms": Kind(OddNorms, pixels(12), 2),
    "wrapper": Kind(Wrapper, pixels(32), 9),
}

# ---- Networks of other modalities, and encoders as transformers saves them.

TABLE = TableInputs(
    columns=(
        ColumnRecord(name="age", kind="number", mean=50, std=9, knots=(-1.0, 0.0, 1.0)),
        ColumnRecord(name="dose", kind="number", knots=(-2.0, 2.0), has_missing=True),
        ColumnRecord(name="site", kind="category", values=("north", "south"), has_missing=True),
    )
)
SAMPLES = WaveInputs(sample_rate=8000, seconds=0.2, is_scaled=True)
SOUND = Sound(
    sample_rate=8000, seconds=0.5, window=256, hop=40, mels=32, low=20.0, high=4000.0, range_db=30.0
)
OTHERS = {
    "rows": Kind(lambda: draw(TABLE, 5, 1), TABLE, 4),
    "signals": Kind(lambda: convolutions(1, 2), TensorInputs(shape=(2, 32), dtype="float32"), 2),
    "volumes": Kind(
        lambda: convolutions(3, 1), TensorInputs(shape=(1, 8, 8, 8), dtype="float32"), 2
    ),
    "tokens": Kind(Attending, TensorInputs(shape=(8,), dtype="int64", high=39.0), 3),
    "clips": Kind(lambda: convolutions(2, 1), replace(pixels(32, 1), sound=SOUND), 2),
}
TEXT_ENCODERS = ("bert", "roberta", "distilbert", "mpnet")
IMAGE_ENCODERS = tiny_image_encoder.KINDS
ENCODERS = {
    **dict.fromkeys(TEXT_ENCODERS, 3),
    "bert-windows": 3,
    **dict.fromkeys(IMAGE_ENCODERS, 4),
    **dict.fromkeys(("wav2vec2", "wavlm"), 4),
    **dict.fromkeys(("ast", "whisper"), 3),
}
EVERY = {**{name: kind.n_blocks for name, kind in (KINDS | OTHERS).items()}, **ENCODERS}
DEEP = [name for name, n_blocks in EVERY.items() if n_blocks > 1]


HEAVY = {"tf_efficientnet_lite0", "resnet18", "torchvision_resnet18", "wrapper", "vit_tiny"}
HEAVY |= {"convnext_atto", "swin_tiny", "regnety_002", "densenet121"}


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """A test for each of these networks, slow for large ones."""
    slow = pytest.mark.slow
    marked = [pytest.param(n, marks=slow) if n in HEAVY else n for n in names]
    return pytest.mark.parametrize("name", marked)


@functools.cache
def folder_of(name: str) -> Path:
    """The folder of an encoder, as transformers saves it."""
    if name in IMAGE_ENCODERS:
        return tiny_image_encoder.encoder(Path(mkdtemp()) / name, name)
    if name in TEXT_ENCODERS:
        return tiny_text_encoder.encoder(Path(mkdtemp()) / name, name)
    return tiny_audio_encoder.folder_of(name)


@functools.cache
def opened(name: str) -> tuple[nn.Module, Inputs]:
    """One of the networks in eval mode, with seeded random weights, and what it takes."""
    if name not in ENCODERS:
        kind = (KINDS | OTHERS)[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return kind.make().eval(), kind.inputs
    base = load(f"transformers:{folder_of(name.removesuffix('-windows'))}")
    inputs = base.record.preprocessing
    if name == "bert-windows":
        inputs = replace(inputs, length=64, most=16)
    elif name in TEXT_ENCODERS:
        inputs = replace(inputs, length=16)
    elif name not in IMAGE_ENCODERS:
        inputs = SAMPLES
    return base.module, inputs


@functools.cache
def cut_once(name: str) -> tuple[nn.Module, Network]:
    """One of the networks and how it was cut."""
    module, inputs = opened(name)
    return module, cut(module, inputs)


def rows_for(name: str, n: int = 5) -> np.ndarray:
    """Encoded examples of noise; texts of several lengths."""
    inputs = opened(name)[1]
    rows = modality_of(inputs).noise(n, inputs)
    if modality_of(inputs).is_ragged:
        for place, row in enumerate(rows):
            row[inputs.length - 3 * place :] = inputs.blank if place else row[-1]
    return rows


def inputs_for(name: str, n: int = 5) -> Tensor:
    """The same as the network takes them, other ones than those that the cut was checked on."""
    return to_tensor(rows_for(name, n), opened(name)[1]).contiguous()


def model_of(
    network: Network, layers: Sequence[FeatureLayer] = (), n_outputs: int = 3
) -> WarmModel:
    """The network with a random head of 3 outputs on feature layers, by default on the last."""
    layers = layers or feature_layers(network.record)[-1:]
    width = sum(layer_width(network.record, layer) for layer in layers)
    drawn = torch.Generator().manual_seed(2)
    weight = torch.randn(3, width, generator=drawn) / width**0.5
    return assemble(network, layers, weight, torch.zeros(3))


def n_numbers(module: nn.Module) -> int:
    """Of all tensors, shared ones once."""
    return sum(tensor.numel() for tensor in unique_tensors(module).values())
