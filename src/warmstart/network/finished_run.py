"""A finished run as a base model: its backbone, its head, and the blocks it added.

A run does not store the classifier of the network that it once began from. The architecture
is built with a random one, so that it can be partitioned like any other; then the run's own
head replaces it, and the random values are never used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from warmstart.errors import ModelError
from warmstart.network.added import AddedBlock, graft
from warmstart.network.ensemble import NAME
from warmstart.network.feature_layers import LayerOrder, plan_scan
from warmstart.network.inputs import InputOptions, change_inputs
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network, cut
from warmstart.network.surgery import MultiLayerHead, fresh, rebuild
from warmstart.network.tensors import n_parameters, tensor_digest
from warmstart.records.network import BaseModelRecord, FeatureLayer
from warmstart.refit_cache import active_refit_cache

BACKBONE = "backbone."
_BRANCH = f"{BACKBONE}{NAME}."
HEAD = "head"  # name of the run's head in the ledger of a run that follows


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRunModel(PretrainedModel):
    """A run as base model: `head` reads `feature_layers`; `added` are blocks of earlier runs.

    `module` has a random classifier that nothing may read, and not the added blocks: partition
    it with `partition_base`.
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
        """Whether the run's head reads the neck alone."""
        return [layer.pool for layer in self.scan.feature_layers] == ["neck"]

    def outputs(self, vector: Tensor) -> Tensor:
        """The run's outputs from the neck, where its head reads that alone."""
        if self.classifier is None:
            return vector
        logits: Tensor = self.classifier([vector])
        return logits

    def logits(self, inputs: Tensor) -> Tensor:
        """The run's outputs, calibrated: inputs (B, C, H, W) to (B, K)."""
        if self.classifier is None:
            raise ModelError("this network has lost the head of its run; load the run again.")
        logits: Tensor = self.classifier(self.scan.run(self.backbone, inputs))
        return logits


def rebuild_finished_run(
    record: BaseModelRecord,
    tensors: Mapping[str, Tensor],
    feature_layers: Sequence[FeatureLayer],
    ensemble: int | None = None,
) -> FinishedRunModel:
    """Rebuild a run's network from the tensors in its model.safetensors, strictly.

    `record` describes the base model; its digest and its numbers of parameters and classes are
    filled in here. The digest is over the backbone alone: runs that differ only in their head
    extract the same features. Where the base model's own blocks run beside fine-tuned ones from
    block `ensemble` on, the fine-tuned ones and their share of the head are used: the others are
    what the run began from.
    Raises: ModelError if the architecture is unknown, or a tensor is missing, extra, of another
    shape, or not finite.
    """
    own = {n: t for n, t in tensors.items() if ensemble is None or not n.startswith(_BRANCH)}
    backbone = {n.removeprefix(BACKBONE): t for n, t in own.items() if n.startswith(BACKBONE)}
    prep = record.preprocessing
    module = fresh(record.arch, backbone, prep)
    n_classes = len(record.labels)
    model = rebuild(
        record.arch, tensors, feature_layers, n_classes, prep, module, record.added, ensemble
    )
    state = module.state_dict()
    module.load_state_dict({**state, **{name: t for name, t in backbone.items() if name in state}})
    # The head on the network's own feature layers, without those of an ensemble branch.
    head, scan = model.head, model.scan
    weights = torch.split(head.weight, list(scan.widths), dim=1)
    pairs = zip(scan.feature_layers, weights, strict=True)
    own_weights = {layer: weight for layer, weight in pairs if not layer.of}
    weight = torch.cat([*own_weights.values()], dim=1)
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
        feature_layers=tuple(own_weights),
        added=tuple(m for m in model.backbone.modules() if isinstance(m, AddedBlock)),
    )


def change(base: FinishedRunModel, options: InputOptions) -> FinishedRunModel:
    """The same base model for other inputs. Raises: ModelError if it cannot be adapted."""
    before = n_parameters(base.module)
    module, record, changes = change_inputs(base.module, base.record, options)
    if not changes and record.preprocessing == base.record.preprocessing:
        return base
    both = f"{record.sha256} {base.record.sha256}"  # the latter covers the added blocks too
    return replace(
        base,
        module=module,
        record=replace(
            record,
            sha256=hashlib.sha256(both.encode()).hexdigest(),
            parameters=base.record.parameters + n_parameters(module) - before,
        ),
        changes=(*base.changes, *changes),
        unchanged=base.origin,
    )


def partition_base(base: PretrainedModel) -> Network:
    """Partition a base model into blocks; of a run, with its added blocks and its own head.

    Raises: ModelError if the network does not take the inputs that its record names.
    """
    record = base.record
    if isinstance(base, FinishedRunModel):
        network = cut(base.module, record.preprocessing)
        return _with_head(graft(network, base.added) if base.added else network, base)
    cache = active_refit_cache()  # of cuts of the same weights for the same inputs
    if cache is None:
        return cut(base.module, record.preprocessing)
    key = "cut", record.sha256, record.preprocessing
    return cache.get(key, 4 * record.parameters, lambda: cut(base.module, record.preprocessing))


def _with_head(network: Network, base: FinishedRunModel) -> FinishedRunNetwork:
    """The run's head in place of the random classifier, under a free name."""
    # By the backbone's tensors, not by the owner's name: a block may be called "head" as well.
    backbone = network.backbone.state_dict()
    owners = {name: owner for name, owner in network.owners.items() if name in backbone}
    tensors = list(base.head.state_dict())
    name = HEAD
    while any(f"{name}.{tensor}" in owners for tensor in tensors):
        name = f"run_{name}"
    return FinishedRunNetwork(
        backbone=network.backbone,
        blocks=network.blocks,
        neck=network.neck,
        classifier=base.head,
        owners=owners | {f"{name}.{tensor}": "head" for tensor in tensors},
        steps=replace(network.steps, classifier=name),
        record=replace(network.record, head_parameters=n_parameters(base.head)),
        scan=plan_scan(network, base.feature_layers),
    )
