"""Blocks added behind the last part: residual bottlenecks that add nothing when they are born.

    x + up(gelu(norm(down(x))))

Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", §2.1: a bottleneck
beside the identity; `up` begins at zero, so that step 0 gives the old network's answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.partition import Block, Network
from warmstart.network.segments import Run, SegmentStep
from warmstart.network.trace import shallow_copy
from warmstart.records.network import BlockRecord, FeatureLayer, Layout

NAME = "added"  # of the submodule; the next ones are added_2, …
_LEAST_HIDDEN = 8


class AddedBlock(nn.Module):
    """x + up(gelu(norm(down(x)))) over the channels of a map, a sequence or a vector.

    The norm keeps no statistics: what an image gives never depends on the rest of its batch.
    Shapes: (B, C, H, W) in layout NCHW, (B, H, W, C), (B, L, C) or (B, C) else; the same out.
    """

    def __init__(
        self, channels: int, hidden: int, layout: Layout, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.channels, self.hidden, self.layout = channels, hidden, layout
        # Made without values: layers would draw theirs from the global generator.
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
        """Map the last part's output to one of the same shape."""
        update: Tensor = self.up(self.act(self.norm(self.down(x))))
        return x + update


def make_block(
    record: BlockRecord, generator: torch.Generator, hidden: int | None = None
) -> AddedBlock:
    """A block that fits behind a part; a quarter of its channels hidden, but at least 8.

    Raises: ModelError where the part's output has no axis of channels.

    >>> part = BlockRecord(
    ...     name="p", parameters=0, shape_in=(3,), shape_out=(64, 7, 7), macs=0, layout="NCHW"
    ... )
    >>> block = make_block(part, torch.Generator().manual_seed(0))
    >>> block.hidden, bool((block(torch.ones(1, 64, 7, 7)) == 1).all())
    (16, True)
    """
    channels = _channels(record)
    width = max(_LEAST_HIDDEN, channels // 4) if hidden is None else hidden
    return AddedBlock(channels, width, record.layout, generator)


def graft(network: Network, added: Sequence[AddedBlock]) -> Network:
    """A network with blocks between its last part and its neck; the old one stays as it is.

    The new backbone is a shallow copy: it shares all tensors, and holds the blocks as
    submodules `added`, `added_2`, … Each is one more part ("added", "added#2", …).

    Raises: ModelError where a block does not fit the last part's output.
    """
    backbone, steps, records = (
        shallow_copy(network.backbone),
        list[SegmentStep](),
        list[BlockRecord](),
    )
    owners, last = dict(network.owners), network.record.blocks[-1]
    for one in added:
        if (one.channels, one.layout) != (_channels(last), last.layout):
            raise ModelError(
                f"a block for {one.channels} channels ({one.layout}) does not fit the output "
                f"{last.shape_out} ({last.layout}) of {last.name}; make it with make_block."
            )
        name = _free(NAME, "_", {*vars(backbone), *dir(type(backbone)), *_held(backbone)})
        block = _free(
            NAME, "#", {*(p.name for p in network.blocks), *(step.name for step in steps)}
        )
        backbone.add_module(name, one.train(backbone.training))
        steps.append(SegmentStep(block, _runner(name), (name,), ()))
        owners |= {f"{name}.{tensor}": block for tensor in one.state_dict()}
        records.append(_record(one, block, last))
    names = [step.modules[0] for step in steps]
    made = (*(_bare(network, step, names) for step in network.steps.blocks), *steps)
    return replace(
        network,
        backbone=backbone,
        blocks=tuple(_block(backbone, step, owners) for step in made),
        neck=_block(backbone, network.steps.neck, owners),
        owners=owners,
        steps=replace(network.steps, blocks=made),
        record=replace(network.record, blocks=(*network.record.blocks, *records)),
    )


def shift_layers(
    feature_layers: Iterable[FeatureLayer], n_before: int, n_added: int
) -> tuple[FeatureLayer, ...]:
    """Taps of a network with `n_before` parts, after `n_added` blocks: the last part's move up.

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
            f"{record.name} gives {record.shape_out} an image, which has no axis of channels: no "
            "layers can be added behind it; tune it instead (--strategy last:1)."
        )
    return record.shape_out[0] if record.layout == "NCHW" else record.shape_out[-1]


def _record(block: AddedBlock, name: str, last: BlockRecord) -> BlockRecord:
    positions = math.prod(last.shape_out) // block.channels
    return BlockRecord(
        name=name,
        parameters=sum(p.numel() for p in block.parameters()),
        shape_in=last.shape_out,
        shape_out=last.shape_out,
        macs=2 * positions * block.channels * block.hidden,
        layout=last.layout,
    )


def _block(backbone: nn.Module, step: SegmentStep, owners: dict[str, str]) -> Block:
    return Block(backbone, step, [name for name, owner in owners.items() if owner == step.name])


def _free(name: str, mark: str, taken: set[str]) -> str:
    """`name`, or `name` with the first number from 2 on that is not taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}{mark}{number}"
    return found


def _held(backbone: nn.Module) -> set[str]:
    return {*backbone._modules, *backbone._parameters, *backbone._buffers}


def _runner(name: str) -> Run:
    def run(backbone: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = backbone.get_submodule(name)(x)
        return result

    return run


def _bare(network: Network, step: SegmentStep, names: Sequence[str]) -> SegmentStep:
    """A step that runs the network in one piece must not meet the blocks inside it.

    They are no part of its forward, but a container would call every module that it holds.
    """
    if "" not in step.modules:
        return step

    def run(backbone: nn.Module, x: Tensor) -> Tensor:
        alone = shallow_copy(backbone)
        for name in names:
            alone._modules.pop(name, None)
        return step.run(alone, x)

    own = network.backbone
    attributes = (*step.attributes, *own._parameters, *own._buffers)
    return replace(step, run=run, modules=tuple(own._modules), attributes=attributes)
