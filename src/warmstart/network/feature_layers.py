"""Feature layers: where features are read from a partitioned network, and how."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from warmstart.errors import ModelError
from warmstart.network.partition import EnsembleBranch, Network, pool_average, pool_grid2
from warmstart.network.segments import SegmentSteps
from warmstart.network.text_encoders import first_token
from warmstart.network.weights import Mapped
from warmstart.records.network import CHANNELS_FIRST, BlockRecord, FeatureLayer, NetworkRecord

_GRID_FROM_PX = 7  # smaller maps are too small for four quarters


def feature_layers(record: NetworkRecord) -> tuple[FeatureLayer, ...]:
    """All feature layers of a network, from its input to its head.

    `avg` of each block, `grid2` of maps from 7×7 on, `first` of token sequences, and last the
    `neck`, in place of the last block's `avg` where the two are equal.

    >>> from warmstart.network import load, partition
    >>> base = load.load("lite0")
    >>> offered = feature_layers(partition.cut(base.module, base.record.preprocessing).record)
    >>> [layer.name for layer in (*offered[:2], *offered[-2:])]
    ['1.avg', '1.grid2', '18.grid2', '18.neck']
    """
    last, layers = len(record.blocks), []
    for n, block in enumerate(record.blocks, 1):
        if block.layout != "other" and not (n == last and record.neck_is_average):
            layers.append(FeatureLayer(block=n, pool="avg"))
        is_later = any(earlier.layout == "tokens" for earlier in record.blocks[: n - 1])
        if block.layout == "tokens" and is_later:  # before any layer it is one constant
            layers.append(FeatureLayer(block=n, pool="first"))
        if min(_sides(block), default=0) >= _GRID_FROM_PX:
            layers.append(FeatureLayer(block=n, pool="grid2"))
    return (*layers, FeatureLayer(block=last, pool="neck"))


def layer_width(record: NetworkRecord, layer: FeatureLayer) -> int:
    """Number of features of a feature layer.

    Raises: ModelError if the network has no such layer.
    """
    layer = replace(layer, of="")
    offered = feature_layers(record)
    is_neck = record.neck_is_average and layer == FeatureLayer(block=len(record.blocks), pool="avg")
    if layer not in offered and not is_neck:
        raise ModelError(
            f"the network has no feature layer {layer.name}; it has "
            f"{', '.join(layer.name for layer in offered)}."
        )
    if layer.pool == "neck":
        return record.neck_width
    block = record.blocks[layer.block - 1]
    channels = block.shape_out[0] if block.layout in CHANNELS_FIRST else block.shape_out[-1]
    if block.layout == "tokens":
        channels -= 1  # the mask
    return channels * (4 if layer.pool == "grid2" else 1)


def _sides(block: BlockRecord) -> tuple[int, ...]:
    return {"NCHW": block.shape_out[1:], "NHWC": block.shape_out[:2]}.get(block.layout, ())


@dataclass(frozen=True, slots=True)
class LayerOrder:
    """Steps of `FeatureExtractor` and of the warm model, and the layers read after each."""

    feature_layers: tuple[FeatureLayer, ...]
    widths: tuple[int, ...]  # of each layer's features
    steps: SegmentSteps
    blocks: tuple[BlockRecord, ...]  # whose shapes and layouts say how to pool
    ensemble: EnsembleBranch | None = None

    def run(self, backbone: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs (B, C, H, W) to one float32 (B, d) per layer, on the modules of `backbone`."""
        if self.ensemble is None:
            return self.onward(backbone, 0, inputs, {})
        cut, branch = self.ensemble.cut, backbone.get_submodule(self.ensemble.name)
        main, features = self.between(backbone, range(1, cut + 1), inputs, {})
        other = main.clone()  # layers may work in place
        features = self._finish(backbone, cut, main, features)
        features = self._finish(branch, cut, other, features, of="base")
        return tuple(features[layer].float() for layer in self.feature_layers)

    def onward(
        self, backbone: nn.Module, cut: int, main: Tensor, below: Mapping[FeatureLayer, Tensor]
    ) -> tuple[Tensor, ...]:
        """As `run`, from the output of block `cut`, (B, …), and the layers up to there."""
        features = self._finish(backbone, cut, main, below)
        return tuple(features[layer].float() for layer in self.feature_layers)

    def between(
        self,
        backbone: nn.Module,
        numbers: range,
        main: Tensor,
        below: Mapping[FeatureLayer, Tensor],
        of: str = "",
    ) -> tuple[Tensor, dict[FeatureLayer, Tensor]]:
        """Run consecutive blocks; return the last output and all layers up to there."""
        features = dict(below)
        with quick_linear(main):
            for number in numbers:
                main = self.steps.blocks[number - 1].run(backbone, main)
                features |= self.pool_layers(number, main, of)
        return main, features

    def pool_layers(self, number: int, main: Tensor, of: str = "") -> dict[FeatureLayer, Tensor]:
        """The layers read from the output `main` (B, …) of block `number`, without the neck."""
        block = self.blocks[number - 1]
        pooled = {}
        for layer in self.feature_layers:
            if layer.block != number or layer.of != of:
                continue
            if layer.pool == "first":
                pooled[layer] = first_token(main)
            elif layer.pool == "grid2":
                pooled[layer] = pool_grid2(main, block.layout, _sides(block))
            elif layer.pool == "avg":
                pooled[layer] = pool_average(main, block.layout)
        return pooled

    def _finish(
        self,
        backbone: nn.Module,
        cut: int,
        main: Tensor,
        below: Mapping[FeatureLayer, Tensor],
        of: str = "",
    ) -> dict[FeatureLayer, Tensor]:
        """Run from block `cut` to the last one with a feature layer, then the neck."""
        own = [layer for layer in self.feature_layers if layer.of == of]
        last = max((layer.block for layer in own), default=0)
        main, features = self.between(backbone, range(cut + 1, last + 1), main, below, of)
        for layer in own:
            if layer.pool == "neck" and layer not in features:  # last: it may work in place
                features[layer] = self.steps.neck.run(backbone, main)
        return features


