"""Tiny networks with random weights, and whole runs over them that take a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import warmstart
from warmstart.planning.schedule import Schedule
from warmstart.records.inputs import Preprocessing

PREP = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
ARCH = "timm:lcnet_035"  # a real architecture that a run can rebuild by its name
CONVNEXT = "timm:test_convnext"  # one that can be trained from random weights
SCHEDULE = Schedule(
    optimizer="adamw",
    weight_decay=0.0,
    n_steps=8,
    batch_size=32,
    warmup=0.1,
    crop=1.0,
    flip=False,
    folds=1,
    seed=0,
)  # without augmentation


class Convolutions(nn.Module):
    """Two convolutions with BatchNorm whose statistics are not the trivial ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.again = nn.BatchNorm2d(16)
        self.out = nn.Linear(16, 5)
        for norm in (self.norm, self.again):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.again(self.second(x)))
        return self.out(x.mean((2, 3)))


class Attention(nn.Module):
    """Patches, a class token, one attention block: rows are multiplied in blocks here."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.block = nn.TransformerEncoderLayer(
            24, 4, 48, dropout=0.1, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(24)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.out(self.norm(self.block(x))[:, 0])


def layers() -> nn.Module:
    """A multi-layer perceptron on the pixels."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 32 * 32, 24),
        nn.ReLU(),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 5),
    )


KINDS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "attention": Attention,
    "layers": layers,
}


def network(kind: str = "convolutions") -> nn.Module:
    """One of the networks, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind]().eval()


def weights(folder: Path, arch: str = ARCH) -> Path:
    """A file of random weights for an architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(arch.partition(":")[2], num_classes=7)
    path = folder / (
        "start.safetensors" if arch == ARCH else f"{arch.partition(':')[2]}.safetensors"
    )
    if not path.exists():
        save_file(module.state_dict(), path)
    return path


def fit(data: object, *, kind: str = "convolutions", **options: object) -> warmstart.Run:
    """`warmstart.fit` from a tiny network at the smallest budget."""
    options = {"budget": "fast", "base": network(kind), "preprocessing": PREP, **options}
    return warmstart.fit(data, **options)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and what is in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(run: Path, name: str) -> list[dict[str, object]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in (run / name).read_text("utf-8").splitlines()]
