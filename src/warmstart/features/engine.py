"""Engines: a tapped network as a fast function on batches of fixed size.

A row must not depend on its neighbours, so every pass has 32 images, the last padded
with zeros. All engines run the same network on the same normalised images; they round
differently, so the engine is a member of the store's key.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from warmstart.features.engine_graph import onnxruntime_engine, openvino_engine
from warmstart.features.engine_torch import (
    Engine,
    EngineError,
    Pixels,
    Rows,
    agree,
    eager_engine,
    fused,
    noise,
    normalised,
    traced_engine,
)
from warmstart.features.key import BATCH, ENGINE_TITLES, EngineName
from warmstart.records import Preprocessing

__all__ = ["Engine", "EngineError", "fused", "make_engine", "noise", "normalised"]


def make_engine(
    name: EngineName, module: nn.Module, preprocessing: Preprocessing, threads: int
) -> Engine:
    """Build an engine: uint8 images (n <= 32, H, W, C) to one float32 (n, …) per tap.

    `module` maps (32, C, H, W) to a tuple of taps; it is left as it is.
    Raises: EngineError where an engine other than torch cannot take the network, disagrees
    with torch, or lets a row depend on its place.
    """
    torch.set_num_threads(threads)
    own = copy.deepcopy(module).eval()
    if name == "torch":
        return _padded(eager_engine(own, preprocessing), preprocessing)
    if name == "traced":
        run = traced_engine(copy.deepcopy(own), preprocessing)
    elif name == "onnxruntime":
        run = onnxruntime_engine(own, preprocessing, threads)
    else:
        run = openvino_engine(own, preprocessing, threads)
    _check(name, run, own, preprocessing)
    return _padded(run, preprocessing)


def _padded(run: Engine, preprocessing: Preprocessing) -> Engine:
    def padded(images: Pixels) -> Rows:
        n = len(images)
        if n > BATCH:
            raise ValueError(f"{n} images in one pass; the most is {BATCH}")
        if n < BATCH:
            blank = np.zeros((BATCH - n, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, blank])
        return [rows[:n] for rows in run(images)]

    return padded


def _check(name: EngineName, run: Engine, module: nn.Module, preprocessing: Preprocessing) -> None:
    """One pass of two images, sixteen times over: as torch has them, and alike in every place."""
    two = noise(preprocessing, 2)
    found = run(np.tile(two, (BATCH // 2, 1, 1, 1)))
    with torch.inference_mode():
        expected = module(normalised(two, preprocessing))
    for number, (ours, rows) in enumerate(zip(expected, found, strict=True), 1):
        if not agree(ours.float(), torch.from_numpy(rows[:2])):
            raise EngineError(f"{ENGINE_TITLES[name]} disagrees with torch at tap {number}")
        pairs = rows.reshape(BATCH // 2, -1)
        if (pairs.view(np.uint32) != pairs[:1].view(np.uint32)).any():
            raise EngineError(
                f"{ENGINE_TITLES[name]} rounds an image by its place among others, at tap {number}"
            )
