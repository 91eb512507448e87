"""The head of a fine-tuned network: trained with its blocks, or averaged with a refitted one.

The mean of both, which is one linear head, was better than either over eight data sets
(`bench run fine_tuning`); it is one more candidate end of a training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from warmstart.distributed import here
from warmstart.features.batches import to_tensor
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import BATCH, Column, ScratchKey
from warmstart.network.cut import cached_layers
from warmstart.network.feature_layers import LayerOrder, layer_width, plan_scan
from warmstart.network.partition import Network
from warmstart.planning.rules import LayerWeights, for_trained
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import ACTIONS, FRESH, Plan
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.batches import BatchSource, decode_images, folder_with_space
from warmstart.training.dataset import TrainingDataset, heads, selection_problem_on
from warmstart.training.early_stopping import REFIT, REFIT_ENDS, ChosenEnd
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit, with_calibration
from warmstart.training.loop import ScaledHead
from warmstart.training.score import head_scores
from warmstart.training.selection import cross_calibrated
from warmstart.training.trainable import TrainableNetwork


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


# In units of the kernel's mean diagonal. Leave-one-out chooses nothing here: the blocks were
# trained on these very rows.
PENALTY = 1.0
_LEAST = 1e-3  # scale of a trained head whose scores carry next to no information
OutputScales = tuple[float, float]  # factors of the scores of the trained and the refitted head


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
        chosen: ChosenEnd,
        scales: Sequence[OutputScales],
    ) -> tuple[HeadFit, FineTunedFeatures]:
        """The head of the chosen end, not yet calibrated, and a reader of its features.

        `scales`: of the trained head and of the refitted one, at each of `REFIT_ENDS`.
        """
        trained, learn = _trained_head(trainable, head), self.training_data.labelled.learn
        layers = trainable.feature_layers
        if not chosen.is_refitted:
            return trained, self._features(trainable, layers)
        scale = scales[chosen.candidate - REFIT]
        features = self._features(trainable, [*dict.fromkeys((*layers, *self._layers))])
        fitted = self._fit(features(learn), head, np.arange(len(learn)))
        if not scale[0]:
            return fitted, features
        return _mean((trained, fitted), scale, trainable.network.record), features

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


def average_refits(
    scores: Array, labels: Truth, target: Target = CLASSIFICATION, *, is_alone: bool = False
) -> tuple[Array, tuple[OutputScales, ...]]:
    """Average the scores of each refitted head with those of the trained one, on its scale.

    Also returns the factors of the two heads. Scores come back unchanged where no head was
    refitted, and where no other was trained (`is_alone`).
    Shapes: scores (C + R, n, K), NaN for rows that were never held out; labels (n,).
    """
    if is_alone:
        return scores, ((0.0, 1.0),) * len(REFIT_ENDS)
    averaged, scales = scores.copy(), []
    for place, number in enumerate(REFIT_ENDS if len(scores) > REFIT else ()):
        both = scores[[number, REFIT + place]]
        held = np.isfinite(both).all(axis=(0, 2))
        ratio = 1.0
        if held.any():
            trained, fitted = (target.scale(z[held], labels[held]) for z in both)
            ratio = fitted / max(trained, _LEAST)
        averaged[REFIT + place] = (both[0] + ratio * both[1]) / 2
        scales.append((1.0, ratio))
    return averaged, tuple(scales)


def weights_by_layer(head: HeadFit, record: NetworkRecord) -> dict[FeatureLayer, Array]:
    """Columns of a head's weights. Shapes: (K, d_t) each."""
    ends = np.cumsum([layer_width(record, layer) for layer in head.feature_layers])[:-1]
    columns = np.split(head.weight.astype(np.float64), ends, axis=1)
    return dict(zip(head.feature_layers, columns, strict=True))


def _mean(fits: Sequence[HeadFit], scales: OutputScales, record: NetworkRecord) -> HeadFit:
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


def calibrate_head(
    head: HeadFit,
    scores: Array,
    labels: Truth,
    fold: Rows,
    groups: Rows,
    target: Target = CLASSIFICATION,
) -> HeadFit:
    """Calibrate a trained head on held-out rows (scores (n, K), NaN for others), by other folds."""
    plain = Calibration(head.scale, np.zeros(len(head.bias)))
    probabilities, calibration = cross_calibrated(
        scores / head.scale, labels, fold, groups, plain, target
    )
    return with_calibration(replace(head, probabilities=probabilities, fold=fold), calibration)


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
