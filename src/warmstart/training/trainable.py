"""A base model prepared for a plan: a copy with what the plan adds, and a fitted head to train.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (LP-FT).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.distributed import here
from warmstart.features.batches import to_tensor
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import BATCH, Column, ScratchKey
from warmstart.network import freeze, lora, surgery
from warmstart.network.cut import cached_layers
from warmstart.network.feature_layers import LayerOrder, feature_layers, layer_width, plan_scan
from warmstart.network.freeze import behaviour_of
from warmstart.network.ledger import tensors_of
from warmstart.network.partition import Network
from warmstart.network.surgery import MultiLayerHead, WarmModel
from warmstart.network.weights import Mapped
from warmstart.planning.rules import LayerWeights, for_trained
from warmstart.records.block_actions import ACTIONS, ADDED, FRESH, FROZEN, Action
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.solve.kernels import fit_scalings
from warmstart.solve.ridge import Array, Rows
from warmstart.training.batches import BatchSource, decode_images, folder_with_space
from warmstart.training.dataset import TrainingDataset, heads, selection_problem_on
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit, weights_by_layer
from warmstart.training.score import head_scores


class ScaledHead(nn.Module):
    """A linear head on standardised features: logits = W ((features - offset) * scale) + b.

    Rows have about unit length, so that one learning rate fits all feature layers.
    Shapes: offset, scale (D,), weight (K, D), bias (K,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().clone())
        self.bias = nn.Parameter(bias.float().clone())
        self.offset: Tensor
        self.scale: Tensor
        self.register_buffer("offset", offset.float())
        self.register_buffer("scale", scale.float())

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features, one (B, d_t) per layer with widths that add up to D, to logits (B, K)."""
        joined = (torch.cat(list(features), dim=1) - self.offset) * self.scale
        return nn.functional.linear(joined, self.weight, self.bias)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the same head on unscaled features, in float64."""
        weight = self.weight.detach().double() * self.scale.double()
        return weight, self.bias.detach().double() - weight @ self.offset.double()


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
        scaled = _scaled_head(head, read)
        layers = surgery.shift_layers(head.feature_layers, len(network.blocks), n_added)
    frozen = clone.backbone.requires_grad_(False)
    model = WarmModel(frozen, plan_scan(clone, layers), cast(MultiLayerHead, scaled)).eval()
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


# ---- After training: features, and the head: trained, refitted, or the mean of both.

# In units of the kernel's mean diagonal. Leave-one-out chooses nothing here: the blocks were
# trained on these very rows.
PENALTY = 1.0


