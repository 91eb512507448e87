"""A control without transferable knowledge: the same network, each weight tensor shuffled.

Its score comes from the design and the data alone (Jarrett et al. 2009, "What is the Best
Multi-Stage Architecture for Object Recognition?", §4; Zhang et al. 2022, "Are All Layers Created
Equal?", §3). Signals would die out or blow up, so BatchNorm takes the statistics of the images at
hand, and without it each layer's output gets the root mean square of the original's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.text_encoders import TextNetwork, group_by_length
from warmstart.network.weights import in_channels_last

Pixels = NDArray[Any]  # encoded examples, stacked
Rows = list[NDArray[np.float32]]
Normalise = Callable[[Pixels], Tensor]  # (n, H, W, C) to (n, C, H, W), channels_last
LEAST_SIDE = 96  # px below which images are not made smaller
# Values of a matrix above which rows are permuted and then the values of each, in a quarter of the
# time; of an embedding table the rows alone.
MANY = 2**18
CHUNK = 24  # images per chunk: enough to set statistics, few enough to stay in the CPU's cache


def shuffled(module: nn.Module, rng: np.random.Generator) -> nn.Module:
    """A copy whose parameters are permuted, each inside itself; buffers stay."""
    clone = copy.deepcopy(module)
    tables = {id(block.weight) for block in clone.modules() if isinstance(block, nn.Embedding)}
    with torch.no_grad():
        for parameter in clone.parameters():
            if parameter.ndim == 2 and parameter.numel() > MANY:
                rows = parameter.detach().numpy()[rng.permutation(len(parameter))]
                values = rows if id(parameter) in tables else rng.permuted(rows, axis=1)
                parameter.copy_(torch.from_numpy(values))
                continue
            order = torch.from_numpy(rng.permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return clone


def control_features(
    extractor: FeatureExtractor,
    images: Pixels,
    normalise: Normalise,
    rng: np.random.Generator,
    scales: Sequence[float],
) -> Rows:
    """Features of a shuffled copy, layers scaled as by `layer_scales`.

    Shapes: images (n, H, W, C); each layer (n, d_t).
    """
    clone = in_channels_last(shuffled(extractor, rng))
    for norm in _norms(clone):
        norm.train()
    for layer, scale in zip(_layers(clone) if scales else (), scales, strict=True):
        layer.register_forward_hook(_rescale(scale))
    return forward_images(clone, images, normalise)


def halve_images(extractor: FeatureExtractor, images: Pixels, normalise: Normalise) -> Pixels:
    """The images at half their size, unless they are small or the network takes one size only.

    On seven image sets shuffled EfficientNet-Lite0s did as well at 112 px as at 224 px (mean
    accuracy 0.426 and 0.436). Shapes: images (n, H, W, C); returns (n, H / 2, W / 2, C).
    """
    n, height, width, channels = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if min(height, width) < LEAST_SIDE or height % 2 or width % 2:
        return images
    quarters = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    small: Pixels = np.rint(quarters.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    try:
        features = forward_images(extractor, small[:2], normalise)
    except (RuntimeError, ValueError, AssertionError, IndexError):
        return images
    widths = tuple(layer.shape[1] for layer in features)
    return small if widths == tuple(extractor.scan.widths) else images


def layer_scales(
    extractor: FeatureExtractor, images: Pixels, normalise: Normalise
) -> tuple[float, ...]:
    """Root mean square of each weight layer's output on these images (n, H, W, C).

    Empty for a network with BatchNorm, which sets its scales itself.
    """
    if _norms(extractor):
        return ()
    layers = _layers(extractor)
    squares: list[list[float]] = [[] for _ in layers]
    with ExitStack() as hooks:
        for layer, values in zip(layers, squares, strict=True):
            hook = layer.register_forward_hook(
                lambda _, __, output, values=values: values.append(float(_mean_square(output)))
            )
            hooks.enter_context(hook)
        forward_images(extractor, images, normalise)
    return tuple(float(np.sqrt(np.mean(values or [0.0]))) for values in squares)


def _rescale(scale: float) -> Callable[..., Any]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        now = float(_mean_square(output).sqrt())
        if not scale or not now:
            return output
        if isinstance(output, tuple):
            return (output[0] * (scale / now), *output[1:])
        return output * (scale / now)

    return hook


def _mean_square(output: Any) -> Tensor:
    main: Tensor = output[0] if isinstance(output, tuple) else output
    return main.float().pow(2).mean()


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def _layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
    return [m for m in module.modules() if isinstance(m, kinds)]


def forward_images(module: nn.Module, images: Pixels, normalise: Normalise) -> Rows:
    """Run in chunks of similar size and length. Shapes: images (n, H, W, C); layers (n, d_t)."""
    groups = [np.arange(len(images))]
    if isinstance(backbone := getattr(module, "backbone", module), TextNetwork):
        groups = [rows.numpy() for rows, _ in group_by_length(backbone, normalise(images))]
    chunks = [c for rows in groups for c in np.array_split(rows, -(-len(rows) // CHUNK) or 1)]
    with torch.inference_mode():
        features = [module(normalise(images[rows])) for rows in chunks]
    order = np.argsort(np.concatenate(chunks))
    return [torch.cat(layer).float().numpy()[order] for layer in zip(*features, strict=True)]
