"""Forgetting: what fine-tuning did to the base model's features, and how to undo some of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from warmstart.events import Steps, guard
from warmstart.network import lora
from warmstart.network.feature_layers import feature_layers, plan_scan
from warmstart.network.partition import Network
from warmstart.network.weights import Mapped
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import ACTIONS
from warmstart.records.summary import GuardNote
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.cka import agreement, cka
from warmstart.stats.intervals import standard_error
from warmstart.training.batches import TrainingContext
from warmstart.training.dataset import TrainingDataset
from warmstart.training.early_stopping import CANDIDATES, PASS, SHARES, VALIDATIONS, ChosenEnd
from warmstart.training.guards import Alarm, forgetting
from warmstart.training.output import run_from
from warmstart.training.trainable import TrainableNetwork

ROWS = 200  # examples on which forgetting is measured
TIE = 0.25  # standard errors of a loss within which less forgetting decides: RECIPE §2


@dataclass(frozen=True, slots=True)
class BaseModelAnswers:
    """The base model's features of some rows, at every layer that is fine-tuned."""

    training_data: TrainingDataset
    context: TrainingContext
    rows: Rows
    step: int

    def check(self, trainable: TrainableNetwork) -> Alarm | None:
        """An alarm where fine-tuned layers no longer resemble the base model's on these rows."""
        base = self.training_data.extracted.network
        tuned = {name for name, action in trainable.actions.items() if ACTIONS[action].is_tuned}
        names = [block.name for block in base.record.blocks]
        # One layer of each fine-tuned block; the last is the neck if that is fine-tuned.
        layers = [
            layer
            for layer in feature_layers(base.record)
            if layer.pool != "grid2" and names[layer.block - 1] in tuned
        ]
        if not layers:
            return None
        read = self.training_data.extracted.reader(self.training_data.examples(self.rows))
        after, blocks = self._features(trainable, layers), [layer.block for layer in layers]
        similarity = {
            names[layer.block - 1]: cka(read(layer), after[layer])
            for layer in layers
            if layer.pool != "neck" or blocks.count(layer.block) == 1
        }
        agreed, neck = None, layers[-1]
        if neck.pool == "neck" and base.answers_from_neck:
            outputs = (original_outputs(base, features) for features in (read(neck), after[neck]))
            agreed = agreement(*outputs)
        return forgetting(similarity, agreed, self.step)

    def _features(
        self, trainable: TrainableNetwork, layers: Sequence[FeatureLayer]
    ) -> dict[FeatureLayer, Features]:
        """Shapes: (m, d_t) each. Added blocks come after those of the base model."""
        scan, cut = plan_scan(self.training_data.extracted.network, layers), self.context.source.cut
        chunks = []
        for first in range(0, len(self.rows), PASS):  # all at once would be the run's peak memory
            inputs = self.context.plain(self.rows[first : first + PASS], layers)
            chunks.append(run_from(trainable.network, scan, cut, inputs))
        joined = [torch.cat(rows).numpy() for rows in zip(*chunks, strict=True)]
        return dict(zip(layers, joined, strict=True))


def original_outputs(network: Network, features: Features) -> Features:
    """Outputs of the original head for its input features: (m, F) to (m, K)."""
    with torch.inference_mode():
        return network.outputs(torch.from_numpy(np.asarray(features, np.float32))).numpy()


def limit_forgetting(
    answers: BaseModelAnswers,
    trainable: TrainableNetwork,
    make: Callable[[], TrainableNetwork],
    chosen: ChosenEnd,
    scores: Array,
) -> Steps[tuple[tuple[GuardNote, ...], ChosenEnd]]:
    """Check for forgetting; interpolate back towards the base model if validation loss allows it.

    `make` returns the network before training; `trainable` is changed in place. Returns notes and
    the end that is then chosen. Shapes: scores (C, n, K) of each candidate end.
    """
    alarm = answers.check(trainable)
    if alarm is None:
        return (), chosen
    action = "kept: it has the better validation loss"
    if ends := _earlier_ends(chosen, answers.context.groups):
        initial = make()
        lora.merge(initial.network.backbone)  # so that tensors have the trained network's names
        final = {
            name: tensor.detach().clone()
            for name, tensor in trainable.model.state_dict(keep_vars=True).items()
            if not isinstance(tensor, Mapped)  # frozen, and still in its file
        }
        for number in ends:
            share = CANDIDATES[number].share
            interpolate_weights(trainable, initial, final, share / chosen.end.share)
            if answers.check(trainable) is None:
                action = f"weights {share:.0%} of the way from the base model's are shipped instead"
                chosen = replace(chosen, candidate=number, scores=scores[number])
                break
        else:
            action = "kept: weights closer to the base model's forget as much"
            trainable.model.load_state_dict(final, strict=False)
    elif chosen.end.validation < VALIDATIONS:
        action = "kept: training stopped early already, by validation loss"
    yield guard(alarm.kind, f"{alarm.sentence}; {action}")
    return (GuardNote(kind=alarm.kind, step=alarm.step, action=action),), chosen


def _earlier_ends(chosen: ChosenEnd, groups: Rows) -> list[int]:
    """Candidates closer to the base model with an equal validation loss, closest end first."""
    losses = chosen.losses
    held = np.isfinite(losses[chosen.candidate])
    if chosen.end.validation < VALIDATIONS or not held.any():
        return []  # shares of shorter trainings were not validated
    ends = []
    for number, end in enumerate(CANDIDATES):
        gap = (losses[number] - losses[chosen.candidate])[held]
        is_closer = end.share in SHARES and end.share < chosen.end.share
        if is_closer and gap.mean() <= TIE * standard_error(gap, groups[held]):
            ends.append(number)
    return ends


@torch.no_grad()
def interpolate_weights(
    trainable: TrainableNetwork,
    initial: TrainableNetwork,
    final: dict[str, Tensor],
    share: float,
) -> None:
    """Set the weights to a share of the way from the initial to the final ones."""
    base, state = initial.model.state_dict(), trainable.model.state_dict()
    for name, tensor in final.items():
        if tensor.is_floating_point() and name in base and base[name].shape == tensor.shape:
            state[name].copy_(torch.lerp(base[name], tensor, share))
