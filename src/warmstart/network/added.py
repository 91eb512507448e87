"""Blocks added behind the last one: residual bottlenecks that add nothing at first.

Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", §2.1: a bottleneck
beside the identity; `up` begins at zero, so that step 0 gives the old network's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import cast

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.partition import Network
from warmstart.network.segments import SegmentStep
from warmstart.network.tensors import n_parameters
from warmstart.network.trace import shallow_copy
from warmstart.records.network import BlockRecord, FeatureLayer, Layout

NAME = "added"  # of the submodule; the next ones are added_2, …


class AddedBlock(nn.Module):
    """x + up(gelu(norm(down(x)))) over the channels of a map, a sequence or a vector.

    The norm keeps no statistics: outputs never depend on the rest of the batch.
    Shapes: (B, C, H, W) in layout NCHW, else (B, …, C); the same out.
    """

    def __init__(
        self, channels: int, hidden: int, layout: Layout, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.channels, self.hidden, self.layout = channels, hidden, layout
        # On the meta device: layers would initialise from the global generator.
        if layout == "NCHW":
            self.down: nn.Module = nn.Conv2d(channels, hidden, 1, device="meta")
            self.norm: nn.Module = nn.GroupNorm(1, hidden, device="meta")
            self.up: nn.Module = nn.Conv2d(hidden, channels, 1, device="meta")
        else:
            self.down = nn.Linear(channels, hidden, device="meta")
            self.norm = nn.LayerNorm(hidden, device="meta")
            self.up = nn.Linear(hidden, channels, device="meta")
        self.act = nn.GELU()
        self.to_empty(device="cpu")
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, float(name == "norm.weight"))
        weight: Tensor = self.down.get_parameter("weight")
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.up(self.act(self.norm(self.down(x)))))


def make_block(
    record: BlockRecord, generator: torch.Generator, hidden: int | None = None
) -> AddedBlock:
    """A block that fits behind another; a quarter of its channels hidden, but at least 8.

    Raises: ModelError where the other block's output has no axis of channels.

    >>> record = BlockRecord(
    ...     name="p", parameters=0, shape_in=(3,), shape_out=(64, 7, 7), macs=0, layout="NCHW"
    ... )
    >>> block = make_block(record, torch.Generator().manual_seed(0))
    >>> block.hidden, bool((block(torch.ones(1, 64, 7, 7)) == 1).all())
    (16, True)
    """
    channels = _channels(record)
    n_hidden = max(8, channels // 4) if hidden is None else hidden
    return AddedBlock(channels, n_hidden, record.layout, generator)


def graft(network: Network, added: Sequence[AddedBlock]) -> Network:
    """A network with blocks between its last one and its neck; the old one stays unchanged.

    The new backbone is a shallow copy: it shares all tensors, and holds the new blocks as
    submodules `added`, `added_2`, …; their block names are "added", "added#2", …
    Raises: ModelError where a block does not fit the last block's output.
    """
    backbone, owners = shallow_copy(network.backbone), dict(network.owners)
    steps, records, last = list[SegmentStep](), list[BlockRecord](), network.record.blocks[-1]
    for block in added:
        if (block.channels, block.layout) != (_channels(last), last.layout):
            raise ModelError(
                f"a block for {block.channels} channels ({block.layout}) does not fit the output "
                f"{last.shape_out} ({last.layout}) of {last.name}; make it with make_block."
            )
        own = {*backbone._modules, *backbone._parameters, *backbone._buffers}
        name = _free(NAME, "_", {*vars(backbone), *dir(type(backbone)), *own})
        block_name = _free(NAME, "#", {step.name for step in (*network.blocks, *steps)})
        backbone.add_module(name, block.train(backbone.training))
        steps.append(SegmentStep(block_name, partial(_call, name), (name,), ()))
        owners |= {f"{name}.{tensor}": block_name for tensor in block.state_dict()}
        positions = math.prod(last.shape_out) // block.channels
        records.append(
            BlockRecord(
                name=block_name,
                parameters=n_parameters(block),
                shape_in=last.shape_out,
                shape_out=last.shape_out,
                macs=2 * positions * block.channels * block.hidden,
                layout=last.layout,
            )
        )
    names = [step.modules[0] for step in steps]
    every = (*(_without_added(network, step, names) for step in network.steps.blocks), *steps)
    return replace(
        network,
        backbone=backbone,
        owners=owners,
        steps=replace(network.steps, blocks=every),
        record=replace(network.record, blocks=(*network.record.blocks, *records)),
    )


def shift_layers(
    feature_layers: Iterable[FeatureLayer], n_before: int, n_added: int
) -> tuple[FeatureLayer, ...]:
    """Feature layers of a network with `n_before` blocks when `n_added` follow: the last move up.

    >>> two = [FeatureLayer(block=2, pool="avg"), FeatureLayer(block=9, pool="neck")]
    >>> [t.name for t in shift_layers(two, 9, 1)]
    ['2.avg', '10.neck']
    """
    return tuple(
        replace(layer, block=n_before + n_added) if layer.block == n_before else layer
        for layer in feature_layers
    )


def _channels(record: BlockRecord) -> int:
    if record.layout in ("other", "NCL", "NCDHW"):
        raise ModelError(
            f"the output of {record.name}, {record.shape_out} per image, has no axis of channels: "
            "no layers can be added behind it; tune it instead (--strategy last:1)."
        )
    return record.shape_out[0] if record.layout == "NCHW" else record.shape_out[-1]


def _free(name: str, mark: str, names: set[str]) -> str:
    """`name`, or `name` with the first number from 2 on that is not in `names`."""
    candidates = (f"{name}{mark}{number}" for number in count(2))
    return next(n for n in chain([name], candidates) if n not in names)


def _call(name: str, backbone: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, backbone.get_submodule(name)(x))


def _without_added(network: Network, step: SegmentStep, names: Sequence[str]) -> SegmentStep:
    """A step that runs a network in one piece without added blocks: a container would call them."""
    if "" not in step.modules:
        return step

    def run(backbone: nn.Module, x: Tensor) -> Tensor:
        original = shallow_copy(backbone)
        for name in names:
            original._modules.pop(name, None)
        return step.run(original, x)

    own = network.backbone
    attributes = (*step.attributes, *own._parameters, *own._buffers)
    return replace(step, run=run, modules=tuple(own._modules), attributes=attributes)
