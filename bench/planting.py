"""What goes wrong when people fine-tune, done on purpose to a copy of a set.

Each takes the folder, a number and a generator, and gives options of `fit`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.alter import jpeg
from warmstart.network.load import load
from warmstart.planning.rules import DEFAULT_LRS
from warmstart.records.inputs import pictures

RATE = DEFAULT_LRS["convnet"]["adamw"]  # that the rule gives here

Draw = np.random.Generator


def too_fast(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A thousand times the rule's rate."""
    return {"strategy": "last:6", "lr": RATE * 1e3}


def too_slow(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A millionth of it."""
    return {"strategy": "last:6", "lr": RATE * 1e-6}


def shuffled(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Labels exchanged among the training images."""
    files = sorted((data / "train").rglob("*.jpg"))
    homes = [file.parent for file in files]
    moved = [file.rename(data / f"{i:05d}.jpg") for i, file in enumerate(files)]
    for file, home in zip(moved, draw.permutation(np.array(homes, dtype=object)), strict=True):
        file.rename(home / file.name)
    return {}


def wrong_moments(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A network of one's own, and somebody else's mean and spread: of 0..255, or none."""
    base = load("lite0")
    mean, std = ((0.0,) * 3, (1 / 255,) * 3) if number % 2 else ((0.0,) * 3, (1.0,) * 3)
    prep = replace(pictures(base.record.preprocessing), mean=mean, std=std)
    return {"base": base.module, "preprocessing": prep}


def swapped(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Blue and red exchanged in every file."""
    for file in data.rglob("*.jpg"):
        with Image.open(file) as image:
            red, green, blue = image.convert("RGB").split()
        file.write_bytes(jpeg(Image.merge("RGB", (blue, green, red)), 95))
    return {}


def one_class(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Nothing to tell apart."""
    folder, alone = min((data / "train").iterdir()), data.parent / "alone"
    alone.mkdir()
    folder.rename(alone / folder.name)
    return {"data": alone}


def tiny(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """One class of one or two images."""
    files = sorted(min((data / "train").iterdir()).iterdir())
    for file in files[1 + number % 2 :]:
        file.unlink()
    return {}


def broken(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A file of weights that is cut off, half of it missing, or spoilt."""
    state = {n: t.contiguous() for n, t in load("lite0").module.state_dict().items()}
    names, file = sorted(state), data.parent / "start.safetensors"
    half = names[: len(names) // 2]
    if number % 5 == 1:
        state = {name: state[name] for name in half}
    elif number % 5 == 2:
        state[names[40]] = torch.full_like(state[names[40]], float("nan"))
    elif number % 5 == 3:
        state = {f"other.{name}": tensor for name, tensor in state.items()}
    save_file(state, file)
    if number % 5 == 0:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif number % 5 == 4:
        file.write_bytes(draw.bytes(file.stat().st_size))
    return {"base": file, "arch": "timm:tf_efficientnet_lite0"}


def constant(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """The last convolution gives the same whatever it sees, and no gradient."""
    base = load("lite0")
    module: Any = copy.deepcopy(base.module)
    with torch.no_grad():
        module.conv_head.weight.zero_()
        module.bn2.weight.zero_()
        module.bn2.bias.fill_(-1.0)
    return {
        "base": module,
        "preprocessing": pictures(base.record.preprocessing),
        "strategy": "last:1",
    }


def copies(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """A tenth of the training images in the test part too."""
    files = sorted((data / "train").rglob("*.jpg"))
    for file in draw.choice(np.array(files, dtype=object), len(files) // 10, replace=False):
        target = data / "test" / file.parent.name / f"copy-{file.name}"
        target.write_bytes(file.read_bytes())
    return {}


def shared_groups(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Tables in which the same persons stand on both sides."""
    for block in ("train", "test"):
        files = sorted((data / block).rglob("*.jpg"))
        rows = [f"{f.relative_to(data)},{f.parent.name},p{i % 30}" for i, f in enumerate(files)]
        (data / f"{block}.csv").write_text("\n".join(["path,label,person", *rows]) + "\n")
    return {
        "data": data / "train.csv",
        "test": data / "test.csv",
        "label": "label",
        "group": "person",
    }


def elsewhere(data: Path, number: int, draw: Draw) -> dict[str, Any]:
    """Test images from another camera: grey, dark, coarse."""
    for file in (data / "test").rglob("*.jpg"):
        with Image.open(file) as image:
            grey = image.convert("L").point([level * level // 255 for level in range(256)])
        small = grey.resize((max(grey.width // 3, 16), max(grey.height // 3, 16)))
        file.write_bytes(jpeg(small.resize(grey.size).convert("RGB"), 40))
    return {}
