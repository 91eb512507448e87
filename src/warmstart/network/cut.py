"""A network in two pieces: the frozen parts below a cut, run once, and the tail that is trained.

    logits = tail(prefix(x)),   prefix(x) = (a_cut, the taps taken up to there)

The frozen prefix is a pure function of an image, so what it gives can be kept. Both pieces run
on the modules of the network itself; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from warmstart.errors import PlanError
from warmstart.network.fast_linear import quick_linear
from warmstart.network.feature_layers import LayerOrder, plan_scan
from warmstart.network.partition import Network
from warmstart.network.segments import Run, SegmentStep
from warmstart.network.surgery import WarmModel
from warmstart.network.text_encoders import group_by_length
from warmstart.records.network import FeatureLayer


def cached_layers(feature_layers: Sequence[FeatureLayer], cut: int) -> tuple[FeatureLayer, ...]:
    """The taps whose values a stored prefix holds: the necks come after all parts.

    >>> cached_layers([FeatureLayer(block=2, pool="avg"), FeatureLayer(block=3, pool="neck")], 3)
    (FeatureLayer(block=2, pool='avg', of=''),)
    """
    return tuple(layer for layer in feature_layers if layer.block <= cut and layer.pool != "neck")


class FrozenPrefix(nn.Module):
    """Parts 1..cut: inputs (B, C, H, W) to what part `cut` gives, (B, …), and (B, d) a tap.

    Raises: PlanError where the network has no such part.
    """

    def __init__(self, network: Network, cut: int, feature_layers: Sequence[FeatureLayer]) -> None:
        super().__init__()
        if not 1 <= cut <= len(network.blocks):
            raise PlanError(
                f"the plan has training.split_at {cut}; the network has parts 1 to {len(network.blocks)}."
            )
        self.backbone = network.backbone
        self.cut = cut
        self.wanted = tuple(feature_layers)
        last = FeatureLayer(block=len(network.blocks), pool="neck")
        self.scan = plan_scan(network, self.wanted or (last,))
        self.eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The main output first, then the taps in the order they were asked for."""
        main, found = self.scan.between(self.backbone, range(1, self.cut + 1), inputs, {})
        return (main, *(found[layer].float() for layer in self.wanted))


class UnfrozenBlocks(nn.Module):
    """What is trained above a cut: (what part `cut` gives, its taps) to logits (B, K).

    With `cut` 0 it is the whole model, on normalised inputs (B, C, H, W). The model is a child,
    so that modes, devices and hooks reach it. With `recompute`, what a part computes inside is
    not kept for the backward pass but computed again (Chen et al. 2016, "Training Deep Nets
    with Sublinear Memory Cost"); but not in parts that gather statistics of the batch, which
    would take them twice.
    """

    def __init__(self, model: WarmModel, cut: int, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.cut = cut
        self.stored = cached_layers(model.scan.feature_layers, cut)
        self.scan = _recomputing(model.scan) if recompute else model.scan

    def forward(self, main: Tensor, *stored: Tensor) -> Tensor:
        """Logits; `stored` holds the values of the taps `self.stored`, each (B, d)."""
        logits: Tensor = self.model.head(self.features(main, *stored))
        return logits

    def features(self, main: Tensor, *stored: Tensor) -> tuple[Tensor, ...]:
        """What the head sees of the same: each tap, (B, d); the last one is the deepest."""
        taken = dict(zip(self.stored, stored, strict=True))
        return self.scan.onward(self.model.backbone, self.cut, main, taken)

    def vectors(self, main: Tensor, *stored: Tensor) -> Tensor:
        """The deepest tap alone, (B, d); texts about as long pass together."""
        groups = group_by_length(self.model.backbone, main)
        found = [
            self.features(main[rows, :length], *(value[rows] for value in stored))[-1]
            for rows, length in groups
        ]
        order = torch.cat([rows for rows, _ in groups]).argsort()
        return torch.cat(found)[order]


def _recomputing(scan: LayerOrder) -> LayerOrder:
    """The same scan, each part of which keeps its input and output alone."""
    blocks = [replace(step, run=_again(step)) for step in scan.steps.blocks]
    return replace(scan, steps=replace(scan.steps, blocks=tuple(blocks)))


def _again(step: SegmentStep) -> Run:
    def apart(backbone: nn.Module, value: Tensor) -> Tensor:
        with quick_linear(value):  # again where it is computed again
            return step.run(backbone, value.clone())  # a part may work in place on what it is given

    def wrapped(backbone: nn.Module, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or _gathers(backbone, step):
            return step.run(backbone, value)
        made: Tensor = checkpoint(apart, backbone, value, use_reentrant=False)
        return made

    return wrapped


def _gathers(backbone: nn.Module, step: SegmentStep) -> bool:
    """Whether a part takes the statistics of each batch, as BatchNorm does while it trains."""
    return any(
        module.training and any(name.startswith("running_") for name in module._buffers)
        for called in step.modules
        for module in backbone.get_submodule(called).modules()
    )
