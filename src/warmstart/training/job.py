"""One training of an outfitted network on some rows, at a lower rate where a guard asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from warmstart.errors import TrainingError
from warmstart.events import Steps, guard
from warmstart.network import ledger, lora
from warmstart.planning.schedule import Schedule
from warmstart.records.summary import GuardNote
from warmstart.solve.ridge import Array, Rows
from warmstart.training.attempt import TrainingAttempt
from warmstart.training.checkpoint import Snapshot
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import TrainableNetwork
from warmstart.training.validation import (
    CANDIDATES,
    PASS,
    REFIT_ENDS,
    TrainingEnd,
    held_scores,
    no_scores,
)

SCALES = (1.0, 1 / 3, 1 / 9)  # of every rate: RECIPE §6, "rate/3, twice"


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network, and what was seen on the way.

    `trainable` is None where no rate worked, and where a training that held rows out had been
    finished before an interruption. `scores` holds what each candidate says of the rows
    held out, (C, m, K), last those with an output fitted anew, where that was asked for.
    `n_stages` counts the groups of parts that joined; `scale` is that of the rates that worked.
    """

    trainable: TrainableNetwork | None
    n_stages: int
    scores: Array
    scale: float
    guards: tuple[GuardNote, ...] = ()
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training: how its outfit is made, its rows, and its place among all trainings.

    `held`: rows that it must not learn from and that are looked at on the way. `end`: how
    far it goes, None where that is to be found out. `scale` of every rate to begin with.
    `refit`: from a trained outfit to what an output fitted anew says of rows held out, (m, K).
    """

    make: Callable[[], TrainableNetwork]
    schedule: Schedule
    context: TrainingContext
    rows: Rows
    held: Rows
    number: int
    end: TrainingEnd | None = None
    scale: float = 1.0
    refit: Callable[[TrainableNetwork], Array] | None = None
    until: float | None = None  # of time.perf_counter: when it has to end

    def learn(self) -> Steps[TrainedNetwork]:
        """Train a fresh outfit; prove that what is frozen stayed as it was.

        A training that is stuck or has diverged begins anew at a third of its rates, twice.
        What was done before an interruption is taken from the checkpoints.
        Raises: TrainingError where a frozen tensor changed.
        """
        kept = self.context.checkpoints.kept(self.name)
        if kept is not None:
            return self._again(kept)
        saved = self.context.checkpoints.load()
        if saved is not None and saved.facts.get("job") != self.number:
            saved = None
        notes = [GuardNote(**fields) for fields in saved.facts["guards"]] if saved else []
        begin = float(saved.facts["scale"]) if saved else self.scale
        for scale in [s for s in SCALES if s <= begin]:
            attempt = TrainingAttempt(self, scale, tuple(notes))
            alarm = yield from attempt.run(saved)
            saved = None
            if alarm is None:
                return self._taught(attempt, notes)
            is_last = scale == SCALES[-1] or attempt.is_idle
            done = _ACTIONS[is_last]
            notes.append(GuardNote(kind=alarm.kind, step=alarm.step, action=done))
            yield guard(alarm.kind, f"{alarm.sentence}; {done}")
            if is_last:
                break
        scores = no_scores(attempt.trainable, self.held)
        failed = TrainedNetwork(None, 0, scores, scale, tuple(notes), has_failed=True)
        self._keep(failed)
        return failed

    @property
    def name(self) -> str:
        """What it is called among the checkpoints."""
        return f"lesson-{self.number}"

    @property
    def earlier(self) -> int:
        """Updates of the trainings before it."""
        return sum(self.context.steps[: self.number])

    @property
    def total(self) -> int:
        """Updates of all trainings."""
        return sum(self.context.steps) or self.schedule.n_steps

    @property
    def is_last(self) -> bool:
        """Whether its network is shipped: nothing is held out."""
        return not len(self.held)

    def _taught(self, attempt: TrainingAttempt, notes: list[GuardNote]) -> TrainedNetwork:
        trainable, scores = attempt.trainable, attempt.validation.scores()
        attempt.settle()
        trainable.model.cpu()
        self._prove(trainable)
        if not np.isfinite(held_scores(trainable, self.context, self.rows[:PASS])).all():
            raise TrainingError(
                "the trained network's answers are not numbers; use --strategy head."
            )
        if self.refit is not None:
            scores = np.concatenate([scores, self._refitted(attempt, self.refit)])
        trained = TrainedNetwork(
            trainable, attempt.unfreezing.joined, scores, attempt.scale, tuple(notes)
        )
        self._keep(trained, attempt)
        lora.merge(trainable.network.backbone)
        return trained

    def _refitted(
        self, attempt: TrainingAttempt, refit: Callable[[TrainableNetwork], Array]
    ) -> Array:
        """What outputs fitted anew at some of the ends say of the rows held out: (R, m, K).

        After few updates there is but one end: NaN for the others.
        """
        found = []
        for number in REFIT_ENDS[:1] if self.schedule.contrastive else REFIT_ENDS:
            with attempt.trainer.shown(CANDIDATES[number].share):
                found.append(refit(attempt.trainable))
        nothing = [np.full_like(found[0], np.nan)] * (len(REFIT_ENDS) - len(found))
        return np.stack([*found, *nothing])

    def _keep(self, trained: TrainedNetwork, attempt: TrainingAttempt | None = None) -> None:
        tensors = {"scores": torch.from_numpy(trained.scores)}
        if self.is_last and attempt is not None:
            moving = attempt.moving.items()  # by now every process holds all of it
            tensors |= {f"now.{name}": tensor.detach().cpu() for name, tensor in moving}
        facts = {
            "n_stages": trained.n_stages,
            "scale": trained.scale,
            "has_failed": trained.has_failed,
            "guards": [vars_of(one) for one in trained.guards],
        }
        self.context.checkpoints.keep(self.name, Snapshot(tensors, facts))

    def _again(self, kept: Snapshot) -> TrainedNetwork:
        """A training that was finished before an interruption."""
        facts, scores = kept.facts, kept.tensors["scores"].numpy()
        guards = tuple(GuardNote(**fields) for fields in facts["guards"])
        trained = TrainedNetwork(
            None,
            int(facts["n_stages"]),
            scores,
            float(facts["scale"]),
            guards,
            bool(facts["has_failed"]),
        )
        if trained.has_failed or not self.is_last:
            return trained
        attempt = TrainingAttempt(self, trained.scale, guards)
        attempt.trainer.put(attempt.trainer.kept("now", kept.tensors))
        attempt.trainable.model.cpu()
        self._prove(attempt.trainable)
        lora.merge(attempt.trainable.network.backbone)
        return replace(trained, trainable=attempt.trainable)

    def _prove(self, trainable: TrainableNetwork) -> None:
        moved = ledger.violations(self.context.digests, trainable.network, trainable.actions)
        if moved:
            raise TrainingError(
                f"{len(moved)} frozen tensors changed while training (first: {moved[0]}); nothing "
                "was shipped. This is a fault of warmstart or of the network: please report it."
            )


_ACTIONS = {
    False: "training began anew at a third of the rates",
    True: "training was given up",
}


def vars_of(guard: GuardNote) -> dict[str, str | int]:
    """A guard's note as plain values."""
    return {"kind": guard.kind, "step": guard.step, "action": guard.action}
