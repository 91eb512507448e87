"""What BatchNorm layers see of given images, beside what they remember of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from warmstart.network.partition import Network, run_all

Values = NDArray[np.float64]
CHUNK = 16  # images in one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class NormStatistics:
    """One BatchNorm layer. Shapes: source_mean, source_var (C,); mean, square (n, C)."""

    block: int
    source_mean: Values
    source_var: Values
    mean: Values  # per image, over positions
    square: Values  # mean square, the same


def norm_statistics(network: Network, inputs: Tensor, n_blocks: int) -> tuple[NormStatistics, ...]:
    """Run the first `n_blocks` parts on inputs (n, C, H, W) and note what each BatchNorm sees.

    Empty where those parts have no BatchNorm with statistics. The network stays as it is.
    """
    found: dict[int, list[tuple[Values, Values]]] = {}
    layers = _layers(network, n_blocks)
    hooks = [
        layer.register_forward_pre_hook(_noting(found.setdefault(number, [])))
        for number, (_, layer) in enumerate(layers)
    ]
    try:
        with torch.inference_mode():
            for chunk in torch.split(inputs, CHUNK) if layers else ():
                run_all(network.steps.blocks[:n_blocks], network.backbone, chunk)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(
        _seen(part, layer, found[number])
        for number, (part, layer) in enumerate(layers)
        if found[number]
    )


@contextmanager
def recompute_statistics(model: nn.Module, moving: Collection[Tensor]) -> Iterator[bool]:
    """Inside, what passes the model in eval mode becomes what its new BatchNorm layers remember.

    Their statistics begin anew and end as the mean of those of all batches, so that they belong to
    the weights as they are now; running ones belong to weights that were (Izmailov et al. 2018,
    "Averaging Weights Leads to Wider Optima", §3.2; Wu & Johnson 2021, "Rethinking 'Batch' in
    BatchNorm", §3.1). After 50 updates with the momentum 0.01 of networks that come from
    TensorFlow they are even those of no network: 60 % of a running mean is still the 0 of its
    beginning. `moving`: the tensors that may change; layers whose statistics are not among them
    stay as they are. Yields whether there is any that changes.

    >>> norm = nn.BatchNorm1d(2, momentum=0.01)
    >>> with recompute_statistics(norm, [norm.running_mean]):
    ...     _ = norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> norm.running_mean.tolist(), norm.momentum
    ([2.0, 3.0], 0.01)
    """
    known = {id(tensor) for tensor in moving}
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    found = [m for m in layers if m.running_mean is not None and id(m.running_mean) in known]
    model.eval()
    before = [layer.momentum for layer in found]
    for layer in found:
        layer.reset_running_stats()
        layer.training, layer.momentum = True, None
    try:
        yield bool(found)
    finally:
        for layer, momentum in zip(found, before, strict=True):
            layer.training, layer.momentum = False, momentum


def _layers(network: Network, n_blocks: int) -> list[tuple[int, _BatchNorm]]:
    """The BatchNorm layers of the first parts, with the part's number."""
    layers: list[tuple[int, _BatchNorm]] = []
    for number, step in enumerate(network.steps.blocks[:n_blocks], start=1):
        for name in step.modules:
            inside = network.backbone.get_submodule(name).modules()
            layers += [(number, m) for m in inside if isinstance(m, _BatchNorm) and _remembers(m)]
    return layers


def _remembers(layer: nn.Module) -> bool:
    return getattr(layer, "running_mean", None) is not None


def _noting(place: list[tuple[Values, Values]]) -> Callable[..., None]:
    def hook(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        value: Tensor = inputs[0].float()
        others = tuple(range(2, value.ndim))
        if others:
            variance, mean = torch.var_mean(value, dim=others, correction=0)
        else:
            variance, mean = torch.zeros_like(value), value
        mean, variance = mean.double(), variance.double()
        place.append((mean.numpy(), (variance + mean**2).numpy()))

    return hook


def _seen(block: int, layer: _BatchNorm, noted: Sequence[tuple[Values, Values]]) -> NormStatistics:
    mean, square = (np.concatenate(values) for values in zip(*noted, strict=True))
    return NormStatistics(
        block=block,
        source_mean=_array(layer.running_mean),
        source_var=_array(layer.running_var),
        mean=mean,
        square=square,
    )


def _array(values: Tensor | None) -> Values:
    """A remembered statistic; layers without are not looked at."""
    found: Values = values.double().numpy() if values is not None else np.empty(0)
    return found
