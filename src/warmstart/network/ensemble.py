"""The start's own upper layers beside tuned ones: both stand on one frozen prefix.

The backbone of the tuned network holds the others as its submodule `start`, under their original
names. A head may then listen to taps of both (`FeatureLayer.of`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from warmstart.network.partition import Block, EnsembleBranch, Network
from warmstart.network.segments import SegmentStep
from warmstart.network.tensors import unique_tensors
from warmstart.network.trace import shallow_copy

NAME = "base"  # of the submodule


def can_ensemble(network: Network, cut: int) -> bool:
    """Whether the parts after `cut` can stand twice: apart from each other, and from the prefix.

    A network that runs in one piece would run whatever stands inside it; a tensor that two
    parts share cannot be tuned in one and kept in the other.
    """
    upper = _upper(network, cut)
    if any("" in step.modules for step in network.steps.blocks):
        return False
    if NAME in {*network.backbone._modules, *dir(type(network.backbone))}:
        return False
    mine = {"unused", *(step.name for step in upper)}
    names = unique_tensors(_only(network.backbone, upper))
    return all(network.owners.get(name) in mine for name in names)


def add_ensemble_branch(network: Network, other: nn.Module, cut: int) -> Network:
    """`network` with the parts after `cut` of `other`, a backbone of the same design, beside its own.

    The new backbone is a shallow copy of `network`'s; of `other` it holds copies.

    >>> from warmstart.network.load import load
    >>> from warmstart.network.partition import cut
    >>> base = load("lite0")
    >>> network = cut(base.module, base.record.preprocessing)
    >>> both = add_ensemble_branch(network, network.backbone, 12)
    >>> sorted(both.backbone.base._modules) == sorted(network.backbone._modules)
    True
    """
    upper = _upper(network, cut)
    backbone = shallow_copy(network.backbone)
    beside = copy.deepcopy(_only(other, upper)).requires_grad_(False)
    backbone.add_module(NAME, beside.eval())
    owners = network.owners | {f"{NAME}.{name}": NAME for name in unique_tensors(beside)}
    made = [
        Block(backbone, step, [n for n, owner in owners.items() if owner == step.name])
        for step in (*network.steps.blocks, network.steps.neck)
    ]
    return replace(
        network,
        backbone=backbone,
        blocks=tuple(made[:-1]),
        neck=made[-1],
        owners=owners,
        ensemble=EnsembleBranch(NAME, cut),
    )


def _upper(network: Network, cut: int) -> tuple[SegmentStep, ...]:
    return (*network.steps.blocks[cut:], network.steps.neck)


def _only(module: nn.Module, steps: Sequence[SegmentStep]) -> nn.Module:
    """A shallow copy that keeps what `steps` call or read; the rest is left out."""
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
