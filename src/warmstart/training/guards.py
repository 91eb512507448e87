"""Four guards against failing trainings: stuck, diverged, overfit, forgetting.

A guard says what it measured; the caller decides what to do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.events import Steps, guard
from warmstart.network import lora
from warmstart.network.feature_layers import feature_layers, plan_scan
from warmstart.network.partition import Network
from warmstart.network.weights import Mapped
from warmstart.records.block_actions import ACTIONS
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import GuardNote
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.cka import agreement, cka
from warmstart.stats.intervals import Groups, Values, standard_error
from warmstart.stats.paired import mean_interval
from warmstart.tasks.classify import entropy
from warmstart.training.batches import BatchSource
from warmstart.training.dataset import TrainingDataset
from warmstart.training.early_stopping import (
    CANDIDATES,
    END,
    PASS,
    SHARES,
    VALIDATIONS,
    ChosenEnd,
)
from warmstart.training.trainable import TrainableNetwork, run_from

GuardKind = Literal["stuck", "diverged", "overfit", "forgetting"]

# Calibrated on clean and broken trainings: bench/guards.py, docs/guards.md.
FIRST = 3  # updates whose mean is the initial loss
SHORT = 10.0  # updates over which losses are averaged to see whether they rise
LONG = 1 / 8  # share of all updates, to see whether they stay high; at least SHORT updates
MOST = 1.5  # times the limit: the most that one loss counts
RISE = 3.0  # times the initial loss is diverged, if it is also
FLOOR = 2.0  # times the entropy of the classes
LEAST_BLIND = math.log(2) / 2  # nats; where one class dominates, a few mistakes are no trend
STUCK = 0.98  # times the entropy
KNOWN = 0.75  # times the entropy: a head that begins above this has little to lose
CONFIDENT = 2.0  # standard errors that the average lies above
LATE = 0.75  # share of the updates before a training that began by guessing can be stuck
LEAST_CHANGE = 1e-3  # of the outputs' size: less is no change
RISING = 3  # validations in a row
MARGIN = 1.6  # half widths of a 95 % interval: the best of several validations is partly luck
LEAST_SIMILARITY = 0.4  # CKA of a block before and after
_AVERAGES = ("short", "short_n", "long", "long_n", "squares")
_STATE = ("seen", "first", "start", *_AVERAGES, "stuck", "diverged")


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a guard measured, after which update, in a sentence with figures."""

    kind: GuardKind
    step: int
    sentence: str


class Watch:
    """The guards on the loss of one training: `diverged` and `stuck`.

    Call `see` after every update, `finish` after the last; each kind of alarm is raised once.
    `begins_fitted`: training begins from a fitted head. Where that was better than guessing, a loss
    as high as that of guessing is wrong soon after the warm-up; else training may take most of the
    steps. Steps count from 1 to `n_steps`; `class_shares` may be counts. `blind`: the loss of
    guessing, if already computed. `state` holds plain numbers, from which `restore` continues.

    >>> watch = Watch(n_steps=100, warm_up=0.1, class_shares=[1, 1], begins_fitted=True)
    >>> watch.see(1, 0.3), watch.see(2, float("nan")).kind
    (None, 'diverged')
    """

    def __init__(
        self,
        *,
        n_steps: int,
        warm_up: float,
        class_shares: Sequence[float] = (),
        begins_fitted: bool,
        blind: float | None = None,
    ) -> None:
        self._n_steps = n_steps
        self._blind = entropy(class_shares) if blind is None else blind
        self._begins_fitted = begins_fitted
        self._long = max(SHORT, LONG * n_steps)
        self._soon = math.ceil(warm_up * n_steps) + self._long
        self.state: dict[str, float] = dict.fromkeys(_STATE, 0.0)

    def restore(self, state: Mapping[str, float]) -> None:
        self.state = {name: float(state[name]) for name in _STATE}

    def see(self, step: int, loss: float) -> Alarm | None:
        """Record the loss of update `step` (from 1), in nats; an alarm where one is due."""
        if not math.isfinite(loss):
            return self._raise("diverged", step, f"the loss was {loss} {self._at(step)}")
        self._record(loss)
        state, limit = self.state, self._limit()
        mean = state["short"] / state["short_n"]
        when = f"{self._at(step)}{self._guessing()}"
        if mean > limit:
            losses = f"from {self._initial():.3g} to {max(loss, mean):.3g}"
            return self._raise("diverged", step, f"the loss rose {losses} {when}")
        if self._is_stuck(step):
            mean = state["long"] / state["long_n"]
            return self._raise("stuck", step, f"the loss was {mean:.3g} {when}")
        return None

    def finish(self, moved: float, loss: float | None = None) -> Alarm | None:
        """After the last update: `moved` as of `largest_change`, `loss` on the training rows."""
        last = self._n_steps
        if moved < LEAST_CHANGE:
            differ = f"outputs differ by at most {100 * moved:.1g} % from those before"
            return self._raise("stuck", last, f"nothing changed: after {last:,} updates {differ}")
        if loss is None or (self._blind and loss <= STUCK * self._blind):
            return None
        ended = f"the loss of the trained network is {loss:.3g}{self._guessing()}"
        if not loss <= self._limit():
            return self._raise("diverged", last, ended)
        return self._raise("stuck", last, ended) if self._blind else None

    def _record(self, loss: float) -> None:
        state = self.state
        state["first"] = state["first"] if state["seen"] else loss
        state["seen"] += 1
        if state["seen"] <= FIRST:
            state["start"] += (loss - state["start"]) / state["seen"]
        loss = min(loss, MOST * self._limit())  # a single batch, however bad, is no trend
        for name, value in (("short", loss), ("short_n", 1.0)):
            state[name] = (1 - 1 / SHORT) * state[name] + value
        for name, value in (("long", loss), ("long_n", 1.0), ("squares", loss * loss)):
            state[name] = (1 - 1 / self._long) * state[name] + value

    def _initial(self) -> float:
        """The initial loss: first steps that already went wrong do not raise it."""
        return min(self.state["first"], self.state["start"])

    def _limit(self) -> float:
        return max(RISE * self._initial(), FLOOR * max(self._blind, LEAST_BLIND))

    def _is_stuck(self, step: int) -> bool:
        """Whether the loss is that of guessing, beyond chance, at a step where it should not be."""
        began_better = self._begins_fitted and self._initial() < KNOWN * self._blind
        if not self._blind or step <= (self._soon if began_better else LATE * self._n_steps):
            return False
        state = self.state
        mean = state["long"] / state["long_n"]
        variance = max(state["squares"] / state["long_n"] - mean * mean, 0.0)
        error = math.sqrt(variance / (2 * self._long - 1))
        return mean - CONFIDENT * error > STUCK * self._blind

    def _raise(self, kind: GuardKind, step: int, sentence: str) -> Alarm | None:
        if self.state[kind]:
            return None
        self.state[kind] = 1.0
        return Alarm(kind, step, sentence)

    def _at(self, step: int) -> str:
        return f"at update {step:,} of {self._n_steps:,}"

    def _guessing(self) -> str:
        return f"; always guessing the class shares has {self._blind:.3g}" if self._blind else ""


