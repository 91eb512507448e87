"""The output of a trained network: the one trained with it, or that and one in closed form.

On layers that were trained, an output fitted in closed form errs elsewhere than the one that was
trained with them. The mean of both, which is one linear output, was better than either in the
mean over eight sets (`bench run tail` shows the losses). It is one more candidate end of a
training, chosen by held-out rows.
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

from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.features.batches import to_tensor
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import BATCH, Column, ScratchKey
from warmstart.network.cut import cached_layers
from warmstart.network.feature_layers import LayerOrder, layer_width, plan_scan
from warmstart.network.partition import Network
from warmstart.planning.feature_layers import for_trained
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import FeatureLayer, NetworkRecord
from warmstart.records.plan import Action, Plan
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.dataset import ReadFeatures, TrainingDataset, heads_of, selection_problem_on
from warmstart.training.linear_probe import HeadFit, with_calibration
from warmstart.training.live import decode_images, folder_with_space
from warmstart.training.loop import ScaledHead
from warmstart.training.score import head_scores
from warmstart.training.selection import cross_calibrated
from warmstart.training.shared import BatchSource
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.validation import REFIT, REFIT_ENDS, ChosenEnd

# ---- A second look: the taps of a network that was trained here.


class FineTunedFeatures:
    """A reader of a trained network's taps: images are passed when first asked for.

    What was learnt from is passed from where training took it; other images are decoded. Rows
    lie in a folder of their own that ends with this.
    """

    def __init__(
        self,
        network: Network,
        feature_layers: Sequence[FeatureLayer],
        source: BatchSource,
        learn: Sequence[Example],
        collection: Collection,
        prep: Inputs,
    ) -> None:
        self._network, self._scan = network, plan_scan(network, feature_layers)
        self._source, self._collection, self._prep = source, collection, prep
        self._rows = {example.sha256: row for row, example in enumerate(learn)}
        width = 4 * sum(self._scan.widths)
        # Kept for as long as this is: the folder goes with it.
        self._folder = tempfile.TemporaryDirectory(
            prefix="warmstart-", dir=folder_with_space(width * (len(learn) + 1))
        )
        key = ScratchKey(feature_layers=tuple(Column(name=layer.name) for layer in feature_layers))
        self._shelf = FeatureCache(Path(self._folder.name)).cache_file(key)

    def __call__(self, examples: Sequence[Example]) -> ReadFeatures:
        """From examples to the reader of their taps, (n, d_t) each."""
        hashes = [example.sha256 for example in examples]
        lost = set(self._shelf.missing(hashes))
        todo = list({e.sha256: e for e in examples if e.sha256 in lost}.values())
        for contents, rows in self._made(todo):
            self._shelf.append(contents, rows)
        return StoredFeatures(self._shelf, tuple(examples))

    def _made(self, todo: Sequence[Example]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """Contents and their taps, a batch at a time; several processes pass a share each."""
        for own in _rounds(todo):
            made = (
                ([e.sha256 for e in chunk], self._pass(inputs, cut))
                for chunk, inputs, cut in self._inputs(own)
            )
            if here().size == 1:
                yield from made
            else:
                yield from (part for found in here().gathered([*made]) for part in found)

    def _inputs(
        self, todo: Sequence[Example]
    ) -> Iterator[tuple[Sequence[Example], tuple[Tensor, ...], int]]:
        """Examples, what the network takes for them, and the cut above which that is."""
        learnt = [example for example in todo if example.sha256 in self._rows]
        for at in range(0, len(learnt), BATCH):
            chunk = learnt[at : at + BATCH]
            rows = np.array([self._rows[e.sha256] for e in chunk])
            plain = np.zeros(len(rows), np.int64)
            yield (
                chunk,
                self._source.batch(rows, plain, self._scan.feature_layers),
                self._source.cut,
            )
        others = [example for example in todo if example.sha256 not in self._rows]
        images = decode_images(self._collection, others, self._prep)
        for at in range(0, len(others), BATCH):
            chunk = others[at : at + BATCH]
            pixels = np.stack([next(images) for _ in chunk])
            yield chunk, (to_tensor(pixels, self._prep),), 0

    def _pass(self, inputs: tuple[Tensor, ...], cut: int) -> list[np.ndarray]:
        return [rows.numpy() for rows in run_from(self._network, self._scan, cut, inputs)]


def _rounds(todo: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """What this process passes before all exchange what they have: a batch, alone everything."""
    world = here()
    if world.size == 1:
        yield todo
        return
    for at in range(0, len(todo), BATCH * world.size):
        first = at + BATCH * world.rank
        yield todo[first : first + BATCH]


def run_from(
    network: Network, scan: LayerOrder, cut: int, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The taps of a scan from what a source gives: main (b, …), then taps below the cut."""
    taken = dict(zip(cached_layers(scan.feature_layers, cut), inputs[1:], strict=True))
    network.backbone.eval()
    with torch.inference_mode():
        return scan.onward(network.backbone, cut, inputs[0].clone(), taken)


