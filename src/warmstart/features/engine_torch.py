"""Engines of torch itself: as it stands, and traced and frozen into one graph."""

from __future__ import annotations

import copy
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
from warmstart.features.feeding import noise, to_tensor
from warmstart.features.key import BATCH
from warmstart.records import Inputs

Pixels = NDArray[Any]  # encoded examples, stacked
Rows = list[NDArray[np.float32]]
Engine = Callable[[Pixels], Rows]

AGREEMENT = 1e-3  # of a tap's RMS: beyond it another engine's graph is not the network


class EngineError(TrainingError):
    """An engine could not be made; another one can."""


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether a tap's values on the same images are the same, up to rounding.

    >>> agree(torch.ones(2, 3), 1.0001 * torch.ones(2, 3)), agree(torch.ones(2), torch.zeros(2))
    (True, False)
    """
    rms = float(a.pow(2).mean().sqrt()) or 1.0
    return a.shape == b.shape and float((a - b).abs().max()) <= AGREEMENT * rms


def first_line(error: Exception) -> str:
    """What an error says, on one line; torch's may fill a screen.

    >>> first_line(RuntimeError("no such operator\\n  at line 3"))
    'no such operator'
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def eager_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The module as it is, in channels_last, its BatchNorms folded into convolutions."""
    module = _in_channels_last(module, preprocessing)

    def run(images: Pixels) -> Rows:
        with torch.inference_mode():
            return _arrays(module(to_tensor(images, preprocessing)))

    return run


def traced_engine(module: nn.Module, preprocessing: Inputs) -> Engine:
    """The same as one frozen graph: what Python costs between layers goes.

    Not made of oneDNN's own operators (`optimize_for_inference`): every tap would be brought
    back from their layout, and with 35 taps of EfficientNet-Lite0 that takes 40 % longer.
    Raises: EngineError where the network cannot be traced.
    """
    module = _in_channels_last(module, preprocessing)
    images = noise(preprocessing, BATCH)  # a graph may hold the size of the batch it was made of
    try:
        with silent(), torch.no_grad():
            inputs = to_tensor(images, preprocessing)
            traced = torch.jit.trace(module, (inputs,), check_trace=False)  # type: ignore[no-untyped-call]
            graph = torch.jit.freeze(traced)
    except Exception as error:  # tracing raises whatever an operator raises
        raise EngineError(f"the network cannot be traced: {first_line(error)}") from error

    def run(images: Pixels) -> Rows:
        # Without optimising as it runs: the second call could round otherwise than the first.
        as_frozen = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), as_frozen:
            return _arrays(graph(to_tensor(images, preprocessing)))

    return run


def _arrays(taps: tuple[Tensor, ...]) -> Rows:
    return [tap.float().numpy() for tap in taps]


def _in_channels_last(module: nn.Module, preprocessing: Inputs) -> nn.Module:
    return arranged(module, to_tensor(noise(preprocessing, 2), preprocessing))


def arranged(module: nn.Module, probe: Tensor) -> nn.Module:
    """A module as the engine runs it, tried on a probe: fused, its kernels in channels_last."""
    module = fused(module, probe)
    if any(p.ndim == 5 for p in module.parameters()):  # kernels over volumes have no such order
        return module
    found: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def fused(module: nn.Module, probe: Tensor) -> nn.Module:
    """The module with each BatchNorm that directly follows a convolution folded into it.

    Neighbours among a module's children are taken to run one after the other; outputs on
    the probe are compared, and where they differ the module comes back as it was.
    """
    if not _foldable(module):
        return module
    candidate = copy.deepcopy(module)
    for parent, conv, name, norm in _foldable(candidate):
        _fold(parent, conv, name, norm)
    with torch.inference_mode():
        pairs = zip(module(probe), candidate(probe), strict=True)
        return candidate if all(agree(a, b) for a, b in pairs) else module


def _foldable(module: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Each BatchNorm after a convolution, with what holds both and its name there."""
    return [
        (parent, conv, name, norm)
        for parent in module.modules()
        for (_, conv), (name, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if norm.num_features == conv.out_channels and norm.running_mean is not None
    ]


def _fold(parent: nn.Module, conv: nn.Conv2d, name: str, norm: nn.BatchNorm2d) -> None:
    whole = fuse_conv_bn_eval(conv, norm)
    conv.weight, conv.bias = whole.weight, whole.bias
    # timm's BatchNorm carries its activation.
    setattr(parent, name, getattr(norm, "act", None) or nn.Identity())


@contextmanager
def silent() -> Iterator[None]:
    """Tracing's and exporting's warnings say nothing to a user of an engine."""
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
