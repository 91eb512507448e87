"""Taps: where features are taken from a cut network, and the module that takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.fast_linear import quick_linear
from warmstart.network.measure import pool_average, pool_grid2
from warmstart.network.partition import EnsembleBranch, Network
from warmstart.network.segments import SegmentSteps
from warmstart.network.text_encoders import first_token
from warmstart.records.network import CHANNELS_FIRST, BlockRecord, FeatureLayer, NetworkRecord, Pool

_GRID_FROM_PX = 7  # smaller maps have no room for four quarters


def feature_layers(record: NetworkRecord) -> tuple[FeatureLayer, ...]:
    """All taps that a network offers, from its input to its head.

    `avg` of each part, `grid2` of maps from 7×7 on, `first` of rows of tokens, and last the
    `neck`, which stands for the last part's `avg` where the two are equal.

    >>> from warmstart.network import load, partition
    >>> base = load.load("lite0")
    >>> offered = feature_layers(partition.cut(base.module, base.record.preprocessing).record)
    >>> [layer.name for layer in (*offered[:2], *offered[-2:])]
    ['1.avg', '1.grid2', '18.grid2', '18.neck']
    """
    last = len(record.blocks)
    found = [
        FeatureLayer(block=n, pool="avg")
        for n, block in enumerate(record.blocks, 1)
        if _is_pooled(block)
    ]
    found += [
        FeatureLayer(block=n, pool="grid2")
        for n, block in enumerate(record.blocks, 1)
        if _is_map(block)
    ]
    rows = [n for n, block in enumerate(record.blocks, 1) if block.layout == "tokens"]
    found += [
        FeatureLayer(block=n, pool="first") for n in rows[1:]
    ]  # before any layer it is one constant
    if record.neck_is_average:
        found.remove(FeatureLayer(block=last, pool="avg"))
    ordered = sorted(found, key=lambda layer: (layer.block, layer.pool))
    return (*ordered, FeatureLayer(block=last, pool="neck"))


def layer_width(record: NetworkRecord, layer: FeatureLayer) -> int:
    """Length of a tap's feature vector.

    Raises: ModelError if the network has no such tap.
    """
    layer = replace(layer, of="")
    is_twin = record.neck_is_average and layer == FeatureLayer(block=len(record.blocks), pool="avg")
    if layer not in feature_layers(record) and not is_twin:
        raise ModelError(
            f"the network has no tap {layer.name}; its taps are "
            f"{', '.join(t.name for t in feature_layers(record))}."
        )
    if layer.pool == "neck":
        return record.neck_width
    block = record.blocks[layer.block - 1]
    channels = block.shape_out[0] if block.layout in CHANNELS_FIRST else block.shape_out[-1]
    if block.layout == "tokens":
        channels -= 1  # the mask
    return channels * (4 if layer.pool == "grid2" else 1)


def _is_pooled(block: BlockRecord) -> bool:
    return block.layout != "other"


def _is_map(block: BlockRecord) -> bool:
    return min(_sides(block), default=0) >= _GRID_FROM_PX


def _sides(block: BlockRecord) -> tuple[int, ...]:
    return {"NCHW": block.shape_out[1:], "NHWC": block.shape_out[:2]}.get(block.layout, ())


@dataclass(frozen=True, slots=True)
class LayerOrder:
    """Steps of `FeatureExtractor` and of the warm model, and the layers read after each."""

    feature_layers: tuple[FeatureLayer, ...]
    widths: tuple[int, ...]  # of each tap's features
    steps: SegmentSteps
    blocks: tuple[BlockRecord, ...]  # whose shapes and layouts say how to pool
    ensemble: EnsembleBranch | None = None

    def run(self, backbone: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs (B, C, H, W) to one float32 (B, d) per tap, on the modules of `backbone`."""
        if self.ensemble is None:
            return self.onward(backbone, 0, inputs, {})
        cut, found = self.ensemble.cut, dict[FeatureLayer, Tensor]()
        main = self._walk(backbone, range(1, cut + 1), inputs, found, "")
        other = main.clone()  # layers may work in place
        self._finish(backbone, cut, main, found, "")
        self._finish(backbone.get_submodule(self.ensemble.name), cut, other, found, "base")
        return tuple(found[layer].float() for layer in self.feature_layers)

    def onward(
        self, backbone: nn.Module, cut: int, main: Tensor, before: Mapping[FeatureLayer, Tensor]
    ) -> tuple[Tensor, ...]:
        """The same from what part `cut` gave, (B, …), and the taps taken up to there."""
        found = dict(before)
        self._finish(backbone, cut, main, found, "")
        return tuple(found[layer].float() for layer in self.feature_layers)

    def between(
        self,
        backbone: nn.Module,
        numbers: range,
        main: Tensor,
        before: Mapping[FeatureLayer, Tensor],
    ) -> tuple[Tensor, dict[FeatureLayer, Tensor]]:
        """Run some parts on what the part before them gave; all taps taken up to their end."""
        found = dict(before)
        main = self._walk(backbone, numbers, main, found, "")
        return main, found

    def pool_layers(self, number: int, main: Tensor, of: str = "") -> dict[FeatureLayer, Tensor]:
        """The taps after part `number`, which gave `main` (B, …); the neck is none of them."""
        block = self.blocks[number - 1]
        here = [
            layer for layer in self.feature_layers if layer.block == number and layer.pool != "neck"
        ]
        return {layer: _pooled(main, layer.pool, block) for layer in here if layer.of == of}

    def _walk(
        self,
        backbone: nn.Module,
        numbers: range,
        main: Tensor,
        found: dict[FeatureLayer, Tensor],
        of: str,
    ) -> Tensor:
        """Run some parts; what they give lies in `found`. Returns what the last one gave."""
        with quick_linear(main):
            for number in numbers:
                main = self.steps.blocks[number - 1].run(backbone, main)
                found |= self.pool_layers(number, main, of)
        return main

    def _finish(
        self,
        backbone: nn.Module,
        cut: int,
        main: Tensor,
        found: dict[FeatureLayer, Tensor],
        of: str,
    ) -> None:
        """The same from part `cut` up to the last one that is tapped, and the neck."""
        own = [layer for layer in self.feature_layers if layer.of == of]
        last = max((layer.block for layer in own), default=0)
        main = self._walk(backbone, range(cut + 1, last + 1), main, found, of)
        for layer in own:
            if layer.pool == "neck" and layer not in found:  # last: a neck may work in place
                found[layer] = self.steps.neck.run(backbone, main)


