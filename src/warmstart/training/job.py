"""One training of a network on some rows, repeated at a lower learning rate if a guard fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

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

SCALES = (1.0, 1 / 3, 1 / 9)  # of every learning rate: RECIPE §6, "rate/3, twice"


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network with its validation scores.

    `trainable` is None where no learning rate worked, and where a training with held-out rows
    was finished before an interruption. `scores`: of the held-out rows at each candidate end,
    (C, m, K), last those with a refitted head, if requested. `n_stages` counts the groups of
    blocks that joined; `scale` multiplied the learning rates that worked.
    """

    trainable: TrainableNetwork | None
    n_stages: int
    scores: Array
    scale: float
    guards: tuple[GuardNote, ...] = ()
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training: how its network is made, its rows, and its place among all trainings.

    `held`: rows to validate on, never trained on. `end`: how far it goes, None where that is to
    be found out. `scale` of every learning rate to begin with. `refit`: from a trained network to
    the scores of the held-out rows with a refitted head, (m, K).
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
    until: float | None = None  # deadline, of time.perf_counter

    def learn(self) -> Steps[TrainedNetwork]:
        """Train a fresh copy; check that frozen tensors did not change.

        A training that is stuck or diverges begins again at a third of its learning rates, twice.
        What was done before an interruption is taken from the checkpoints.
        Raises: TrainingError where a frozen tensor changed.
        """
        finished = self.context.checkpoints.load_finished(self.name)
        if finished is not None:
            return self._load_finished(finished)
        snapshot = self.context.checkpoints.load()
        if snapshot is not None and snapshot.facts.get("job") != self.number:
            snapshot = None
        notes = [GuardNote(**fields) for fields in snapshot.facts["guards"]] if snapshot else []
        first = float(snapshot.facts["scale"]) if snapshot else self.scale
        for scale in [s for s in SCALES if s <= first]:
            attempt = TrainingAttempt(self, scale, tuple(notes))
            alarm = yield from attempt.run(snapshot)
            snapshot = None
            if alarm is None:
                return self._finish(attempt, notes)
            is_last = scale == SCALES[-1] or attempt.is_idle
            action = (
                "training was given up"
                if is_last
                else "training began again at a third of the learning rates"
            )
            notes.append(GuardNote(kind=alarm.kind, step=alarm.step, action=action))
            yield guard(alarm.kind, f"{alarm.sentence}; {action}")
            if is_last:
                break
        scores = no_scores(attempt.trainable, self.held)
        failed = TrainedNetwork(None, 0, scores, scale, tuple(notes), has_failed=True)
        self._save_finished(failed)
        return failed

    @property
    def name(self) -> str:
        return f"training-{self.number}"

    @property
    def earlier(self) -> int:
        """Updates of the trainings before it."""
        return sum(self.context.steps[: self.number])

    @property
    def total(self) -> int:
        return sum(self.context.steps) or self.schedule.n_steps

    @property
    def is_last(self) -> bool:
        """Whether its network is shipped: nothing is held out."""
        return not len(self.held)

    def _finish(self, attempt: TrainingAttempt, notes: list[GuardNote]) -> TrainedNetwork:
        trainable, scores = attempt.trainable, attempt.validation.scores()
        attempt.load_end()
        trainable.model.cpu()
        self._check_frozen(trainable)
        if not np.isfinite(held_scores(trainable, self.context, self.rows[:PASS])).all():
            raise TrainingError(
                "the outputs of the trained network are not finite; use --strategy head."
            )
        if self.refit is not None:
            scores = np.concatenate([scores, self._refit_scores(attempt, self.refit)])
        trained = TrainedNetwork(
            trainable, attempt.unfreezing.n_joined, scores, attempt.scale, tuple(notes)
        )
        self._save_finished(trained, attempt)
        lora.merge(trainable.network.backbone)
        return trained

    def _refit_scores(
        self, attempt: TrainingAttempt, refit: Callable[[TrainableNetwork], Array]
    ) -> Array:
        """Scores of the held-out rows with a head refitted at some of the ends: (R, m, K).

        A contrastive training has but one end: NaN for the others.
        """
        scores = []
        for number in REFIT_ENDS[:1] if self.schedule.contrastive else REFIT_ENDS:
            with attempt.trainer.averaged(CANDIDATES[number].share):
                scores.append(refit(attempt.trainable))
        missing = [np.full_like(scores[0], np.nan)] * (len(REFIT_ENDS) - len(scores))
        return np.stack([*scores, *missing])

    def _save_finished(
        self, trained: TrainedNetwork, attempt: TrainingAttempt | None = None
    ) -> None:
        tensors = {"scores": torch.from_numpy(trained.scores)}
        if self.is_last and attempt is not None:
            moving = attempt.moving.items()  # by now every process holds all of it
            tensors |= {f"now.{name}": tensor.detach().cpu() for name, tensor in moving}
        facts = {
            "n_stages": trained.n_stages,
            "scale": trained.scale,
            "has_failed": trained.has_failed,
            "guards": [asdict(note) for note in trained.guards],
        }
        self.context.checkpoints.save_finished(self.name, Snapshot(tensors, facts))

    def _load_finished(self, snapshot: Snapshot) -> TrainedNetwork:
        facts, scores = snapshot.facts, snapshot.tensors["scores"].numpy()
        guards = tuple(GuardNote(**fields) for fields in facts["guards"])
        n_stages, scale = int(facts["n_stages"]), float(facts["scale"])
        trained = TrainedNetwork(None, n_stages, scores, scale, guards, bool(facts["has_failed"]))
        if trained.has_failed or not self.is_last:
            return trained
        attempt = TrainingAttempt(self, trained.scale, guards)
        attempt.trainer.put(attempt.trainer.local_shards("now", snapshot.tensors))
        attempt.trainable.model.cpu()
        self._check_frozen(attempt.trainable)
        lora.merge(attempt.trainable.network.backbone)
        return replace(trained, trainable=attempt.trainable)

    def _check_frozen(self, trainable: TrainableNetwork) -> None:
        changed = ledger.violations(self.context.digests, trainable.network, trainable.actions)
        if changed:
            raise TrainingError(
                f"{len(changed)} frozen tensors changed while training (first: {changed[0]}); "
                "nothing was shipped. This is a bug in warmstart or in the network: please report "
                "it."
            )
