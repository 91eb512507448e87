"""BatchNorm: folded into convolutions while it is trained, and its statistics on new images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from warmstart.network.partition import Network, run_all

# ---- Folded into its convolution during training, with fixed statistics.
#
# A fine-tuned BatchNorm keeps its statistics, and its scale and shift are trained:
# y = γ (conv(x) − μ)/σ + β. That is one convolution, with the kernel W γ/σ and the bias
# β + (b − μ) γ/σ, and gradients flow through these to W, γ and β as before. This saves two passes
# over the largest tensors of a step, and what they would store for the backward pass. Modules stay
# in place: their `forward` is replaced for a while.


AGREEMENT = 1e-3  # of the outputs' RMS on the probe: beyond it nothing is folded
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def folded(
    model: nn.Module, eval_modules: Sequence[nn.Module], run: Callable[[], Tensor]
) -> Iterator[int]:
    """Fold where possible inside the context; yields the number of folded convolutions.

    `eval_modules` are those whose statistics stay; `run` passes a probe through the network,
    which is in eval mode meanwhile. Where the outputs would differ, nothing is folded.
    """
    with torch.no_grad():
        pairs, expected = _find_pairs(model, eval_modules, run)
    patches = dict[nn.Module, Callable[[Tensor], Tensor]]()
    for conv, norm in pairs:
        patches |= {conv: _folded_forward(conv, norm), norm: _without_norm(norm)}
    for module in model.modules():
        if isinstance(module, nn.Hardtanh) and module.inplace:  # as in mobile networks
            patches[module] = _clamp_forward(module)
    try:
        for module, forward in patches.items():
            module.__dict__["forward"] = forward
        with torch.no_grad():
            outputs = run()
            limit = AGREEMENT * (float(expected.pow(2).mean().sqrt()) or 1.0)
            is_same = expected.shape == outputs.shape
            if not (is_same and float((expected - outputs).abs().max()) <= limit):
                _restore(patches)
                pairs = []
        yield len(pairs)
    finally:
        _restore(patches)


def _find_pairs(
    model: nn.Module, eval_modules: Sequence[nn.Module], run: Callable[[], Tensor]
) -> tuple[list[Pair], Tensor]:
    """Convolutions and the eval-mode BatchNorms that follow, each called once; probe outputs."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append((module, inputs[0], output))

    fixed = {id(module) for module in eval_modules}
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) or (_is_plain(module) and id(module) in fixed):
                hooks.enter_context(module.register_forward_hook(record))
        outputs = run()
    counts = Counter(id(module) for module, _, _ in calls)
    convs = {id(out): module for module, _, out in calls if isinstance(module, nn.Conv2d)}
    pairs = list[Pair]()
    for module, value, _ in calls:
        conv = convs.get(id(value))
        if isinstance(module, nn.BatchNorm2d) and conv is not None:
            pairs += [(conv, module)] if counts[id(module)] == counts[id(conv)] == 1 else []
    return pairs, outputs


def _is_plain(module: nn.Module) -> bool:
    """A BatchNorm with known arithmetic: torch's own, or timm's with its activation."""
    return (
        (type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d")
        and isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.affine
    )


def _folded_forward(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    plain = type(conv).forward  # a subclass may pad in its own way

    def forward(inputs: Tensor) -> Tensor:
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        parameters: dict[str, Any] = conv._parameters
        weight, bias = parameters["weight"], parameters["bias"]
        shift = -mean if bias is None else bias - mean
        parameters["weight"] = weight * scale.view(-1, 1, 1, 1)
        parameters["bias"] = norm.bias + shift * scale
        try:
            return plain(conv, inputs)
        finally:
            parameters["weight"], parameters["bias"] = weight, bias

    return forward


def _without_norm(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """The forward of a norm without normalising: timm's applies dropout and an activation."""
    steps = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]

    def forward(inputs: Tensor) -> Tensor:
        for step in steps:
            inputs = step(inputs)
        return inputs

    return forward


class _Clamp(torch.autograd.Function):
    """An in-place clamp that stores its output alone; torch's own copies its input."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, low: float, high: float) -> Tensor:
        output = inputs.clamp_(low, high)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        ctx.limits = (low, high)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        grad: Tensor = torch.ops.aten.hardtanh_backward(grads[0], output, *ctx.limits)
        return grad, None, None


def _clamp_forward(module: nn.Hardtanh) -> Callable[[Tensor], Tensor]:
    low, high = float(module.min_val), float(module.max_val)

    def forward(inputs: Tensor) -> Tensor:
        if not inputs.requires_grad or inputs.is_leaf:
            return inputs.clamp_(low, high)
        return cast(Tensor, _Clamp.apply(inputs, low, high))  # type: ignore[no-untyped-call]

    return forward


def _restore(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        module.__dict__.pop("forward", None)


# ---- Statistics of images at hand, beside the running ones of the pretraining data.


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
