"""Linear layers by oneDNN, where torch's library for matrix products is slow.

On AMD processors MKL leaves AVX-512 unused. oneDNN, which torch ships too and uses for
convolutions, multiplies in half the time there, forward and backward (`bench run linear`).
"""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from warmstart.network.weights import Mapped

LEAST = 2**20  # multiply-adds below which choosing takes longer than multiplying
_PLAIN = (Tensor, nn.Parameter, Mapped)


def quick_linear(inputs: Tensor) -> AbstractContextManager[object]:
    """A context in which linear layers use oneDNN, if it is faster for such inputs.

    Not where a network is traced or exported: a graph is made of torch's own operators.

    >>> with quick_linear(torch.ones(1, 2)):
    ...     nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    is_traced = (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.compiler.is_compiling()
        or torch.onnx.is_in_onnx_export()
    )
    return _OneDnnMode() if inputs.is_cpu and _is_faster() and not is_traced else nullcontext()


class _OneDnnMode(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear and not kwargs and _fits(*args):
            return _linear(*args)
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    needs_grad = any(t is not None and t.requires_grad for t in (x, weight, bias))
    x = x.contiguous()  # rows with gaps between them would take a hundred times as long
    if torch.is_grad_enabled() and needs_grad:
        return cast(Tensor, _Product.apply(x, weight, bias))  # type: ignore[no-untyped-call]
    return _product(x, weight, bias)


class _Product(torch.autograd.Function):
    """x (…, i), weight (o, i), bias (o,) to (…, o)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (x, weight), needs = grads[0].contiguous(), ctx.saved_tensors, ctx.needs_input_grad
        # A gradient to be differentiated again needs torch's own operators.
        multiply = nn.functional.linear if torch.is_grad_enabled() else _product
        rows = grad.flatten(0, -2)
        return (
            multiply(grad, weight.t(), None) if needs[0] else None,
            multiply(rows.t(), x.flatten(0, -2).t(), None) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    tensors = [t for t in (x, weight, bias) if t is not None]
    return (
        all(type(t) in _PLAIN and t.is_cpu and t.dtype == torch.float32 for t in tensors)
        and x.ndim > 1
        and x.numel() * len(weight) >= LEAST
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _is_faster() -> bool:
    try:
        processor = Path("/proc/cpuinfo").read_text("utf-8", "replace")[:400]
    except OSError:
        processor = platform.processor()
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "AuthenticAMD" in processor
    )