# In units of the kernel's mean diagonal. Nothing is chosen by left-out rows here: the layers have
# learnt these very rows, so that leaving one out says little.
PENALTY = 1.0
_LEAST = 1e-3  # temperature of a trained output that says next to nothing
MOVED = frozenset[Action]({"frozen", "tuned", "low-rank", "replaced"})
OutputScales = tuple[float, float]  # of the trained output, of the fitted one


@dataclass(frozen=True, slots=True)
class RefitHead:
    """Fits outputs on networks that were trained from one scene and plan."""

    training_data: TrainingDataset
    plan: Plan
    source: BatchSource

    @property
    def _feature_layers(self) -> tuple[FeatureLayer, ...]:
        return tuple(self.training_data.probe_layers[self._layer_weights])

    @property
    def _layer_weights(self) -> str:
        return for_trained(self.training_data.probe_layers)

    def _look(
        self, trainable: TrainableNetwork, feature_layers: Sequence[FeatureLayer]
    ) -> FineTunedFeatures:
        return FineTunedFeatures(
            trainable.network,
            feature_layers,
            self.source,
            self.training_data.labelled.learn,
            self.training_data.collection,
            self.training_data.prep,
        )

    def held_scores(
        self, trainable: TrainableNetwork, head: HeadFit, keep: Rows, held: Rows
    ) -> Array:
        """Logits (m, K) of held rows from an output fitted on the kept ones; NaN if it cannot be.

        In the scale of `head`, the one that training began with.
        """
        if not may_refit(trainable):
            return np.full((len(held), len(head.bias)), np.nan)
        extracted = self._look(trainable, self._feature_layers)
        fitted = self._fit(extracted(self.training_data.examples(keep)), head, keep)
        return head.scale * head_scores(fitted, extracted(self.training_data.examples(held)))

    def end(
        self,
        trainable: TrainableNetwork,
        head: HeadFit,
        chosen: ChosenEnd,
        scales: Sequence[OutputScales],
    ) -> tuple[HeadFit, FineTunedFeatures]:
        """The output that was chosen, in the place of `head`, and a reader of what it listens to.

        Not calibrated yet. `scales`: of the trained output and of the fitted one, at each of
        `REFIT_ENDS`.
        """
        trained, learn = _trained(trainable, head), self.training_data.labelled.learn
        if not chosen.is_refitted:
            return trained, self._look(trainable, trainable.feature_layers)
        scale = scales[chosen.candidate - REFIT]
        extracted = self._look(
            trainable, [*dict.fromkeys((*trainable.feature_layers, *self._feature_layers))]
        )
        fitted = self._fit(extracted(learn), head, np.arange(len(learn)))
        if not scale[0]:
            return fitted, extracted
        return _mean((trained, fitted), scale, trainable.network.record), extracted

    def _fit(self, read: ReadFeatures, head: HeadFit, rows: Rows) -> HeadFit:
        """`head` with other weights: fitted on what `read` gives for these rows, (m, d_t)."""
        training_data, name, seed = (
            self.training_data,
            self._layer_weights,
            int(self.plan.training.seed.number),
        )
        family = heads_of((name,), (PENALTY,), training_data.probe_layers, read, len(rows), seed)[
            name
        ]
        found = family.refit(selection_problem_on(training_data.labelled, rows), PENALTY)
        return replace(
            head,
            name=name,
            penalty=PENALTY,
            feature_layers=tuple(found.weights),
            weight=np.concatenate([*found.weights.values()]).T.astype(np.float32),
            bias=found.bias.astype(np.float32),
        )