def plan_scan(network: Network, wanted: Sequence[FeatureLayer]) -> LayerOrder:
    """Settle how `wanted` taps are taken.

    Raises: ModelError if there is none, or the network lacks one of them.
    """
    if not wanted:
        raise ModelError("no taps were named; name at least one, such as the last part's neck.")
    return LayerOrder(
        feature_layers=tuple(wanted),
        widths=tuple(layer_width(network.record, layer) for layer in wanted),
        steps=network.steps,
        blocks=network.record.blocks,
        ensemble=network.ensemble,
    )


def _pooled(main: Tensor, pool: Pool, block: BlockRecord) -> Tensor:
    if pool == "first":
        return first_token(main)
    if pool == "grid2":
        return pool_grid2(main, block.layout, _sides(block))
    return pool_average(main, block.layout)


class LayerReader(nn.Module):
    """A backbone as a feature extractor: inputs (B, C, H, W) to one (B, d) per tap of a scan.

    Runs the parts up to the deepest tap. Holds the backbone itself, so that it is moved, put
    into channels_last, traced and exported like any module.
    """

    def __init__(self, backbone: nn.Module, scan: LayerOrder) -> None:
        super().__init__()
        self.backbone = backbone
        self.scan = scan
        self.eval()

    @property
    def widths(self) -> tuple[int, ...]:
        """Length of each tap's feature vector."""
        return self.scan.widths

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of each tap, float32, in the order of the taps."""
        return self.scan.run(self.backbone, inputs)


class FeatureExtractor(LayerReader):
    """A frozen network, looked at through the taps that are wanted."""

    def __init__(self, network: Network, wanted: Sequence[FeatureLayer]) -> None:
        super().__init__(network.backbone, plan_scan(network, wanted))
