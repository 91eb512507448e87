"""BatchNorm with statistics at rest, folded into its convolution while training goes on.

In a tuned layer BatchNorm keeps the statistics that it came with, and its scale and shift are
trained: y = γ (conv(x) − μ)/σ + β. That is one convolution, with the kernel W γ/σ and the bias
β + (b − μ) γ/σ, and gradients flow through these to W, γ and β as before. Two passes over the
largest tensors of a step are spared, and what they would keep for the backward pass.

Modules stay where they are and keep their names; their `forward` is another one for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

AGREEMENT = 1e-3  # of the outputs' RMS on the probe: beyond it nothing is folded
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def folded(
    model: nn.Module, resting: Sequence[nn.Module], run: Callable[[], Tensor]
) -> Iterator[int]:
    """Fold what can be folded for a while; gives the number of convolutions that were.

    `resting` are the modules whose statistics stay; `run` passes a probe through the network,
    which is in eval mode meanwhile.
    Where the network gives other outputs then, it runs as it is.
    """
    with torch.no_grad():
        pairs, plain = _watched(model, resting, run)
    patched = [*_fold(pairs), *_clamp(model)]
    try:
        with torch.no_grad():
            if not _agree(plain, run()):
                _undo(patched)
                pairs = []
        yield len(pairs)
    finally:
        _undo(patched)


def _watched(
    model: nn.Module, resting: Sequence[nn.Module], run: Callable[[], Tensor]
) -> tuple[list[Pair], Tensor]:
    """Each convolution whose output a resting BatchNorm takes, and the probe's outputs.

    Both must be called once: a second call might stand elsewhere.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append((module, inputs[0], output))

    at_rest = {id(module) for module in resting}
    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) or (_is_plain(module) and id(module) in at_rest)
    ]
    try:
        plain = run()
    finally:
        for hook in hooks:
            hook.remove()
    counts: dict[int, int] = {}
    for module, _, _ in calls:
        counts[id(module)] = counts.get(id(module), 0) + 1
    made = {id(out): module for module, _, out in calls if isinstance(module, nn.Conv2d)}
    pairs = []
    for module, taken, _ in calls:
        conv = made.get(id(taken))
        is_pair = isinstance(module, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d)
        if is_pair and counts[id(module)] == counts[id(conv)] == 1:
            pairs.append((cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, module)))
    return pairs, plain


def _is_plain(module: nn.Module) -> bool:
    """A BatchNorm whose arithmetic is known: torch's own, or timm's with its activation."""
    is_known = type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
    return (
        is_known
        and isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.affine
    )


def _fold(pairs: Sequence[Pair]) -> list[nn.Module]:
    for conv, norm in pairs:
        conv.__dict__["forward"] = _folding(conv, norm)
        norm.__dict__["forward"] = _rest_of(norm)
    return [module for pair in pairs for module in pair]


def _folding(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    plain = type(conv).forward  # a subclass may pad in its own way

    def forward(inputs: Tensor) -> Tensor:
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        weight, bias = conv._parameters["weight"], conv._parameters["bias"]
        shift = -mean if bias is None else bias - mean
        own: dict[str, Any] = conv._parameters
        own["weight"] = cast(Tensor, weight) * scale.view(-1, 1, 1, 1)
        own["bias"] = norm.bias + shift * scale
        try:
            return plain(conv, inputs)
        finally:
            own["weight"], own["bias"] = weight, bias

    return forward


def _rest_of(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What a norm does beside normalising: timm's drops and activates."""
    steps = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]

    def forward(inputs: Tensor) -> Tensor:
        for step in steps:
            inputs = step(inputs)
        return inputs

    return forward


class _Clamp(torch.autograd.Function):
    """An in-place clamp that keeps its output alone, which the next layer keeps as well.

    torch's own copies its input first, as soon as gradients are wanted.
    """

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
        found: Tensor = torch.ops.aten.hardtanh_backward(grads[0], output, *ctx.limits)
        return found, None, None


def _clamp(model: nn.Module) -> list[nn.Module]:
    """Clamps that work in place already, as those of mobile networks do."""
    found = [m for m in model.modules() if isinstance(m, nn.Hardtanh) and m.inplace]
    for module in found:
        module.__dict__["forward"] = _clamping(module)
    return list(found)


def _clamping(module: nn.Hardtanh) -> Callable[[Tensor], Tensor]:
    low, high = float(module.min_val), float(module.max_val)

    def forward(inputs: Tensor) -> Tensor:
        if not inputs.requires_grad or inputs.is_leaf:
            return inputs.clamp_(low, high)
        made: Tensor = _Clamp.apply(inputs, low, high)  # type: ignore[no-untyped-call]
        return made

    return forward


def _undo(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        module.__dict__.pop("forward", None)


def _agree(one: Tensor, other: Tensor) -> bool:
    rms = float(one.pow(2).mean().sqrt()) or 1.0
    return one.shape == other.shape and float((one - other).abs().max()) <= AGREEMENT * rms
