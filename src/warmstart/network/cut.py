"""A network in two pieces: a frozen prefix of blocks, run once, and the unfrozen blocks above.

    logits = unfrozen(prefix(x)),   prefix(x) = (a_cut, the feature layers up to there)

The frozen prefix is a pure function of an image, so its outputs can be cached. Both pieces run
on the network's own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from warmstart.errors import PlanError
from warmstart.network.fast_linear import quick_linear
from warmstart.network.feature_layers import plan_scan
from warmstart.network.partition import Network
from warmstart.network.segments import Run, SegmentStep
from warmstart.network.surgery import WarmModel
from warmstart.network.text_encoders import group_by_length
from warmstart.records.network import FeatureLayer


def cached_layers(feature_layers: Sequence[FeatureLayer], cut: int) -> tuple[FeatureLayer, ...]:
    """The feature layers that a cached prefix holds; necks follow all blocks.

    >>> cached_layers([FeatureLayer(block=2, pool="avg"), FeatureLayer(block=3, pool="neck")], 3)
    (FeatureLayer(block=2, pool='avg', of=''),)
    """
    return tuple(layer for layer in feature_layers if layer.block <= cut and layer.pool != "neck")


class FrozenPrefix(nn.Module):
    """Blocks 1..cut: inputs (B, C, H, W) to block `cut`'s output and the feature layers, (B, d).

    Raises: PlanError where the network has no such block.
    """

    def __init__(self, network: Network, cut: int, feature_layers: Sequence[FeatureLayer]) -> None:
        super().__init__()
        if not 1 <= cut <= len(network.blocks):
            raise PlanError(
                f"the plan has training.split_at {cut}; the network has blocks 1 to "
                f"{len(network.blocks)}."
            )
        self.backbone = network.backbone
        self.cut = cut
        self.feature_layers = tuple(feature_layers)
        last = FeatureLayer(block=len(network.blocks), pool="neck")
        self.scan = plan_scan(network, self.feature_layers or (last,))
        self.eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        main, features = self.scan.between(self.backbone, range(1, self.cut + 1), inputs, {})
        return (main, *(features[layer].float() for layer in self.feature_layers))


class UnfrozenBlocks(nn.Module):
    """The blocks above a cut: (output of block `cut`, feature layers below) to logits (B, K).

    With `cut` 0 it is the whole model, on normalised inputs (B, C, H, W). With `recompute`,
    activations inside a block are recomputed in the backward pass (Chen et al. 2016, "Training Deep
    Nets with Sublinear Memory Cost"), except in blocks that gather batch statistics, which would
    count each batch twice.
    """

    def __init__(self, model: WarmModel, cut: int, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.cut = cut
        self.cached = cached_layers(model.scan.feature_layers, cut)
        self.scan = model.scan
        if recompute:
            blocks = tuple(replace(step, run=_checkpoint(step)) for step in self.scan.steps.blocks)
            self.scan = replace(self.scan, steps=replace(self.scan.steps, blocks=blocks))

    def forward(self, main: Tensor, *cached: Tensor) -> Tensor:
        """Logits; `cached`: the feature layers `self.cached`, each (B, d)."""
        return cast(Tensor, self.model.head(self.features(main, *cached)))

    def features(self, main: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """The head's input: each feature layer, (B, d); the last one is the deepest."""
        below = dict(zip(self.cached, cached, strict=True))
        return self.scan.onward(self.model.backbone, self.cut, main, below)

    def vectors(self, main: Tensor, *cached: Tensor) -> Tensor:
        """The deepest feature layer, (B, d); texts of similar length are batched together."""
        groups = group_by_length(self.model.backbone, main)
        vectors = [
            self.features(main[rows, :length], *(value[rows] for value in cached))[-1]
            for rows, length in groups
        ]
        order = torch.cat([rows for rows, _ in groups]).argsort()
        return torch.cat(vectors)[order]


def _checkpoint(step: SegmentStep) -> Run:
    def block(backbone: nn.Module, value: Tensor) -> Tensor:
        with quick_linear(value):  # entered again on recomputation
            return step.run(backbone, value.clone())  # a block may work in place on its input

    def run(backbone: nn.Module, value: Tensor) -> Tensor:
        modules = (m for name in step.modules for m in backbone.get_submodule(name).modules())
        buffers = (name for module in modules if module.training for name in module._buffers)
        has_statistics = any(name.startswith("running_") for name in buffers)  # of each batch
        if not torch.is_grad_enabled() or has_statistics:
            return step.run(backbone, value)
        return cast(Tensor, checkpoint(block, backbone, value, use_reentrant=False))

    return run