class FineTunedFeatures:
    """A reader of a fine-tuned network's features, extracted on demand into a temporary folder.

    Training rows come from `source`; other images are decoded.
    """

    def __init__(
        self,
        network: Network,
        feature_layers: Sequence[FeatureLayer],
        source: BatchSource,
        training_data: TrainingDataset,
    ) -> None:
        self._network, self._scan = network, plan_scan(network, feature_layers)
        self._source, self._data = source, training_data
        learn = training_data.labelled.learn
        self._rows = {example.sha256: row for row, example in enumerate(learn)}
        folder = folder_with_space(4 * sum(self._scan.widths) * (len(learn) + 1))
        self._folder = tempfile.TemporaryDirectory(prefix="warmstart-", dir=folder)
        key = ScratchKey(feature_layers=tuple(Column(name=layer.name) for layer in feature_layers))
        self._cache_file = FeatureCache(Path(self._folder.name)).cache_file(key)

    def __call__(self, examples: Sequence[Example]) -> ReadFeatures:
        """A reader of the features of some examples, (n, d_t) each."""
        missing = set(self._cache_file.missing([example.sha256 for example in examples]))
        todo = list({e.sha256: e for e in examples if e.sha256 in missing}.values())
        for contents, rows in self._extract(todo):
            self._cache_file.append(contents, rows)
        return StoredFeatures(self._cache_file, tuple(examples))

    def _extract(self, todo: Sequence[Example]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """Contents and their features, a batch at a time; several processes share the work."""
        world = here()
        if world.size == 1:
            yield from self._run(todo)
            return
        for at in range(0, len(todo), BATCH * world.size):
            first = at + BATCH * world.rank
            for batches in world.gather([*self._run(todo[first : first + BATCH])]):
                yield from batches

    def _run(self, todo: Sequence[Example]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        for batch, inputs, cut in self._inputs(todo):
            features = run_from(self._network, self._scan, cut, inputs)
            yield [e.sha256 for e in batch], [rows.numpy() for rows in features]

    def _inputs(
        self, todo: Sequence[Example]
    ) -> Iterator[tuple[Sequence[Example], tuple[Tensor, ...], int]]:
        """Examples, their inputs, and the cut above which these enter the network."""
        learn = [example for example in todo if example.sha256 in self._rows]
        for at in range(0, len(learn), BATCH):
            batch = learn[at : at + BATCH]
            rows = np.array([self._rows[e.sha256] for e in batch])
            inputs = self._source.batch(rows, np.zeros_like(rows), self._scan.feature_layers)
            yield batch, inputs, self._source.cut
        others, prep = [e for e in todo if e.sha256 not in self._rows], self._data.prep
        images = decode_images(self._data.collection, others, prep)
        for at in range(0, len(others), BATCH):
            batch = others[at : at + BATCH]
            yield batch, (to_tensor(np.stack([next(images) for _ in batch]), prep),), 0


def run_from(
    network: Network, scan: LayerOrder, cut: int, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Features of a scan from a source's inputs: main (b, …), then layers below the cut."""
    cached = dict(zip(cached_layers(scan.feature_layers, cut), inputs[1:], strict=True))
    network.backbone.eval()
    with torch.inference_mode():
        return scan.onward(network.backbone, cut, inputs[0].clone(), cached)


@dataclass(frozen=True, slots=True)
class RefitHead:
    """Refits heads on networks that were trained on the same data and plan."""

    training_data: TrainingDataset
    plan: Plan
    source: BatchSource

    def held_scores(
        self, trainable: TrainableNetwork, head: HeadFit, keep: Rows, held: Rows
    ) -> Array:
        """Logits (m, K) of held-out rows, on the scale of `head`; NaN if it cannot be refitted."""
        if not may_refit(trainable):
            return np.full((len(held), len(head.bias)), np.nan)
        data = self.training_data
        features = self._features(trainable, tuple(self._layers))
        fitted = self._fit(features(data.examples(keep)), head, keep)
        return head.scale * head_scores(fitted, features(data.examples(held)))

    def end(
        self,
        trainable: TrainableNetwork,
        head: HeadFit,
        scales: tuple[float, float] | None,
    ) -> tuple[HeadFit, FineTunedFeatures]:
        """The head that ships, not yet calibrated, and a reader of its features.

        `scales`: of the trained head and of the refitted one in their mean; None: no refit.
        """
        trained, learn = _trained_head(trainable, head), self.training_data.labelled.learn
        layers = trainable.feature_layers
        if scales is None:
            return trained, self._features(trainable, layers)
        features = self._features(trainable, [*dict.fromkeys((*layers, *self._layers))])
        fitted = self._fit(features(learn), head, np.arange(len(learn)))
        if not scales[0]:
            return fitted, features
        return _mean((trained, fitted), scales, trainable.network.record), features

    @property
    def _layers(self) -> LayerWeights:
        return self.training_data.probe_layers[for_trained(self.training_data.probe_layers)]

    def _features(
        self, trainable: TrainableNetwork, layers: Sequence[FeatureLayer]
    ) -> FineTunedFeatures:
        return FineTunedFeatures(trainable.network, layers, self.source, self.training_data)

    def _fit(self, read: ReadFeatures, head: HeadFit, rows: Rows) -> HeadFit:
        """`head` with weights refitted on features (m, d_t) of these rows."""
        data, layers = self.training_data, self.training_data.probe_layers
        name = for_trained(layers)
        families = heads(self.plan, layers, read, len(rows), names=(name,), penalties=(PENALTY,))
        refit = families[name].refit(selection_problem_on(data.labelled, rows), PENALTY)
        return replace(
            head,
            name=name,
            penalty=PENALTY,
            feature_layers=tuple(refit.weights),
            weight=np.concatenate([*refit.weights.values()]).T.astype(np.float32),
            bias=refit.bias.astype(np.float32),
        )


def may_refit(trainable: TrainableNetwork) -> bool:
    """Whether all blocks are the base model's: heads have no feature layers for other blocks."""
    return not any(ACTIONS[action].is_new for action in trainable.actions.values())


def _trained_head(trainable: TrainableNetwork, head: HeadFit) -> HeadFit:
    """The trained head in the form of closed-form heads, whose scores lie between 0 and 1."""
    weight, bias = cast(ScaledHead, trainable.model.head).plain()
    is_fresh = FRESH.name in trainable.actions.values()
    return replace(
        head,
        name="linear" if is_fresh else head.name,
        feature_layers=trainable.feature_layers,
        weight=(weight / head.scale).float().numpy(),
        bias=(bias / head.scale).float().numpy(),
    )


def _mean(fits: Sequence[HeadFit], scales: tuple[float, float], record: NetworkRecord) -> HeadFit:
    columns: dict[FeatureLayer, Array] = {}
    for head, scale in zip(fits, scales, strict=True):
        for layer, weight in weights_by_layer(head, record).items():
            columns[layer] = columns.get(layer, 0.0) + scale * weight / len(fits)
    bias = np.mean([w * head.bias for head, w in zip(fits, scales, strict=True)], axis=0)
    return replace(
        fits[-1],
        feature_layers=tuple(columns),
        bias=bias.astype(np.float32),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
    )
