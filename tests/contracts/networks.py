"""Small networks of many kinds, random weights, for the laws that must hold over all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from warmstart.network.partition import Network, cut
from warmstart.records.inputs import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How to make one network, its input side in px, and how many parts it must give."""

    make: Callable[[], nn.Module]
    size_px: int
    n_blocks: int
    channels: int = 3

    @property
    def preprocessing(self) -> Preprocessing:
        half = (0.5,) * self.channels
        return Preprocessing(
            size=(self.size_px, self.size_px), resize=self.size_px, mean=half, std=half
        )


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


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(True),
        nn.Linear(32, 16),
        nn.ReLU(True),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return functools.partial(timm.create_model, name, **options)


KINDS = {
    "tf_efficientnet_lite0": Kind(make=_timm("tf_efficientnet_lite0"), size_px=32, n_blocks=18),
    "resnet18": Kind(make=_timm("resnet18"), size_px=32, n_blocks=9),
    "vit_tiny": Kind(
        make=_timm("vit_tiny_patch16_224", img_size=64, depth=12), size_px=64, n_blocks=13
    ),
    "mobilenetv3_small": Kind(make=_timm("mobilenetv3_small_100"), size_px=64, n_blocks=14),
    "convnext_atto": Kind(make=_timm("convnext_atto"), size_px=32, n_blocks=16),
    "swin_tiny": Kind(
        make=_timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2),
        size_px=64,
        n_blocks=16,
    ),
    "regnety_002": Kind(make=_timm("regnety_002"), size_px=32, n_blocks=14),
    "densenet121": Kind(make=_timm("densenet121"), size_px=32, n_blocks=8),
    "eva02_tiny": Kind(
        make=_timm("eva02_tiny_patch14_224", img_size=56, depth=3), size_px=56, n_blocks=4
    ),
    "torchvision_resnet18": Kind(make=torchvision.models.resnet18, size_px=32, n_blocks=9),
    "mlp": Kind(make=_mlp, size_px=8, n_blocks=2, channels=1),
    "residual": Kind(make=Residual, size_px=16, n_blocks=4),
    "wandering": Kind(make=Wandering, size_px=8, n_blocks=1),
    "answer": Kind(make=Answer, size_px=8, n_blocks=1),
    "tied": Kind(make=Tied, size_px=8, n_blocks=2),
    "odd_norms": Kind(make=OddNorms, size_px=12, n_blocks=2),
    "wrapper": Kind(make=Wrapper, size_px=32, n_blocks=9),
}


@functools.cache
def cut_once(name: str) -> tuple[nn.Module, Network]:
    """One of the networks in eval mode, with seeded random weights, and how it was cut."""
    kind = KINDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = kind.make().eval()
    return module, cut(module, kind.preprocessing)


def inputs_for(name: str, n: int = 5) -> Tensor:
    """Noise of the right shape, another than the one that the cut was checked on."""
    kind = KINDS[name]
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, kind.channels, kind.size_px, kind.size_px, generator=generator)
