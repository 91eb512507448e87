"""A finished run as a base model: its backbone, its head, and the blocks it added.

A run does not store its base model's classifier. The architecture is built with a random one, so
that it can be partitioned like any other; then the run's head replaces it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.feature_layers import LayerOrder, plan_scan
from warmstart.network.inputs import InputOptions, change_inputs
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network, cut
from warmstart.network.surgery import BRANCH, AddedBlock, MultiLayerHead, fresh, graft, rebuild
from warmstart.network.table_network import (
    WIDTH,
    TableNet,
    at_mean,
    match_columns,
    move_columns,
    recolumn,
)
from warmstart.network.weights import n_parameters, tensor_digest, unique_tensors
from warmstart.records.inputs import Inputs, TableInputs
from warmstart.records.network import BaseModelRecord, FeatureLayer, InputChange
from warmstart.refit_cache import active_refit_cache

_BACKBONE = "backbone."
_BRANCH_PREFIX = f"{_BACKBONE}{BRANCH}."


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRunModel(PretrainedModel):
    """A run as base model: `head` reads `feature_layers`; `added` are blocks of earlier runs.

    `module` has a random classifier, which nothing may read, and no added blocks: partition it
    with `partition_base`.
    """

    head: MultiLayerHead
    feature_layers: tuple[FeatureLayer, ...]
    added: tuple[AddedBlock, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FinishedRunNetwork(Network):
    """A partitioned network whose classifier is a run's head, which may read many layers."""

    scan: LayerOrder = field(kw_only=True)

    @property
    def answers_from_neck(self) -> bool:
        return [layer.pool for layer in self.scan.feature_layers] == ["neck"]

    def outputs(self, vector: Tensor) -> Tensor:
        return cast(Tensor, cast(MultiLayerHead, self.classifier)([vector]))

    def logits(self, inputs: Tensor) -> Tensor:
        """The run's outputs, calibrated: inputs (B, C, H, W) to (B, K)."""
        features = self.scan.run(self.backbone, inputs)
        return cast(Tensor, cast(MultiLayerHead, self.classifier)(features))


def rebuild_finished_run(
    record: BaseModelRecord,
    tensors: Mapping[str, Tensor],
    feature_layers: Sequence[FeatureLayer],
    ensemble: int | None = None,
) -> FinishedRunModel:
    """Rebuild a run's network from the tensors in its model.safetensors, strictly.

    `record` describes the base model; its digest and its numbers of parameters and classes are
    filled in here. The digest is over the backbone alone, as features do not depend on a head. Of
    an ensemble from block `ensemble` on, the fine-tuned blocks and their share of the head count.
    Raises: ModelError if the architecture is unknown, or a tensor is missing, extra, of another
    shape, or not finite.
    """
    own = {n: t for n, t in tensors.items() if ensemble is None or not n.startswith(_BRANCH_PREFIX)}
    backbone = {n.removeprefix(_BACKBONE): t for n, t in own.items() if n.startswith(_BACKBONE)}
    arch, prep, n_classes = record.arch, record.preprocessing, len(record.labels)
    module = fresh(arch, backbone, prep)
    model = rebuild(arch, tensors, feature_layers, n_classes, prep, module, record.added, ensemble)
    state = module.state_dict()
    module.load_state_dict({**state, **{name: t for name, t in backbone.items() if name in state}})
    # The head on the network's own feature layers, without those of an ensemble branch.
    head, scan = model.head, model.scan
    columns = torch.split(head.weight, list(scan.widths), dim=1)
    weights = {t: w for t, w in zip(scan.feature_layers, columns, strict=True) if not t.of}
    weight = torch.cat([*weights.values()], dim=1)
    own_head = MultiLayerHead(weight, head.bias, head.temperature, head.class_bias)
    return FinishedRunModel(
        module=module.eval().requires_grad_(False),
        record=replace(
            record,
            sha256=tensor_digest(backbone),
            parameters=sum(t.numel() for n, t in model.named_parameters() if n in own),
            classes=n_classes,
        ),
        head=own_head.requires_grad_(False),
        feature_layers=tuple(weights),
        added=tuple(m for m in model.backbone.modules() if isinstance(m, AddedBlock)),
    )


