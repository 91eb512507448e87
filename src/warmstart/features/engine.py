"""Engines: a tapped network as a fast function on batches of fixed size.

A row must not depend on its neighbours, so every pass has 32 images, the last padded
with zeros. Both engines run the same normalised NCHW graph; they round differently, so
the engine is a member of the store's key.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from warmstart.errors import TrainingError
from warmstart.features.key import BATCH, EngineName
from warmstart.records import Preprocessing

Pixels = NDArray[np.uint8]
Rows = list[NDArray[np.float32]]
Engine = Callable[[Pixels], Rows]

AGREEMENT = 1e-3  # of a tap's RMS: beyond it an exported graph is not the network


class EngineError(TrainingError):
    """An engine could not be made; another one can."""


def make_engine(
    name: EngineName, module: nn.Module, preprocessing: Preprocessing, threads: int
) -> Engine:
    """Build an engine: uint8 images (n <= 32, H, W, C) to one float32 (n, d_t) per tap.

    `module` maps (32, C, H, W) to a tuple of taps; it is left as it is.
    Raises: EngineError where ONNX Runtime cannot take the network, or disagrees with it.
    """
    torch.set_num_threads(threads)
    own = copy.deepcopy(module).eval()
    if name == "torch":
        return _padded(_torch_engine(own, preprocessing), preprocessing)
    return _padded(_onnx_engine(own, preprocessing, threads), preprocessing)


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


def normalised(images: Pixels, preprocessing: Preprocessing) -> Tensor:
    """(n, H, W, C) uint8 to (n, C, H, W) float32 whose memory is channels_last.

    >>> prep = Preprocessing(size=(1, 1), resize=1, mean=(0.5,), std=(0.5,))
    >>> normalised(np.array([[[[255]]]], np.uint8), prep).item()
    1.0
    """
    scale = 1 / (255 * torch.tensor(preprocessing.std))
    shift = torch.tensor(preprocessing.mean) / torch.tensor(preprocessing.std)
    values = torch.from_numpy(images).float().mul_(scale).sub_(shift)
    return values.permute(0, 3, 1, 2)


def _torch_engine(module: nn.Module, preprocessing: Preprocessing) -> Engine:
    module = fused(module, normalised(_probe(preprocessing), preprocessing))
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: Pixels) -> Rows:
        with torch.inference_mode():
            taps = module(normalised(images, preprocessing))
        return [tap.float().numpy() for tap in taps]

    return run


def _probe(preprocessing: Preprocessing) -> Pixels:
    """Two images of noise, always the same."""
    shape = (2, *preprocessing.size, preprocessing.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def fused(module: nn.Module, probe: Tensor) -> nn.Module:
    """The module with each BatchNorm that directly follows a convolution folded into it.

    Neighbours among a module's children are taken to run one after the other; outputs on
    the probe are compared, and where they differ the module comes back as it was.
    """
    candidate = copy.deepcopy(module)
    for parent in list(candidate.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.num_features == conv.out_channels and norm.running_mean is not None:
                _fold(parent, conv, name, norm)
    with torch.inference_mode():
        pairs = zip(module(probe), candidate(probe), strict=True)
        return candidate if all(_agree(a, b) for a, b in pairs) else module


def _fold(parent: nn.Module, conv: nn.Conv2d, name: str, norm: nn.BatchNorm2d) -> None:
    whole = fuse_conv_bn_eval(conv, norm)
    conv.weight, conv.bias = whole.weight, whole.bias
    # timm's BatchNorm carries its activation.
    setattr(parent, name, getattr(norm, "act", None) or nn.Identity())


def _agree(a: Tensor, b: Tensor) -> bool:
    rms = float(a.pow(2).mean().sqrt()) or 1.0
    return a.shape == b.shape and float((a - b).abs().max()) <= AGREEMENT * rms


def _onnx_engine(module: nn.Module, preprocessing: Preprocessing, threads: int) -> Engine:
    probe = normalised(_probe(preprocessing), preprocessing).contiguous()
    session = _session(_export(module, probe), threads)

    def run(images: Pixels) -> Rows:
        values = normalised(images, preprocessing).contiguous().numpy()
        found: Rows = session.run(None, {"inputs": values})
        return found

    padded = _padded(run, preprocessing)
    with torch.inference_mode():
        pairs = zip(module(probe), padded(_probe(preprocessing)), strict=True)
        for number, (ours, theirs) in enumerate(pairs):
            if not _agree(ours, torch.from_numpy(theirs)):
                raise EngineError(f"ONNX Runtime disagrees with torch at tap {number + 1}")
    return run


def _export(module: nn.Module, inputs: Tensor) -> bytes:
    buffer = io.BytesIO()
    try:
        with _silent(), torch.inference_mode():
            torch.onnx.export(
                module, (inputs,), buffer, dynamo=False, opset_version=17,  # type: ignore[arg-type]
                input_names=["inputs"], dynamic_axes={"inputs": {0: "batch"}},
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever an operator raises
        raise EngineError(f"the network cannot be exported to ONNX: {error}") from error
    return buffer.getvalue()


def _session(graph: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Planning all buffers at once takes 300 MB more and no less time (measured on lite0).
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Exported with two images, which is quick; run with the one size that is ever asked for.
    options.add_free_dimension_override_by_name("batch", BATCH)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise EngineError(f"ONNX Runtime cannot load the network: {error}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter's deprecation and tracing warnings say nothing to a user of an engine."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
