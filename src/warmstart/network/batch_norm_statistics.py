"""BatchNorm statistics of images at hand, beside the running ones of the pretraining data."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from warmstart.network.partition import Network, run_all

Values = NDArray[np.float64]
CHUNK = 16  # images at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class NormStatistics:
    """One BatchNorm layer. Shapes: source_mean, source_var (C,); mean, square (n, C)."""

    block: int
    source_mean: Values
    source_var: Values
    mean: Values  # per image, over positions
    square: Values  # mean square per image, over positions


def norm_statistics(network: Network, inputs: Tensor, n_blocks: int) -> tuple[NormStatistics, ...]:
    """Run the first `n_blocks` blocks on inputs (n, C, H, W); the statistics of each BatchNorm.

    Empty where those blocks have no BatchNorm with statistics. The network stays unchanged.
    """
    layers: list[tuple[int, _BatchNorm, list[tuple[Values, Values]]]] = []
    for number, step in enumerate(network.steps.blocks[:n_blocks], start=1):
        for name in step.modules:
            for module in network.backbone.get_submodule(name).modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    layers.append((number, module, []))
    with ExitStack() as hooks, torch.inference_mode():
        for _, layer, values in layers:
            record = partial(_record, values)
            hooks.enter_context(layer.register_forward_pre_hook(record))
        for chunk in torch.split(inputs, CHUNK) if layers else ():
            run_all(network.steps.blocks[:n_blocks], network.backbone, chunk)
    return tuple(
        NormStatistics(
            block=number,
            source_mean=cast(Tensor, layer.running_mean).double().numpy(),
            source_var=cast(Tensor, layer.running_var).double().numpy(),
            mean=np.concatenate([mean for mean, _ in values]),
            square=np.concatenate([square for _, square in values]),
        )
        for number, layer, values in layers
        if values
    )


def _record(values: list[tuple[Values, Values]], _: nn.Module, inputs: tuple[Tensor]) -> None:
    """Add mean and mean square over positions, (B, C) each, of a layer's input (B, C, …)."""
    mean = inputs[0].float()
    variance = torch.zeros_like(mean)
    if positions := tuple(range(2, mean.ndim)):
        variance, mean = torch.var_mean(mean, dim=positions, correction=0)
    mean, variance = mean.double(), variance.double()
    values.append((mean.numpy(), (variance + mean**2).numpy()))


@contextmanager
def recompute_statistics(model: nn.Module, trainable: Collection[Tensor]) -> Iterator[bool]:
    """Inside, batches that pass the model in eval mode set its BatchNorm statistics anew.

    They are reset and end as the mean over all batches, so that they belong to the current
    weights; running ones belong to earlier weights (Izmailov et al. 2018, "Averaging Weights
    Leads to Wider Optima", §3.2; Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", §3.1).
    Only layers whose statistics are among the `trainable` tensors change. Yields whether any does.

    >>> norm = nn.BatchNorm1d(2, momentum=0.01)
    >>> with recompute_statistics(norm, [norm.running_mean]):
    ...     _ = norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> norm.running_mean.tolist(), norm.momentum
    ([2.0, 3.0], 0.01)
    """
    ids = {id(tensor) for tensor in trainable}
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    layers = [m for m in norms if m.running_mean is not None and id(m.running_mean) in ids]
    model.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.training, layer.momentum = True, None
    try:
        yield bool(layers)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.training, layer.momentum = False, momentum
