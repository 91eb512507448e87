"""A base model prepared for a plan: a copy with what the plan adds, and a fitted head to train.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (LP-FT).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.network import freeze, lora, surgery
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.freeze import behaviour_of
from warmstart.network.ledger import tensors_of
from warmstart.network.partition import Network
from warmstart.network.surgery import MultiLayerHead, WarmModel, assemble
from warmstart.network.weights import Mapped
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import ACTIONS, ADDED, FROZEN, Action, Plan
from warmstart.solve.kernels import fit_scalings
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit
from warmstart.training.loop import ScaledHead


@dataclass(frozen=True, slots=True)
class TrainableNetwork:
    """A network ready for training. `model` runs the backbone of `network`, which is a copy.

    `owners`: the block of each tensor of the model; `actions` and `rates`: the plan's action and
    learning rate for each block.
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
    """Copy the network, add and renew blocks as the plan says, and attach the fitted head.

    Frozen tensors of an offloaded network are shared. Step 0 gives the head's answers: added
    blocks and low-rank updates begin at zero. Above fresh blocks the head begins at zero. Where
    unfrozen blocks lie above all its feature layers, it reads the last block as well.
    Shapes: read gives (n, d_t) for the rows that the head was fitted on.
    Raises: PlanError if a block cannot be given its action.
    """
    actions = {block.name: plan.action_of(block.name) for block in plan.blocks}
    rng = torch.Generator().manual_seed(seed)
    # The layers between the last block and the head have nothing for low-rank updates to adapt.
    last = actions[network.record.blocks[-1].name]
    neck = FROZEN.name if ACTIONS[last].has_updates else last
    all_actions = {**actions, "neck": neck, "unused": FROZEN.name}
    mapped = {  # from a file: shared
        id(tensor): tensor
        for name, tensor in tensors_of(network).items()
        if isinstance(tensor, Mapped)
        and not behaviour_of(all_actions, network.owners[name]).is_trained
    }
    clone = copy.deepcopy(network, dict(mapped))
    n_added = sum(ACTIONS[action].place == "above" for action in actions.values())
    if n_added:
        top = network.record.blocks[-1]
        clone = surgery.graft(clone, [surgery.make_block(top, rng) for _ in range(n_added)])
    if fresh := [name for name, action in actions.items() if ACTIONS[action].is_random]:
        surgery.refresh(clone, fresh, rng)
        layers: tuple[FeatureLayer, ...] = (feature_layers(clone.record)[-1],)
        n, width = len(head.bias), layer_width(clone.record, layers[0])
        zeros, ones = torch.zeros(width), torch.ones(width)
        scaled = ScaledHead(torch.zeros(n, width), torch.zeros(n), zeros, ones)
    else:
        head = _with_last_layer(head, network, actions)
        scaled, layers = _scaled_head(head, read), head.feature_layers
    if n_added and not fresh:
        layers = surgery.shift_layers(layers, len(network.blocks), n_added)
    model = assemble(clone, layers, *scaled.plain())
    model.head = cast(MultiLayerHead, scaled)  # same inputs and outputs while it is trained
    low_rank = [name for name, action in actions.items() if ACTIONS[action].has_updates]
    if low_rank and plan.training.lora_rank is not None:
        lora.inject(clone, low_rank, int(plan.training.lora_rank.number), rng)
    owners = {f"backbone.{name}": block for name, block in clone.owners.items() if block != "head"}
    return TrainableNetwork(
        network=clone,
        model=model,
        feature_layers=layers,
        owners={**owners, "head.weight": "output", "head.bias": "output"},
        actions=all_actions,
        rates={block.name: block.lr.number for block in plan.blocks if block.lr},
    )


def tensors_to_train(trainable: TrainableNetwork) -> dict[str, Tensor]:
    """Every tensor that training may change: parameters, and statistics of new blocks."""
    model, owners, actions = trainable.model, trainable.owners, trainable.actions
    groups = freeze.groups(model, actions, owners, trainable.rates)
    parameters = {id(parameter) for group in groups for parameter in group["params"]}
    blocks = freeze.tensor_blocks(model, owners)

    def is_new(name: str, tensor: Tensor) -> bool:
        is_buffer = not isinstance(tensor, nn.Parameter)
        return is_buffer and name in blocks and behaviour_of(actions, blocks[name]).is_new

    state = model.state_dict(keep_vars=True).items()
    return {name: t for name, t in state if id(t) in parameters or is_new(name, t)}


def _with_last_layer(head: HeadFit, network: Network, actions: Mapping[str, Action]) -> HeadFit:
    """The head with zero weights on the last layer, if it reads nothing above unfrozen blocks."""
    top = max(layer.block for layer in head.feature_layers)
    above = [block.name for block in network.record.blocks[top:]]
    is_unread = any(ACTIONS[actions[name]].is_trained for name in above)
    if not is_unread and not (above and ADDED.name in actions.values()):
        return head
    last = feature_layers(network.record)[-1]
    zeros = np.zeros((len(head.bias), layer_width(network.record, last)), np.float32)
    weight = np.concatenate([head.weight, zeros], axis=1)
    return replace(head, feature_layers=(*head.feature_layers, last), weight=weight)


def _scaled_head(head: HeadFit, read: ReadFeatures) -> ScaledHead:
    """The fitted head with its calibration folded in, on the scale on which it was fitted."""
    by_layer = fit_scalings(read, head.feature_layers)
    scalings = [by_layer[layer] for layer in head.feature_layers]
    offset = np.concatenate([scaling.offset for scaling in scalings])
    scale = np.concatenate([scaling.scale for scaling in scalings]) / np.sqrt(len(scalings))
    factor, shift = head.calibration.scale, head.calibration.bias
    weight = factor * head.weight.astype(np.float64)
    bias = weight @ offset + factor * head.bias.astype(np.float64) + shift
    scaled = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    tensors = [torch.from_numpy(np.asarray(a)) for a in (scaled, bias, offset, scale)]
    return ScaledHead(*tensors)
