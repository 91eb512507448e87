"""Engines: a tapped network as a fast function on batches of fixed size.

A row must not depend on its neighbours, so every pass has 32 images, the last padded
with zeros; 8 texts, of one padded length. All engines run the same network on the same
normalised images; they round differently, so the engine is a member of the store's key.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
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
    traced_engine,
)
from warmstart.features.feeding import (
    noise,
    normalised,
    padded_lengths,
    passes,
    to_tensor,
    together,
)
from warmstart.features.key import BATCH, ENGINE_TITLES, EngineName
from warmstart.records import Inputs, TextInputs

TEXTS = 8  # in one pass: few have the same length, and the rest of a pass is filled up

__all__ = [
    "Engine", "EngineError", "Pixels", "fused", "make_engine", "noise", "normalised", "to_tensor",
]  # fmt: skip


def make_engine(name: EngineName, module: nn.Module, preprocessing: Inputs, threads: int) -> Engine:
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


def _padded(run: Engine, preprocessing: Inputs) -> Engine:
    if isinstance(preprocessing, TextInputs):
        return _by_length(run, preprocessing)
    return _filled_up(run, preprocessing, BATCH)


def _by_length(run: Engine, inputs: TextInputs) -> Engine:
    """Texts of one padded length pass together, so that no row depends on its neighbours.

    Of long texts as many as have `TEXTS` windows together. Outputs for each token are filled up
    to `inputs.length` with zeros.
    """

    def by_length(rows: Pixels) -> Rows:
        sizes = padded_lengths(rows, inputs)
        made: list[NDArray[np.float32]] = []
        for places in passes(rows, inputs, TEXTS):
            size = int(sizes[places[0]])
            found = _filled_up(run, inputs, together(size, inputs, TEXTS))(rows[places])
            if not made:
                made = [np.zeros((len(rows), *_shape(tap, inputs)), np.float32) for tap in found]
            for whole, tap in zip(made, found, strict=True):
                (whole[:, :size] if tap.ndim == 3 else whole)[places] = tap
        return made

    return by_length


def _shape(tap: NDArray[np.float32], inputs: TextInputs) -> tuple[int, ...]:
    """Of a row: what is given for each token is as long as the longest text."""
    return (inputs.length, tap.shape[2]) if tap.ndim == 3 else tap.shape[1:]


def _filled_up(run: Engine, preprocessing: Inputs, batch: int) -> Engine:
    def padded(images: Pixels) -> Rows:
        n = len(images)
        if n > batch:
            raise ValueError(f"{n} images in one pass; the most is {batch}")
        if n < batch:
            shape = (batch - n, *images.shape[1:])
            blank = np.full(shape, preprocessing.blank, images.dtype)
            images = np.concatenate([images, blank])
        return [rows[:n] for rows in run(images)]

    return padded


def _check(name: EngineName, run: Engine, module: nn.Module, preprocessing: Inputs) -> None:
    """One pass of two images, sixteen times over: as torch has them, and alike in every place."""
    two = noise(preprocessing, 2)
    found = run(np.tile(two, (BATCH // 2, *[1] * (two.ndim - 1))))
    with torch.inference_mode():
        expected = module(to_tensor(two, preprocessing))
    for number, (ours, rows) in enumerate(zip(expected, found, strict=True), 1):
        if not agree(ours.float(), torch.from_numpy(rows[:2])):
            raise EngineError(f"{ENGINE_TITLES[name]} disagrees with torch at tap {number}")
        pairs = rows.reshape(BATCH // 2, -1)
        if (pairs.view(np.uint32) != pairs[:1].view(np.uint32)).any():
            raise EngineError(
                f"{ENGINE_TITLES[name]} rounds an image by its place among others, at tap {number}"
            )