def change(base: FinishedRunModel, options: InputOptions) -> FinishedRunModel:
    """The same base model for other inputs. Raises: ModelError if it cannot be adapted."""
    before = n_parameters(base.module)
    module, record, changes = change_inputs(base.module, base.record, options)
    if not changes and record.preprocessing == base.record.preprocessing:
        return base
    both = f"{record.sha256} {base.record.sha256}"  # the latter covers the added blocks too
    return _changed(base, module, record.preprocessing, both, changes, before)


def _changed(
    base: FinishedRunModel,
    module: nn.Module,
    inputs: Inputs,
    identity: str,
    changes: Sequence[InputChange],
    before: int,
) -> FinishedRunModel:
    record = replace(
        base.record,
        preprocessing=inputs,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        parameters=base.record.parameters + n_parameters(module) - before,
    )
    every, origin = (*base.changes, *changes), base.origin
    return replace(base, module=module, record=record, changes=every, unchanged=origin)


def partition_base(base: PretrainedModel) -> Network:
    """Partition a base model into blocks; of a run, with its added blocks and its own head.

    Raises: ModelError if the network does not take the inputs that its record names.
    """
    record = base.record
    cache = active_refit_cache()  # of cuts of the same weights for the same inputs
    if not isinstance(base, FinishedRunModel) and cache is not None:
        key = "cut", record.sha256, record.preprocessing
        return cache.get(key, 4 * record.parameters, lambda: cut(base.module, record.preprocessing))
    network = cut(base.module, record.preprocessing)
    if not isinstance(base, FinishedRunModel):
        return network
    network = graft(network, base.added) if base.added else network
    # The run's head takes the place of the random classifier, under a free name.
    # By the backbone's tensors, not by the owner's name: a block may be called "head" as well.
    backbone = network.backbone.state_dict()
    owners = {name: owner for name, owner in network.owners.items() if name in backbone}
    tensors, name = list(base.head.state_dict()), "head"
    while any(f"{name}.{tensor}" in owners for tensor in tensors):
        name = f"run_{name}"
    return FinishedRunNetwork(
        backbone=network.backbone,
        classifier=base.head,
        owners=owners | {f"{name}.{tensor}": "head" for tensor in tensors},
        steps=replace(network.steps, classifier=name),
        record=replace(network.record, head_parameters=n_parameters(base.head)),
        scan=plan_scan(network, base.feature_layers),
    )


def change_columns(base: FinishedRunModel, inputs: TableInputs) -> FinishedRunModel:
    """Adapt the network and head of a run on a table to other columns.

    Dropped columns count with their mean for good.
    Raises: ModelError where the run was on other data, or no column has the same name.
    """
    if not isinstance(base.module, TableNet):
        raise ModelError(
            f"{base.record.name} takes {base.record.preprocessing.kind}s, not rows of a table."
        )
    old = cast(TableInputs, base.record.preprocessing)
    new = match_columns(old, inputs, base.record.name)
    module, changes = recolumn(base.module, old, new)
    if not changes and new == old:
        return base
    both = f"{tensor_digest(unique_tensors(module))} {base.record.sha256} {new}"
    # The run's head: its weights for the columns themselves move to their new positions.
    head, n_inputs = base.head, len(old.slots) + len(old.bins)
    widths = [n_inputs if layer.block == 1 else WIDTH for layer in base.feature_layers]
    weights, bias = list(torch.split(head.weight, widths, dim=1)), head.bias.detach()
    for n, layer in enumerate(base.feature_layers):
        if layer.block == 1:
            bias = bias + weights[n] @ at_mean(old, new)
            weights[n] = move_columns(weights[n], old, new)
    moved = MultiLayerHead(torch.cat(weights, dim=1), bias, head.temperature, head.class_bias)
    changed = _changed(base, module, new, both, changes, n_parameters(base.module))
    return replace(changed, head=moved.requires_grad_(False))
