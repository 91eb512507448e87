"""A start made ready for a plan: a copy with what the plan adds, and a head that can be trained.

The head is fitted first and training goes on from it: Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution" (LP-FT).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.network import added, freeze, lora, surgery
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.freeze import action_of
from warmstart.network.ledger import tensors_of
from warmstart.network.partition import Network
from warmstart.network.surgery import MultiLayerHead, WarmModel, assemble
from warmstart.network.weight_file import Mapped
from warmstart.planning.actions import NEW
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Action, Plan
from warmstart.solve.kernels import fit_scalings
from warmstart.training.dataset import ReadFeatures
from warmstart.training.linear_probe import HeadFit
from warmstart.training.loop import ScaledHead


@dataclass(frozen=True, slots=True)
class TrainableNetwork:
    """A network about to be trained. `model` runs on the backbone of `network`, which is a copy.

    `owners` names the part behind each tensor of the model, `actions` and `rates` what the
    plan does to that part.
    """

    network: Network
    model: WarmModel
    feature_layers: tuple[FeatureLayer, ...]
    owners: dict[str, str]
    actions: dict[str, Action]
    rates: dict[str, float]


def trainable(
    network: Network, plan: Plan, head: HeadFit, read: ReadFeatures, seed: int
) -> TrainableNetwork:
    """Copy the network, add and renew what the plan says, and put the fitted head on.

    Of a network that is streamed, what stays frozen is not copied.

    Step 0 gives the head's own answers: blocks are added with nothing to add, low-rank
    updates begin at zero. Above fresh layers the head begins at zero. Where parts move that
    the head does not listen to, it listens to the last one too, with weights of zero at first.
    Shapes: read gives (n, d_t) for the rows that the head was fitted on.
    Raises: PlanError if a part cannot be given its action.
    """
    actions = {block.name: plan.action_of(block.name) for block in plan.blocks}
    rng = torch.Generator().manual_seed(seed)
    clone = _copied(network, _with_rest(actions, network))
    n_added = [*actions.values()].count("added")
    if n_added:
        last = network.record.blocks[-1]
        clone = added.graft(clone, [added.make_block(last, rng) for _ in range(n_added)])
    if renewed := [name for name, action in actions.items() if action == "fresh"]:
        surgery.refresh(clone, renewed, rng)
    if renewed:
        scaled, wanted = _blank(clone, len(head.bias))
    else:
        scaled, wanted = _scaled(_heard(head, network, actions), read)
    if n_added and not renewed:
        wanted = added.shift_layers(wanted, len(network.blocks), n_added)
    model = assemble(clone, wanted, *scaled.plain())
    model.head = cast(MultiLayerHead, scaled)  # the same in and out, while it is trained
    low_rank = [name for name, action in actions.items() if action == "low-rank"]
    if low_rank and plan.training.lora_rank is not None:
        lora.inject(clone, low_rank, int(plan.training.lora_rank.number), rng)
    return TrainableNetwork(
        network=clone,
        model=model,
        feature_layers=wanted,
        owners=_owners(clone),
        actions=_with_rest(actions, network),
        rates={block.name: block.lr.number for block in plan.blocks if block.lr},
    )


def tensors_to_train(trainable: TrainableNetwork) -> dict[str, Tensor]:
    """Every tensor that training may change: parameters that move, statistics of new parts."""
    model, owners, actions = trainable.model, trainable.owners, trainable.actions
    groups = freeze.groups(model, actions, owners, trainable.rates)
    moving = {id(parameter) for group in groups for parameter in group["params"]}
    blocks = freeze.tensor_blocks(model, owners)

    def is_new(name: str, tensor: Tensor) -> bool:
        is_buffer = not isinstance(tensor, nn.Parameter)
        return is_buffer and name in blocks and action_of(actions, blocks[name]) in NEW

    state = model.state_dict(keep_vars=True).items()
    return {name: t for name, t in state if id(t) in moving or is_new(name, t)}


def _copied(network: Network, actions: Mapping[str, Action]) -> Network:
    """A copy whose frozen tensors stay in their file, where they do so."""
    kept = {
        id(tensor): tensor
        for name, tensor in tensors_of(network).items()
        if isinstance(tensor, Mapped) and action_of(actions, network.owners[name]) == "frozen"
    }
    return copy.deepcopy(network, dict(kept))


def _owners(network: Network) -> dict[str, str]:
    """Part names as in the plan, by the tensor names of the model."""
    owners = {
        f"backbone.{name}": block for name, block in network.owners.items() if block != "head"
    }
    return {**owners, "head.weight": "output", "head.bias": "output"}


def _with_rest(actions: dict[str, Action], network: Network) -> dict[str, Action]:
    """What stands between the last part and the output goes with that part.

    Under low-rank updates it stays as it is: it has nothing to add them to.
    """
    above = actions[network.record.blocks[-1].name]
    return {**actions, "neck": "frozen" if above == "low-rank" else above, "unused": "frozen"}


def _heard(head: HeadFit, network: Network, actions: Mapping[str, Action]) -> HeadFit:
    """The head with a tap of zeros above all parts that move, where it has none."""
    top = max(layer.block for layer in head.feature_layers)
    above = [block.name for block in network.record.blocks[top:]]
    is_deaf = any(actions[name] != "frozen" for name in above)
    if not is_deaf and not (above and "added" in actions.values()):
        return head
    last = feature_layers(network.record)[-1]
    zeros = np.zeros((len(head.bias), layer_width(network.record, last)), np.float32)
    weight = np.concatenate([head.weight, zeros], axis=1)
    return replace(head, feature_layers=(*head.feature_layers, last), weight=weight)


def _scaled(head: HeadFit, read: ReadFeatures) -> tuple[ScaledHead, tuple[FeatureLayer, ...]]:
    """The fitted head, its calibration folded in, in the scale it was fitted in."""
    by_layer = fit_scalings(read, head.feature_layers)
    found = [by_layer[layer] for layer in head.feature_layers]
    offset = np.concatenate([scaling.offset for scaling in found])
    scale = np.concatenate([scaling.scale for scaling in found]) / np.sqrt(len(found))
    factor, shift = head.calibration.scale, head.calibration.bias
    weight = factor * head.weight.astype(np.float64)
    bias = weight @ offset + factor * head.bias.astype(np.float64) + shift
    raised = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    tensors = [torch.from_numpy(np.asarray(a)) for a in (raised, bias, offset, scale)]
    return ScaledHead(*tensors), head.feature_layers


def _blank(network: Network, n_classes: int) -> tuple[ScaledHead, tuple[FeatureLayer, ...]]:
    """A head of zeros on what the last part gives."""
    last = feature_layers(network.record)[-1]
    width = layer_width(network.record, last)
    zeros, ones = torch.zeros(width), torch.ones(width)
    return ScaledHead(torch.zeros(n_classes, width), torch.zeros(n_classes), zeros, ones), (last,)
