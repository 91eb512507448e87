"""The base model's own upper blocks beside fine-tuned ones: both run on one frozen prefix.

The backbone of the fine-tuned network holds the others as its submodule `base`, under their
original names. A head may then read feature layers of both (`FeatureLayer.of`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from warmstart.network.partition import EnsembleBranch, Network, make_blocks
from warmstart.network.segments import SegmentStep
from warmstart.network.tensors import unique_tensors
from warmstart.network.trace import shallow_copy

NAME = "base"  # of the submodule


def can_ensemble(network: Network, cut: int) -> bool:
    """Whether the blocks after `cut` can exist twice, apart from each other and from the prefix.

    A network in one piece would run whatever it contains; a tensor shared by two blocks cannot
    be fine-tuned in one and unchanged in the other.
    """
    upper = _upper(network, cut)
    if any("" in step.modules for step in network.steps.blocks):
        return False
    if NAME in {*network.backbone._modules, *dir(type(network.backbone))}:
        return False
    owners = {"unused", *(step.name for step in upper)}
    names = unique_tensors(_only(network.backbone, upper))
    return all(network.owners.get(name) in owners for name in names)


def add_ensemble_branch(network: Network, other: nn.Module, cut: int) -> Network:
    """`network` with a second branch: the blocks after `cut` of `other`, a backbone alike.

    The new backbone is a shallow copy of `network`'s; it holds copies of `other`'s tensors.
    """
    backbone = shallow_copy(network.backbone)
    branch = copy.deepcopy(_only(other, _upper(network, cut))).requires_grad_(False)
    backbone.add_module(NAME, branch.eval())
    owners = network.owners | {f"{NAME}.{name}": NAME for name in unique_tensors(branch)}
    *blocks, neck = make_blocks(backbone, (*network.steps.blocks, network.steps.neck), owners)
    return replace(
        network,
        backbone=backbone,
        blocks=tuple(blocks),
        neck=neck,
        owners=owners,
        ensemble=EnsembleBranch(NAME, cut),
    )


def _upper(network: Network, cut: int) -> tuple[SegmentStep, ...]:
    return (*network.steps.blocks[cut:], network.steps.neck)


def _only(module: nn.Module, steps: Sequence[SegmentStep]) -> nn.Module:
    called = {name for step in steps for name in step.modules}
    read = {name for step in steps for name in step.attributes}
    return _pruned(module, called, read, "")


def _pruned(module: nn.Module, called: set[str], read: set[str], path: str) -> nn.Module:
    clone = shallow_copy(module)
    for tensors in (clone._parameters, clone._buffers):
        for name in [name for name in tensors if f"{path}{name}" not in read]:
            tensors.pop(name)
    for name, child in list(clone._modules.items()):
        own = f"{path}{name}"
        if child is None or own in called:
            continue
        is_above = any(one.startswith(f"{own}.") for one in called | read)
        clone._modules[name] = (
            _pruned(child, called, read, f"{own}.") if is_above else nn.Identity()
        )
    return clone