def largest_change(
    before: NDArray[np.floating], after: NDArray[np.floating], *, of_classes: bool = True
) -> float:
    """The largest change of any output, relative to how much outputs vary.

    Scores `of_classes` that are shifted by the same amount in all classes are equal.
    Shapes: logits (n, K) both.

    >>> largest_change(np.array([[1.0, -1.0], [3.0, -3.0]]), np.array([[1.0, -1.0], [3.0, -3.0]]))
    0.0
    """
    middle = before.mean(axis=0)
    one, two = (
        scores - (scores.mean(axis=1, keepdims=True) if of_classes else middle)
        for scores in (before, after)
    )
    size = max(float(np.sqrt((one**2).mean())), float(np.sqrt((two**2).mean())))
    return float(np.abs(two - one).max()) / size if size else 0.0


def overfit(
    held_losses: Sequence[Values], groups: Groups, steps: Sequence[int]
) -> tuple[Alarm | None, int]:
    """Whether validation loss rises, and the number of the best validation.

    Alarm: the mean rose in three validations in a row, and the last is worse than the best by more
    than chance, paired by row. Shapes: one array (m,) of log-losses per validation, after `steps`
    updates; groups (m,).
    """
    means = [float(losses.mean()) for losses in held_losses]
    best, last = int(np.argmin(means)), len(means) - 1
    recent = means[-RISING - 1 :]
    if len(recent) <= RISING or not all(a < b for a, b in itertools.pairwise(recent)):
        return None, best
    rise, low, _ = mean_interval(held_losses[last] - held_losses[best], groups)
    if not rise > MARGIN * (rise - low):
        return None, best
    at_best, at_last = (f"{means[i]:.3g} at update {steps[i]:,}" for i in (best, last))
    sentence = f"the loss on held-out examples rose from {at_best} to {at_last}"
    return Alarm("overfit", steps[last], sentence), best


def check_overfit(chosen: ChosenEnd, groups: Groups, n_steps: int) -> GuardNote | None:
    """A note where validation loss rose by more than chance. Shapes: groups (n,)."""
    steps = [end.n_steps(n_steps) for end in CANDIDATES[:VALIDATIONS]]
    held = np.isfinite(chosen.losses[END])
    if not held.any():
        return None
    losses = [losses[held] for losses in chosen.losses[:VALIDATIONS]]
    alarm, _ = overfit(losses, groups[held], steps)
    if alarm is None:
        return None
    action = f"the weights after {chosen.end.validation} fifths of the steps are kept"
    if chosen.end.share < 1:
        action = f"weights {chosen.end.share:.0%} of the way from the base model's are kept"
    return GuardNote(kind="overfit", step=alarm.step, action=action)


def forgetting(
    cka_by_block: Mapping[str, float], agreement: float | None, step: int
) -> Alarm | None:
    """Whether fine-tuned blocks lost their features, by `stats.cka` of before and after.

    `agreement` of the original head's predictions, None where it has none, decides nothing:
    fine-tuning changes most of them.
    """
    lost = {block: value for block, value in cka_by_block.items() if value < LEAST_SIMILARITY}
    if not lost:
        return None
    block = min(lost, key=lost.__getitem__)
    agreed = ""
    if agreement is not None:
        agreed = f"; its original head predicts the same as before for {agreement:.0%} of them"
    return Alarm(
        "forgetting",
        step,
        f"{len(lost)} of {len(cka_by_block)} fine-tuned blocks have lost the base model's features "
        f"(least similar: {block}, {lost[block]:.2f} on a scale from 0 to 1){agreed}",
    )


# ---- Forgetting, and how to undo some of it.

COMPARED_ROWS = 200  # examples on which forgetting is measured
TIE = 0.25  # standard errors of a loss within which less forgetting decides: RECIPE §2


@dataclass(frozen=True, slots=True)
class BaseModelAnswers:
    """The base model's features of some rows, at every layer that is fine-tuned."""

    training_data: TrainingDataset
    source: BatchSource
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
        scan, cut = plan_scan(self.training_data.extracted.network, layers), self.source.cut
        chunks = []
        for first in range(0, len(self.rows), PASS):  # all at once would be the run's peak memory
            inputs = self.source.plain(self.rows[first : first + PASS], layers)
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
    if ends := _earlier_ends(chosen, answers.training_data.labelled.groups()):
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
