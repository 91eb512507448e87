"""Forgetting: what fine-tuning did to the base model's features, and how to undo a part of it."""

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
from warmstart.network.weight_file import Mapped
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import GuardNote
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.cka import agreement, cka
from warmstart.stats.intervals import standard_error
from warmstart.training.dataset import TrainingDataset
from warmstart.training.guards import Alarm, forgetting
from warmstart.training.output import run_from
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.validation import CANDIDATES, PASS, SHARES, VALIDATIONS, ChosenEnd

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
        layers = self._fine_tuned_layers(trainable)
        if not layers:
            return None
        read = self.training_data.extracted.reader(self.training_data.examples(self.rows))
        base = self.training_data.extracted.network
        after = self._features(trainable, layers)
        blocks = [layer.block for layer in layers]
        similarity = {
            base.record.blocks[layer.block - 1].name: cka(read(layer), after[layer])
            for layer in layers
            if layer.pool != "neck" or blocks.count(layer.block) == 1
        }
        neck = layers[-1]
        agreed = None
        if neck.pool == "neck" and base.answers_from_neck:
            agreed = agreement(
                original_outputs(base, read(neck)), original_outputs(base, after[neck])
            )
        return forgetting(similarity, agreed, self.step)

    def _fine_tuned_layers(self, trainable: TrainableNetwork) -> tuple[FeatureLayer, ...]:
        """One layer of each fine-tuned block; the last is the neck if that is fine-tuned."""
        record = self.training_data.extracted.network.record
        numbers = {
            number
            for number, block in enumerate(record.blocks, 1)
            if trainable.actions[block.name] in ("tuned", "low-rank")
        }
        layers = feature_layers(record)
        return tuple(t for t in layers if t.block in numbers and t.pool != "grid2")

    def _features(
        self, trainable: TrainableNetwork, layers: tuple[FeatureLayer, ...]
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

    `make` returns the network before training; `trainable` is changed in place. Returns the guard's
    notes and the end that is then chosen. Shapes: scores (C, n, K) of each candidate end.
    """
    alarm = answers.check(trainable)
    if alarm is None:
        return (), chosen
    action = "kept: it has the better validation loss"
    if ends := _earlier_ends(chosen, answers.context.groups):
        end = _go_back(answers, trainable, make, ends, chosen.end.share)
        action = "kept: weights closer to the base model's forget as much"
        if end is not None:
            share = CANDIDATES[end].share
            action = f"weights {share:.0%} of the way from the base model's are shipped instead"
            chosen = replace(chosen, candidate=end, scores=scores[end])
    elif chosen.end.validation < VALIDATIONS:
        action = "kept: training stopped early already, by validation loss"
    yield guard(alarm.kind, f"{alarm.sentence}; {action}")
    return (GuardNote(kind=alarm.kind, step=alarm.step, action=action),), chosen


def _go_back(
    answers: BaseModelAnswers,
    trainable: TrainableNetwork,
    make: Callable[[], TrainableNetwork],
    ends: Sequence[int],
    share: float,
) -> int | None:
    """The first of these ends without forgetting; None, and the weights restored, if all forget.

    `share`: that of the end at which `trainable` is.
    """
    initial = make()
    lora.merge(initial.network.backbone)  # so that tensors have the names of the trained network
    final = {
        n: t.detach().clone()
        for n, t in trainable.model.state_dict(keep_vars=True).items()
        if not isinstance(t, Mapped)  # frozen, and still in its file
    }
    for number in ends:
        interpolate_weights(trainable, initial, final, CANDIDATES[number].share / share)
        if answers.check(trainable) is None:
            return number
    trainable.model.load_state_dict(final, strict=False)
    return None


def _earlier_ends(chosen: ChosenEnd, groups: Rows) -> list[int]:
    """Candidates closer to the base model with as good a validation loss, the closest end first.

    Only for a training that ran to its end: shares of shorter ones were not validated.
    """
    losses = chosen.losses
    held = np.isfinite(losses[chosen.candidate])
    ends = []
    for number, end in enumerate(CANDIDATES):
        is_closer = end.share in SHARES and end.share < chosen.end.share
        if not is_closer or chosen.end.validation < VALIDATIONS or not held.any():
            continue
        gap = (losses[number] - losses[chosen.candidate])[held]
        if gap.mean() <= TIE * standard_error(gap, groups[held]):
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
