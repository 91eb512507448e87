"""The base model's own upper blocks beside fine-tuned ones: both run on one frozen prefix.

The backbone of the fine-tuned network holds the others as its submodule `base`, under their
original names. A head may then read feature layers of both (`FeatureLayer.of`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from warmstart.network.partition import EnsembleBranch, Network
from warmstart.network.segments import SegmentStep
from warmstart.network.tensors import unique_tensors
from warmstart.network.trace import shallow_copy

NAME = "base"  # of the submodule


def can_ensemble(network: Network, cut: int) -> bool:
    """Whether the blocks after `cut` can exist twice: separate modules, no tensors shared below."""
    upper = _upper(network, cut)
    is_whole = any("" in step.modules for step in network.steps.blocks)
    if is_whole or NAME in {*network.backbone._modules, *dir(type(network.backbone))}:
        return False
    owners = {"unused", *(step.name for step in upper)}
    names = unique_tensors(_only(network.backbone, upper))
    return all(network.owners.get(name) in owners for name in names)


def add_ensemble_branch(network: Network, other: nn.Module, cut: int) -> Network:
    """A shallow copy of `network` with copies of the blocks after `cut` of `other`, a backbone."""
    backbone = shallow_copy(network.backbone)
    branch = copy.deepcopy(_only(other, _upper(network, cut))).requires_grad_(False)
    backbone.add_module(NAME, branch.eval())
    owners = network.owners | {f"{NAME}.{name}": NAME for name in unique_tensors(branch)}
    return replace(network, backbone=backbone, owners=owners, ensemble=EnsembleBranch(NAME, cut))


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
        pruned = _pruned(child, called, read, f"{own}.") if is_above else nn.Identity()
        clone._modules[name] = pruned
    return clone
