"""Training parts of the network: once for each fold that is held out, then on all examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from warmstart.data.split import folds
from warmstart.events import Event, Steps, drain
from warmstart.joints import rows
from warmstart.joints.lesson import Lesson, Room, Taught, scores_of
from warmstart.joints.live import read_pixels, second_look
from warmstart.joints.look import n_threads
from warmstart.joints.notes import note
from warmstart.joints.outfit import outfit
from warmstart.joints.rows import Reader
from warmstart.joints.scene import Scene
from warmstart.joints.score import as_it_came, compared, estimate, head_probabilities
from warmstart.network.parts import Network
from warmstart.planning.schedule import carried_out, schedule, stage_actions
from warmstart.records import Action, Estimate, Plan
from warmstart.solve.ridge import Array, Rows
from warmstart.solve.temperature import Calibration
from warmstart.training.crossfit import cross_calibrated
from warmstart.training.head import HeadFit, fit_head
from warmstart.training.loop import ScaledHead
from warmstart.training.trials import Problem, groups_within

HELD_ONCE = 5  # one part in five is held out where a single training makes the estimate


@dataclass(frozen=True, slots=True)
class Worked:
    """The network that came out, its head, and a reader of its taps.

    `plan` is the plan as it was carried out: parts that did not join are frozen in it.
    `actions` is None where nothing was trained step by step. `step_zero` is what the fitted
    head is worth without training, on the same rows; or a run's own output, before any new one
    was fitted. `compared` says in words what training brought, where that is not chance.
    """

    network: Network
    head: HeadFit
    reader: Reader
    plan: Plan
    actions: dict[str, Action] | None = None
    step_zero: Estimate | None = None
    compared: str = ""


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """What trainings without them said of held-out rows.

    Shapes: scores (n, K) after training, before (n, K) probabilities of the heads that those
    trainings began with, fold (n,); NaN and -1 for rows that were never held out.
    """

    scores: Array
    before: Array
    fold: Rows
    joined: int  # groups of parts, the median


def tune(scene: Scene, plan: Plan, head: HeadFit, digests: Mapping[str, str]) -> Steps[Worked]:
    """Train what the plan says; the network as it was looked at where it trains nothing.

    `digests` are those of the start's tensors, taken before the run touched any.

    The estimate comes from trainings that held rows out, each with a head fitted without
    them; then the network is trained on all rows.
    Raises: TrainingError if training diverges, or if a frozen tensor changed.
    """
    if not plan.is_trained:
        read = scene.look.reader(scene.arranged.learn)
        came = as_it_came(scene.prior, scene.arranged, read)
        return Worked(scene.look.network, head, scene.look.reader, plan, step_zero=came)
    yield Event(stage="tune", kind="begin")
    torch.set_num_threads(n_threads())
    folds_held = _held_out(scene, schedule(plan).folds)
    room = Room(
        pixels=read_pixels(scene.collection, scene.arranged.learn, scene.prep),
        labels=scene.arranged.labels, blocks=scene.arranged.blocks(), prep=scene.prep,
        before=digests, n_lessons=len(folds_held) + 1,
    )  # fmt: skip
    held = yield from _train_without(scene, plan, room, folds_held)
    yield from _tell_joined(plan, held.joined)
    everything, number = np.arange(len(room.labels)), len(folds_held)
    taught = yield from _lesson(scene, plan, head, room, everything, number, held.joined)
    tuned = _as_head(taught, head, held, room)
    reader = second_look(taught.outfit.network, tuned.taps, scene.collection, scene.prep)
    yield Event(stage="tune", kind="end", values={"joined": held.joined})
    before = replace(head, probabilities=held.before, fold=held.fold)
    return Worked(
        network=taught.outfit.network, head=tuned, reader=reader,
        plan=carried_out(plan, held.joined), actions=taught.outfit.actions,
        step_zero=estimate(before, scene.arranged),
        compared=compared(before, tuned, scene.arranged, scene.seed),
    )  # fmt: skip


def _train_without(
    scene: Scene, plan: Plan, room: Room, folds_held: Sequence[Rows]
) -> Steps[_HeldOut]:
    """One training for each fold, on all rows but those; what they say of them."""
    everything, shape = np.arange(len(room.labels)), (len(room.labels), scene.arranged.n_classes)
    scores, before = np.full(shape, np.nan), np.full(shape, np.nan)
    fold = np.full(len(everything), -1, dtype=np.int64)
    joined: list[int] = []
    for number, held in enumerate(folds_held):
        keep = np.setdiff1d(everything, held)
        fitted = _head_on(scene, plan, keep)
        before[held] = head_probabilities(fitted, scene.look.reader(scene.examples(held)))
        taught = yield from _lesson(scene, plan, fitted, room, keep, number, None)
        scores[held] = scores_of(taught.outfit, room, held)
        fold[held] = number
        joined.append(taught.n_stages)
    return _HeldOut(scores, before, fold, int(np.median(joined)))


def _tell_joined(plan: Plan, joined: int) -> Steps[None]:
    """How many groups of layers joined, where they join one after the other."""
    groups = len(stage_actions(schedule(plan), {}))
    if groups > 1:
        text = f"{joined} of {groups} groups of layers joined"
        text += "" if joined == groups else "; one more did not help on examples set apart"
        yield note("tune", "Joined", text)


def _lesson(
    scene: Scene,
    plan: Plan,
    head: HeadFit,
    room: Room,
    keep: Rows,
    number: int,
    n_stages: int | None,
) -> Steps[Taught]:
    """One training of a fresh copy of the start on some rows."""
    read = scene.look.reader(scene.examples(keep))
    ready = outfit(scene.look.network, plan, head, read, scene.seed)
    lesson = Lesson(ready, schedule(plan), room, keep, number, n_stages)
    return (yield from lesson.learn())


def _held_out(scene: Scene, n_folds: int) -> list[Rows]:
    """The rows of each fold: the user's own hold-out, or whole blocks."""
    arranged, n = scene.arranged, len(scene.arranged.learn)
    if arranged.holdout:
        return [np.arange(n - arranged.holdout, n)]
    rng = np.random.default_rng([scene.seed, 7])
    part = folds(arranged.labels, arranged.blocks(), HELD_ONCE if n_folds == 1 else n_folds, rng)
    return [np.flatnonzero(part == f) for f in range(1 if n_folds == 1 else int(part.max()) + 1)]