def plan_scan(network: Network, layers: Sequence[FeatureLayer]) -> LayerOrder:
    """The order in which `layers` are read from a network.

    Raises: ModelError if there is none, or the network lacks one of them.
    """
    if not layers:
        raise ModelError(
            "no feature layers were named; name at least one, such as the last block's neck."
        )
    return LayerOrder(
        feature_layers=tuple(layers),
        widths=tuple(layer_width(network.record, layer) for layer in layers),
        steps=network.steps,
        blocks=network.record.blocks,
        ensemble=network.ensemble,
    )


class LayerReader(nn.Module):
    """A backbone up to its deepest feature layer: inputs (B, C, H, W) to (B, d) float32 per layer.

    The backbone is a child, so that it is moved, put into channels_last, traced and exported like
    any module.
    """

    def __init__(self, backbone: nn.Module, scan: LayerOrder) -> None:
        super().__init__()
        self.backbone = backbone
        self.scan = scan
        self.eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.scan.run(self.backbone, inputs)


class FeatureExtractor(LayerReader):
    """A frozen network, read at some feature layers."""

    def __init__(self, network: Network, layers: Sequence[FeatureLayer]) -> None:
        super().__init__(network.backbone, plan_scan(network, layers))


# ---- Linear layers by oneDNN, where torch's library for matrix products is slow.
#
# On AMD processors MKL leaves AVX-512 unused. oneDNN, which torch ships too and uses for
# convolutions, multiplies in half the time there, forward and backward (`bench run linear`).


LEAST = 2**20  # multiply-adds below which choosing takes longer than multiplying
_PLAIN = (Tensor, nn.Parameter, Mapped)


def quick_linear(inputs: Tensor) -> AbstractContextManager[object]:
    """A context in which linear layers use oneDNN, if it is faster for such inputs.

    Not where a network is traced or exported: a graph is made of torch's own operators.
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
