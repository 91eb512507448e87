"""What tuning did to what the start knew, and a way part of the way back where it lost much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from warmstart.events import Steps, guard
from warmstart.network import lora
from warmstart.network.feature_layers import feature_layers as offered
from warmstart.network.feature_layers import plan_scan
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
from warmstart.training.validation import CANDIDATES, VALIDATIONS, PASS, SHARES, ChosenEnd

ROWS = 200  # examples on which it is measured
TIE = 0.25  # standard errors of a loss below which less forgetting decides: RECIPE §2
_KEPT = "kept: held-out examples are answered better so"
_AS_MUCH = "kept: part of the way back, as much is forgotten"
_EARLY = "kept: training ended early already, as held-out examples said"


@dataclass(frozen=True, slots=True)
class BaseModelAnswers:
    """What the start gives for some rows, at every layer that is tuned."""

    training_data: TrainingDataset
    context: TrainingContext
    rows: Rows
    step: int

    def weigh(self, trainable: TrainableNetwork) -> Alarm | None:
        """An alarm where tuned layers do not tell these rows apart as the start's did."""
        wanted = self._feature_layers(trainable)
        if not wanted:
            return None
        examples = self.training_data.examples(self.rows)
        read, base = (
            self.training_data.extracted.reader(examples),
            self.training_data.extracted.network,
        )
        after = self._after(trainable, wanted)
        likeness = {
            base.record.blocks[layer.block - 1].name: cka(read(layer), after[layer])
            for layer in wanted
            if layer.pool != "neck" or len([t for t in wanted if t.block == layer.block]) == 1
        }
        neck = wanted[-1]
        said = None
        if neck.pool == "neck" and base.answers_from_neck:
            before, now = original_outputs(base, read(neck)), original_outputs(base, after[neck])
            said = agreement(before, now)
        return forgetting(likeness, said, self.step)

    def _feature_layers(self, trainable: TrainableNetwork) -> tuple[FeatureLayer, ...]:
        """One tap of each tuned part of the start; the last is the neck where that is tuned."""
        record = self.training_data.extracted.network.record
        tuned = {
            number
            for number, block in enumerate(record.blocks, 1)
            if trainable.actions[block.name] in ("tuned", "low-rank")
        }
        return tuple(t for t in offered(record) if t.block in tuned and t.pool != "grid2")

    def _after(
        self, trainable: TrainableNetwork, wanted: tuple[FeatureLayer, ...]
    ) -> dict[FeatureLayer, Features]:
        """Shapes: (m, d_t) each. Blocks that were added come after the parts of the start."""
        scan, source = plan_scan(self.training_data.extracted.network, wanted), self.context.source
        made = []
        for first in range(0, len(self.rows), PASS):  # all at once would be the run's peak memory
            plain = self.context.plain(self.rows[first : first + PASS], wanted)
            made.append(run_from(trainable.network, scan, source.cut, plain))
        joined = [torch.cat(rows).numpy() for rows in zip(*made, strict=True)]
        return dict(zip(wanted, joined, strict=True))


def original_outputs(network: Network, vectors: Features) -> Features:
    """The original outputs from what its classifier sees: (m, F) to (m, K)."""
    with torch.inference_mode():
        return network.outputs(torch.from_numpy(np.asarray(vectors, np.float32))).numpy()


def limit_forgetting(
    memory: BaseModelAnswers,
    trainable: TrainableNetwork,
    make: Callable[[], TrainableNetwork],
    chosen: ChosenEnd,
    scores: Array,
) -> Steps[tuple[tuple[GuardNote, ...], ChosenEnd]]:
    """Weigh what was forgotten; go part of the way back where held-out rows do not mind.

    `make` gives the outfit before training; `trainable` is changed in place. Returns what is told
    of it, and the end that is taken then.
    Shapes: scores (C, n, K) of each candidate end.
    """
    alarm = memory.weigh(trainable)
    if alarm is None:
        return (), chosen
    action = _KEPT
    if shares := _shares(chosen, memory.context.groups):
        found = _go_back(memory, trainable, make, shares, chosen.end.share)
        action = _AS_MUCH
        if found is not None:
            share = CANDIDATES[found].share
            action = f"weights {share:.0%} of the way from the start's are shipped instead"
            chosen = replace(chosen, candidate=found, scores=scores[found])
    elif chosen.end.validation < VALIDATIONS:
        action = _EARLY
    yield guard(alarm.kind, f"{alarm.sentence}; {action}")
    return (GuardNote(kind=alarm.kind, step=alarm.step, action=action),), chosen


def _go_back(
    memory: BaseModelAnswers,
    trainable: TrainableNetwork,
    make: Callable[[], TrainableNetwork],
    ends: Sequence[int],
    gone: float,
) -> int | None:
    """The first of these ends at which nothing is forgotten; None, and as it was, if none is.

    `gone`: the share of the way that lies behind `trainable`.
    """
    begun = make()
    lora.merge(begun.network.backbone)  # tensors are called as in the trained one
    ended = {
        n: t.detach().clone()
        for n, t in trainable.model.state_dict(keep_vars=True).items()
        if not isinstance(t, Mapped)  # frozen, and still in its file
    }
    for number in ends:
        interpolate_weights(trainable, begun, ended, CANDIDATES[number].share / gone)
        if memory.weigh(trainable) is None:
            return number
    trainable.model.load_state_dict(ended, strict=False)
    return None


def _shares(chosen: ChosenEnd, groups: Rows) -> list[int]:
    """Candidates nearer to the start that are as good on held-out rows, the nearest end first.

    Only where training goes all of the way: shares of shorter ways were not looked at.
    """
    losses = chosen.losses
    held = np.isfinite(losses[chosen.candidate])
    found = []
    for number, end in enumerate(CANDIDATES):
        is_nearer = end.share in SHARES and end.share < chosen.end.share
        if not is_nearer or chosen.end.validation < VALIDATIONS or not held.any():
            continue
        gap = (losses[number] - losses[chosen.candidate])[held]
        if gap.mean() <= TIE * standard_error(gap, groups[held]):
            found.append(number)
    return found


@torch.no_grad()
def interpolate_weights(
    trainable: TrainableNetwork, begun: TrainableNetwork, ended: dict[str, Tensor], share: float
) -> None:
    """Put weights `share` of the way from those at the beginning to those at the end."""
    base = begun.model.state_dict()
    state = trainable.model.state_dict()
    for name, tensor in ended.items():
        if tensor.is_floating_point() and name in base and base[name].shape == tensor.shape:
            state[name].copy_(torch.lerp(base[name], tensor, share))
