"""Whole runs over modality, task and strategy: what the laws about runs must hold over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import convolutions, folder_of
from torch import nn
from torch.utils.data import TensorDataset

import audio_clips
import hue_images
import tables
import tiny
import tiny_text_encoder
import warmstart
from test_other_tasks import pictures, written

Options = dict[str, Any]  # of `warmstart.fit`
QUICK = ["training.epochs=2.4", "training.folds=1"]


def rotated(folder: Path) -> Path:
    """The class folders, each with the name of the next one."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        (folder / name).rename(folder / f"{name}~")
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        (folder / f"{name}~").rename(folder / following)
    return folder


def folders(fill: Callable[..., Path], names: str, root: Path, is_other: bool) -> Options:
    """Training and test folders; `is_other`: a test set of other examples with wrong labels."""
    classes = names.split(", ")
    if not (root / "train").exists():
        fill(root / "train", dict.fromkeys(classes, 10))
    if is_other:
        test = rotated(fill(root / "other" / "test", dict.fromkeys(classes, 4), seed=2))
    else:
        test = fill(root / "test", dict.fromkeys(classes, 4), seed=1)
    return {"data": root / "train", "test": test}


def images(root: Path, is_other: bool) -> Options:
    return folders(hue_images.fill, "blue, green, red", root, is_other)


def convnet(root: Path, is_other: bool) -> Options:
    own = {"base": tiny.network(), "preprocessing": tiny.PREP}
    return {**images(root, is_other), **own}


def attention(root: Path, is_other: bool) -> Options:
    return {**convnet(root, is_other), "base": tiny.network("attention")}


def vit(root: Path, is_other: bool) -> Options:
    return {**images(root, is_other), "base": f"transformers:{folder_of('vit')}"}


def clips(root: Path, is_other: bool) -> Options:
    """Clips as pictures, for a network of images."""
    found = folders(audio_clips.fill, "a note, clicks, hiss", root, is_other)
    base = {"base": tiny.weights(root), "arch": tiny.ARCH, "settings": ["input.size=64"]}
    return {**found, **base}


def samples(root: Path, is_other: bool) -> Options:
    own = {"base": f"transformers:{folder_of('wav2vec2')}", "arch": None, "settings": []}
    return {**clips(root, is_other), **own}


def texts(root: Path, is_other: bool) -> Options:
    data = tiny_text_encoder.table(root / "train.csv", 12)
    test = tiny_text_encoder.table(root / f"test{is_other}.csv", 4, seed=1 + is_other)
    if is_other:
        text = test.read_text("utf-8").replace(",sport", ",FOOD").replace(",food", ",sport")
        test.write_text(text.replace("FOOD", "food"), "utf-8")
    return {"data": data, "test": test, "base": f"transformers:{folder_of('bert')}"}


def rows(root: Path, is_other: bool) -> Options:
    """A table; the other test set has values beyond all that training has seen."""
    test = tables.rows(12, seed=7)
    if is_other:
        test = [["9e6", "-9e6", "east", {"ill": "well", "well": "ill"}[row[3]]] for row in test]
    place = tables.write(root / f"test{is_other}.csv", test)
    return {"data": tables.table(root / "t.csv", 40), "test": place}


def tensors(root: Path, is_other: bool) -> Options:
    """Signals for a network of the user's own."""

    def drawn(n: int, seed: int, shift: int = 0) -> TensorDataset:
        classes, rng = torch.arange(n) % 2, torch.Generator().manual_seed(seed)
        values = torch.randn(n, 2, 16, generator=rng) + classes[:, None, None]
        return TensorDataset(values, (classes + shift) % 2)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = convolutions(1, 2)
    return {"data": drawn(40, 0), "test": drawn(8, 1 + is_other, is_other), "base": network}


def sets(root: Path, is_other: bool) -> Options:
    """Several labels an image."""
    X, has, _ = pictures()
    has[60:] = has[60:] != is_other
    named = ["|".join(np.array(["red", "blue"])[row]) for row in has]
    data = written(root / ("other" if is_other else "sets"), "label", named, X)
    own = {"base": tiny.network(), "preprocessing": tiny.PREP}
    return {"data": data, "task": "multilabel", **own}


def numbers(root: Path, is_other: bool) -> Options:
    """A number an image."""
    X, _, light = pictures()
    light[60:] = light[60:][::-1] if is_other else light[60:]
    data = written(root / ("other" if is_other else "n"), "light", [f"{v:.3f}" for v in light], X)
    own = {"base": tiny.network(), "preprocessing": tiny.PREP}
    return {"data": data, "label": "light", **own}


SOURCES = (convnet, attention, vit, clips, samples, texts, rows, tensors, sets, numbers)
STRATEGIES = {
    "convnet": ("head", "last:1", "full", "full+gradual", "head+add", "full+lora", "scratch"),
    "texts": ("last:1", "last:2+lora"),
    "rows": ("head", "scratch"),
    "tensors": ("head", "full"),
}
CASES = [
    f"{source.__name__} {strategy}"
    for source in SOURCES
    for strategy in STRATEGIES.get(source.__name__, ("last:1",))
]
LONGER = {
    "convnet scratch": ["training.epochs=8.5333", "training.folds=1"]
}  # with fewer epochs it gets nowhere


@dataclass(frozen=True)
class Case:
    """One combination: a folder for its data, its name."""

    name: str
    root: Path

    def options(self, is_other: bool = False) -> Options:
        """What its run is asked for; `is_other`: with another test set, wrongly labelled."""
        source, _, strategy = self.name.partition(" ")
        made = {one.__name__: one for one in SOURCES}[source](self.root, is_other)
        quick = LONGER.get(self.name, [] if strategy == "head" else QUICK)
        settings = [*made.pop("settings", []), *quick]
        return {**made, "strategy": strategy, "budget": "fast", "seed": 3, "settings": settings}

    def objects(self, names: tuple[str, ...]) -> Options:
        """Those of the options that no file holds, and `names`."""
        made = self.options()
        is_object = {
            name: isinstance(made.get(name), (nn.Module, TensorDataset))
            for name in ("data", "test", "base")
        }
        return {n: made[n] for n in made if n in names or is_object.get(n)}

    def fit(self, out: str, is_other: bool = False, **changes: object) -> warmstart.Run:
        return warmstart.fit(**{**self.options(is_other), **changes}, out=self.root / out)