def may_refit(trainable: TrainableNetwork) -> bool:
    """Whether the parts are those that the profiles were made for, and have learnt something.

    Layers that were added or began at random have an output of their own.
    """
    return set(trainable.actions.values()) <= MOVED


def average_refits(
    scores: Array, labels: Truth, target: Target = CLASSIFICATION, *, is_alone: bool = False
) -> tuple[Array, tuple[OutputScales, ...]]:
    """Each end with an output fitted anew in the mean with the trained one, at its temperature.

    So rows that choose other candidates stay on about one scale. Returned beside: by what the
    two outputs are multiplied, for each of `REFIT_ENDS`. Where none were fitted anew all comes
    back as it is, as where the fitted ones stand alone (`is_alone`): no other was trained.
    Shapes: scores (C + R, n, K), NaN for rows that were never held out; labels (n,).
    """
    if is_alone:
        return scores, ((0.0, 1.0),) * len(REFIT_ENDS)
    found, scales = scores.copy(), []
    for place, number in enumerate(REFIT_ENDS if len(scores) > REFIT else ()):
        both = scores[[number, REFIT + place]]
        held = np.isfinite(both).all(axis=(0, 2))
        ratio = 1.0
        if held.any():
            trained, fitted = (target.scale(z[held], labels[held]) for z in both)
            ratio = fitted / max(trained, _LEAST)
        found[REFIT + place] = (both[0] + ratio * both[1]) / 2
        scales.append((1.0, ratio))
    return found, tuple(scales)


def weights_by_layer(head: HeadFit, record: NetworkRecord) -> dict[FeatureLayer, Array]:
    """Columns of a head's weights. Shapes: (K, d_t) each."""
    ends = np.cumsum([layer_width(record, layer) for layer in head.feature_layers])[:-1]
    return dict(
        zip(
            head.feature_layers, np.split(head.weight.astype(np.float64), ends, axis=1), strict=True
        )
    )


def _mean(heads: Sequence[HeadFit], scales: OutputScales, record: NetworkRecord) -> HeadFit:
    """One head that says what the mean of several says, each made so much warmer."""
    columns: dict[FeatureLayer, Array] = {}
    for head, scale in zip(heads, scales, strict=True):
        for layer, weight in weights_by_layer(head, record).items():
            columns[layer] = columns.get(layer, 0.0) + scale * weight / len(heads)
    bias = np.mean([w * head.bias for head, w in zip(heads, scales, strict=True)], axis=0)
    return replace(
        heads[-1],
        feature_layers=tuple(columns),
        bias=bias.astype(np.float32),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
    )


def calibrated(
    head: HeadFit,
    scores: Array,
    labels: Truth,
    fold: Rows,
    groups: Rows,
    target: Target = CLASSIFICATION,
) -> HeadFit:
    """A trained head calibrated on held-out rows, each by other parts of them.

    Shapes: scores (n, K) in the scale of training, NaN where never held out; labels, fold and
    blocks (n,).
    """
    plain = Calibration(head.scale, np.zeros(len(head.bias)))
    found = cross_calibrated(scores / head.scale, labels, fold, groups, plain, target)
    return with_calibration(replace(head, probabilities=found[0], fold=fold), found[1])


def _trained(trainable: TrainableNetwork, head: HeadFit) -> HeadFit:
    """The trained output in the form that closed-form heads have.

    Divided by the temperature that it began with, its scores lie between 0 and 1 again; the
    class bias of the fitted head stands in its bias already.
    """
    weight, bias = cast(ScaledHead, trainable.model.head).plain()
    is_fresh = "fresh" in trainable.actions.values()
    return replace(
        head,
        name="linear" if is_fresh else head.name,
        feature_layers=trainable.feature_layers,
        weight=(weight / head.scale).float().numpy(),
        bias=(bias / head.scale).float().numpy(),
    )