def _head_on(scene: Scene, plan: Plan, keep: Rows) -> HeadFit:
    """The plan's head, chosen and fitted on some rows alone."""
    arranged = scene.arranged
    problem = Problem(
        labels=arranged.labels[keep], n_classes=arranged.n_classes,
        groups=tuple(groups_within(arranged.groups, keep, len(arranged.learn))), folds=(),
    )  # fmt: skip
    read = scene.look.reader(scene.examples(keep))
    return drain(fit_head(rows.heads(plan, scene.profiles, read, len(keep), scene.prior), problem))


def _as_head(taught: Taught, head: HeadFit, held: _HeldOut, room: Room) -> HeadFit:
    """The trained head in the form that closed-form heads have, calibrated on held-out rows.

    Divided by the temperature that it began with, its scores lie between 0 and 1 again; the
    class bias of the fitted head stands in its bias already.
    """
    warmth = head.calibration.temperature or 1.0  # 0: the fitted head says the same of all
    weight, bias = cast(ScaledHead, taught.outfit.model.head).plain()
    plain = Calibration(warmth, np.zeros(len(head.bias)))
    probabilities, calibration = cross_calibrated(
        held.scores / warmth, room.labels, held.fold, room.blocks, plain
    )
    is_fresh = "fresh" in taught.outfit.actions.values()
    return replace(
        head, name="linear" if is_fresh else head.name, taps=taught.outfit.taps,
        weight=(weight / warmth).float().numpy(),
        bias=(bias / warmth).float().numpy(), calibration=calibration,
        probabilities=probabilities, fold=held.fold, picks=(),
    )  # fmt: skip
