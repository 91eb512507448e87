"""BatchNorm with fixed statistics, folded into its convolution during training.

A fine-tuned BatchNorm keeps its statistics, and its scale and shift are trained:
y = γ (conv(x) − μ)/σ + β. That is one convolution, with the kernel W γ/σ and the bias
β + (b − μ) γ/σ, and gradients flow through these to W, γ and β as before. This saves two passes
over the largest tensors of a step, and what they would store for the backward pass. Modules stay
in place: their `forward` is replaced for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

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
