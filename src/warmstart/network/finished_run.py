"""A finished run as a start: its backbone, the head that it answers with, the layers it added.

The classifier of the network that the run once began from is not kept in a run. The design
is built with a drawn one in its place, so that it can be cut like any other; once it is cut,
the run's own head takes that place, and the drawn values are never used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.added import AddedBlock, graft
from warmstart.network.ensemble import NAME
from warmstart.network.feature_layers import LayerOrder, plan_scan
from warmstart.network.inputs import InputOptions, change_inputs
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network, cut
from warmstart.network.surgery import MultiLayerHead, WarmModel, fresh, rebuild
from warmstart.network.tensors import tensor_digest
from warmstart.records.network import BaseModelRecord, FeatureLayer
from warmstart.refit_cache import active_refit_cache

BACKBONE = "backbone."
_BESIDE = f"{BACKBONE}{NAME}."
HEAD = "head"  # under this name the run's head stands in the ledger of a run that follows


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRunModel(PretrainedModel):
    """A start that was a run: `head` answers from `feature_layers`; `added` are blocks of earlier runs.

    `module` has a drawn classifier that nothing may read, and not the blocks: cut it with
    `partition_base`.
    """

    head: MultiLayerHead
    feature_layers: tuple[FeatureLayer, ...]
    added: tuple[AddedBlock, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FinishedRunNetwork(Network):
    """A cut network whose classifier is a run's head, which may listen to many depths."""

    scan: LayerOrder = field(kw_only=True)

    @property
    def answers_from_neck(self) -> bool:
        """Whether the run's head listens to the neck alone."""
        return [layer.pool for layer in self.scan.feature_layers] == ["neck"]

    def outputs(self, vector: Tensor) -> Tensor:
        """What the run answers from the neck, where its head listens to that alone."""
        if self.classifier is None:
            return vector
        logits: Tensor = self.classifier([vector])
        return logits

    def logits(self, inputs: Tensor) -> Tensor:
        """What the run answers: inputs (B, C, H, W) to (B, K), calibrated."""
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
    """Build a run's network again from the tensors in its model.safetensors, strictly.

    `record` describes the start; its digest and its numbers of parameters and classes are
    filled in here. The digest is over the backbone alone: runs that differ in their head see
    the same in an image. Where the start's own layers stand `ensemble` tuned ones, the tuned
    ones are taken, and their share of the head: the others are what the run began from.

    Raises: ModelError if the design is unknown, or a tensor is missing, extra, of another
    shape, or not finite.
    """
    own = {n: t for n, t in tensors.items() if ensemble is None or not n.startswith(_BESIDE)}
    backbone = {n.removeprefix(BACKBONE): t for n, t in own.items() if n.startswith(BACKBONE)}
    prep = record.preprocessing
    module = fresh(record.arch, backbone, prep)
    n_classes = len(record.labels)
    model = rebuild(
        record.arch, tensors, feature_layers, n_classes, prep, module, record.added, ensemble
    )
    state = module.state_dict()
    module.load_state_dict({**state, **{name: t for name, t in backbone.items() if name in state}})
    head, feature_layers = _own_head(model)
    return FinishedRunModel(
        module=module.eval().requires_grad_(False),
        record=replace(
            record,
            sha256=tensor_digest(backbone),
            parameters=sum(t.numel() for n, t in model.named_parameters() if n in own),
            classes=n_classes,
        ),
        head=head.requires_grad_(False),
        feature_layers=tuple(feature_layers),
        added=tuple(m for m in model.backbone.modules() if isinstance(m, AddedBlock)),
    )


def _own_head(model: WarmModel) -> tuple[MultiLayerHead, tuple[FeatureLayer, ...]]:
    """The head on the taps of the network itself, without those of layers ensemble it."""
    head, scan = model.head, model.scan
    pairs = zip(
        scan.feature_layers, torch.split(head.weight, list(scan.widths), dim=1), strict=True
    )
    own = {layer: weight for layer, weight in pairs if not layer.of}
    weight = torch.cat([*own.values()], dim=1)
    return MultiLayerHead(weight, head.bias, head.temperature, head.class_bias), tuple(own)


def change(base: FinishedRunModel, wish: InputOptions) -> FinishedRunModel:
    """The same start for other inputs. Raises: ModelError if it cannot be done."""
    before = _size(base.module)
    module, record, changes = change_inputs(base.module, base.record, wish)
    if not changes and record.preprocessing == base.record.preprocessing:
        return base
    both = f"{record.sha256} {base.record.sha256}"  # the latter tells the added blocks too
    described = replace(
        record,
        sha256=hashlib.sha256(both.encode()).hexdigest(),
        parameters=base.record.parameters + _size(module) - before,
    )
    return replace(
        base,
        module=module,
        record=described,
        changes=(*base.changes, *changes),
        unchanged=base.origin,
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def partition_base(base: PretrainedModel) -> Network:
    """Cut a start into parts. Of a run: with the blocks that it added, and its own head.

    Raises: ModelError if the network does not take the inputs that its record names.

    >>> from warmstart.network.load import load
    >>> len(partition_base(load("lite0")).blocks)
    18
    """
    if not isinstance(base, FinishedRunModel):
        return _cut_once(base)
    network = cut(base.module, base.record.preprocessing)
    return _with_head(graft(network, base.added) if base.added else network, base)


def _cut_once(base: PretrainedModel) -> Network:
    """The cut of the same weights for the same inputs is kept, where something is."""
    record, kept = base.record, active_refit_cache()
    if kept is None:
        return cut(base.module, record.preprocessing)
    key = "cut", record.sha256, record.preprocessing
    n_bytes = 4 * record.parameters
    return kept.get(key, n_bytes, lambda: cut(base.module, record.preprocessing))


def _with_head(network: Network, base: FinishedRunModel) -> FinishedRunNetwork:
    """The run's head in place of the drawn classifier, under a name that is free."""
    # By what the backbone holds, not by the owner's name: a part may be called "head" as well.
    backbone = network.backbone.state_dict()
    kept = {name: owner for name, owner in network.owners.items() if name in backbone}
    own = list(base.head.state_dict())
    name = HEAD
    while any(f"{name}.{tensor}" in kept for tensor in own):
        name = f"run_{name}"
    return FinishedRunNetwork(
        backbone=network.backbone,
        blocks=network.blocks,
        neck=network.neck,
        classifier=base.head,
        owners=kept | {f"{name}.{tensor}": "head" for tensor in own},
        steps=replace(network.steps, classifier=name),
        record=replace(network.record, head_parameters=_size(base.head)),
        scan=plan_scan(network, base.feature_layers),
    )
