"""One training on some rows: updates, validation, guards, checkpoints; it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.distributed import here
from warmstart.errors import TrainingError
from warmstart.events import Event, Steps, guard, note
from warmstart.features.batches import prefetch
from warmstart.machine import peak_rss_mb
from warmstart.network import freeze, ledger, lora
from warmstart.network.batch_norm import folded
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.weights import in_channels_last
from warmstart.planning.schedule import Schedule, stage_actions
from warmstart.records.block_actions import FRESH, Action
from warmstart.records.summary import GuardNote
from warmstart.solve.ridge import Array, Rows
from warmstart.training.augmentations import augmentation_numbers, draw_batches
from warmstart.training.batches import BatchSource, Inputs
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints, Snapshot
from warmstart.training.early_stopping import (
    CANDIDATES,
    PASS,
    REFIT_ENDS,
    GradualUnfreezing,
    TrainingEnd,
    ValidationScores,
    held_scores,
    no_scores,
    renew_statistics,
    spread,
)
from warmstart.training.guards import LEAST_CHANGE, Alarm, Watch, largest_change
from warmstart.training.trainable import TrainableNetwork, tensors_to_train
from warmstart.training.trainer import Trainer, choose_parallelism, make_pair_loss, warm_cosine

SCALES = (1.0, 1 / 3, 1 / 9)  # of every learning rate: RECIPE §6, "rate/3, twice"
COMPARED = 64  # rows on which answers before and after training are compared


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network with its validation scores.

    `trainable` is None where no learning rate worked, and for a fold's training from a checkpoint.
    `scores` (C, m, K) at each candidate end, last those with a refitted head, if requested.
    `n_stages` counts the groups of blocks that joined; `scale` multiplied the learning rates.
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

    `digests`: of the base model's tensors, before any training. `held`: rows to validate on, never
    trained on; the network is shipped where there are none. `number`: its place among all
    trainings, which make `steps` updates each. `end`: how far it goes, None where that is to be
    found out. `scale` of every learning rate to begin with. `refit`: from a trained network to the
    scores of the held-out rows with a refitted head, (m, K).
    """

    make: Callable[[], TrainableNetwork]
    schedule: Schedule
    source: BatchSource
    digests: Mapping[str, str]
    rows: Rows
    held: Rows
    number: int = 0
    steps: tuple[int, ...] = ()
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    end: TrainingEnd | None = None
    scale: float = 1.0
    refit: Callable[[TrainableNetwork], Array] | None = None
    until: float | None = None  # deadline, of time.perf_counter

    def learn(self) -> Steps[TrainedNetwork]:
        """Train a fresh copy, or load what was done before an interruption.

        A training that is stuck or diverges begins again at a third of its learning rates, twice.
        Raises: TrainingError where a frozen tensor changed.
        """
        finished = self.checkpoints.load_finished(self.name)
        if finished is not None:
            return self._load_finished(finished)
        snapshot = self.checkpoints.load()
        if snapshot is not None and snapshot.facts.get("job") != self.number:
            snapshot = None
        notes = [GuardNote(**fields) for fields in snapshot.facts["guards"]] if snapshot else []
        first = float(snapshot.facts["scale"]) if snapshot else self.scale
        for scale in [s for s in SCALES if s <= first]:
            attempt = TrainingAttempt(self, scale, tuple(notes))
            alarm = yield from attempt.run(snapshot)
            snapshot = None
            if alarm is None:
                return self._finish(attempt)
            is_last = scale == SCALES[-1] or attempt.is_idle
            action = "training began again at a third of the learning rates"
            if is_last:
                action = "training was given up"
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

    def _finish(self, attempt: TrainingAttempt) -> TrainedNetwork:
        trainable, scores = attempt.trainable, attempt.validation.scores()
        attempt.load_end()
        trainable.model.cpu()
        self._check_frozen(trainable)
        if not np.isfinite(held_scores(trainable, self.source, self.rows[:PASS])).all():
            raise TrainingError(
                "the outputs of the trained network are not finite; use --strategy head."
            )
        if self.refit is not None:
            # A contrastive training has but one end: NaN for the others.
            ends = REFIT_ENDS[:1] if self.schedule.contrastive else REFIT_ENDS
            refitted = np.full((len(REFIT_ENDS), *scores.shape[1:]), np.nan)
            for place, number in enumerate(ends):
                with attempt.trainer.averaged(CANDIDATES[number].share):
                    refitted[place] = self.refit(trainable)
            scores = np.concatenate([scores, refitted])
        n_joined = attempt.unfreezing.n_joined
        trained = TrainedNetwork(trainable, n_joined, scores, attempt.scale, attempt.guards)
        self._save_finished(trained, attempt)
        lora.merge(trainable.network.backbone)
        return trained

    def _save_finished(
        self, trained: TrainedNetwork, attempt: TrainingAttempt | None = None
    ) -> None:
        tensors = {"scores": torch.from_numpy(trained.scores)}
        if attempt is not None and not len(self.held):
            moving = attempt.moving.items()  # by now every process holds all of it
            tensors |= {f"now.{name}": tensor.detach().cpu() for name, tensor in moving}
        facts = {
            "n_stages": trained.n_stages,
            "scale": trained.scale,
            "has_failed": trained.has_failed,
            "guards": [asdict(note) for note in trained.guards],
        }
        self.checkpoints.save_finished(self.name, Snapshot(tensors, facts))

    def _load_finished(self, snapshot: Snapshot) -> TrainedNetwork:
        facts, scores = snapshot.facts, snapshot.tensors["scores"].numpy()
        guards = tuple(GuardNote(**fields) for fields in facts["guards"])
        n_stages, scale = int(facts["n_stages"]), float(facts["scale"])
        trained = TrainedNetwork(None, n_stages, scores, scale, guards, bool(facts["has_failed"]))
        if trained.has_failed or len(self.held):
            return trained
        attempt = TrainingAttempt(self, scale, guards)
        attempt.trainer.put(attempt.trainer.local_shards("now", snapshot.tensors))
        attempt.trainable.model.cpu()
        self._check_frozen(attempt.trainable)
        lora.merge(attempt.trainable.network.backbone)
        return replace(trained, trainable=attempt.trainable)

    def _check_frozen(self, trainable: TrainableNetwork) -> None:
        changed = ledger.violations(self.digests, trainable.network, trainable.actions)
        if changed:
            raise TrainingError(
                f"{len(changed)} frozen tensors changed while training (first: {changed[0]}); "
                "nothing was shipped. This is a bug in warmstart or in the network: please report "
                "it."
            )


class TrainingAttempt:
    """A training to its end, or to an alarm. `is_idle`: training changed nothing."""

    def __init__(self, job: TrainingJob, scale: float, guards: tuple[GuardNote, ...]) -> None:
        self.job, self.scale, self.guards = job, scale, guards
        self.trainable, schedule, labelled = job.make(), job.schedule, job.source.labelled
        model = self.trainable.model
        model.to(schedule.device)
        in_channels_last(model)
        blocks = UnfrozenBlocks(model, schedule.split_at, schedule.gradient_checkpointing)
        inputs = self._example_inputs()
        self.parallelism = choose_parallelism(self.trainable, blocks, schedule, inputs)
        self.moving = tensors_to_train(self.trainable)
        if schedule.contrastive:
            loss = make_pair_loss(schedule.contrastive_temperature)
            blind = 0.0  # pairs are compared with each other: there is no loss of guessing
        else:
            loss = labelled.target.summed_loss
            blind = labelled.target.blind_loss(labelled.labels[job.rows])
        self.trainer = Trainer(
            blocks,
            {name: t for name, t in self.moving.items() if self.parallelism.keeps(name)},
            schedule,
            loss,
            self.parallelism,
            renew=lambda: renew_statistics(
                self.validation, self.moving.values(), self.unfreezing.fit_rows, schedule.seed
            ),
        )
        has_trained_head = not schedule.contrastive
        self.validation = ValidationScores(
            job.source, job.held, self.trainable, self.trainer, has_trained_head
        )
        self.stages = stage_actions(schedule, self.trainable.actions)
        is_judged = len(self.stages) > 1 and job.end is None
        self.unfreezing = GradualUnfreezing(self.validation, job.rows, schedule.seed, is_judged)
        self._end = job.end or TrainingEnd()
        last = self._steps_of(len(self.stages[: self._end.n_stages]) - 1, schedule.n_steps).stop
        self._n_steps = min(self._end.n_steps(schedule.n_steps), last)
        self.is_idle = False
        self._stopped = 0  # after so many updates, where the time ran out
        self._watch = Watch(
            n_steps=schedule.n_steps,
            warm_up=schedule.warmup,
            blind=blind,
            begins_fitted=FRESH.name not in self.trainable.actions.values(),
        )
        self._updated, self._seconds = time.perf_counter(), 0.0  # per update, smoothed

    def run(self, snapshot: Snapshot | None = None) -> Steps[Alarm | None]:
        """Train from `snapshot` on; returns the alarm that ended it, None at its end."""
        first = int(snapshot.facts["stage"]) if snapshot else 0
        if snapshot is None:
            self.validation.begin()
            self.unfreezing.begin()
        for number, actions in enumerate(self.stages[: self._end.n_stages]):
            steps = self._steps_of(number, self._n_steps)
            if number < first or not steps:
                continue
            alarm = yield from self._run_stage(number, actions, steps, snapshot)
            snapshot = None
            if alarm is not None:
                return alarm
            has_joined = self.unfreezing.accept(number)
            if not has_joined:
                self.validation.discard_after(steps.start, self.job.schedule.n_steps)
            if self._is_over(steps.stop):
                text = f"after {self._stopped:,} of {self._n_steps:,} updates: out of time"
                yield note("fine_tune", "Stopped", text)
            if not has_joined or self._stopped:
                break
        if not len(self.job.held):
            sharding = self.parallelism.sharding_note()
            if sharding is not None:
                yield sharding
        return self._check_end()

    def load_end(self) -> None:
        """Leave the network with the weights of its end."""
        self.trainer.load_average(self._end.share)

    def _steps_of(self, number: int, stop: int) -> range:
        total, n = self.job.schedule.n_steps, len(self.stages)
        return range(total * number // n, min(total * (number + 1) // n, stop))

    def _run_stage(
        self, number: int, actions: Mapping[str, Action], steps: range, snapshot: Snapshot | None
    ) -> Steps[Alarm | None]:
        model, schedule, begin = self.trainable.model, self.job.schedule, steps.start
        # A training that ends early follows the same curve.
        n_steps = len(self._steps_of(number, schedule.n_steps))
        curve = warm_cosine(n_steps, schedule.warmup, falls=not schedule.contrastive)
        with (
            freeze.FrozenBlocks(model, actions, self.trainable.owners) as frozen,
            folded(
                model, frozen.eval_modules if self.parallelism.allows_fusion else (), self._probe
            ),
        ):
            self.trainer.begin(self._parameter_groups(actions))
            if snapshot is not None:
                begin = self._restore(snapshot)
            batches = self._batches(number, steps, begin, frozen)
            try:
                for step in self.trainer.train(batches, lambda i: curve(i - steps.start), begin):
                    done = step.index + 1
                    alarm = self._watch.see(done, step.loss)
                    if alarm is not None:
                        self.parallelism.end()
                        return alarm
                    factor = round(step.factor * self.scale, 6)
                    values = {"loss": round(step.loss, 6), "factor": factor}
                    values |= self.validation.validate(done, schedule.n_steps)
                    yield from self._report_step(number, done, values)
                    if self._is_over(done):
                        break
            finally:
                batches.close()
                model.eval()
            self.parallelism.end()
        return None

    def _probe(self) -> Tensor:
        self.trainable.model.eval()
        device = self.job.schedule.device
        return self.parallelism.run(*(value.to(device) for value in self._example_inputs()))

    def _example_inputs(self) -> Inputs:
        return self.job.source.plain(spread(self.job.rows, 2), self.trainable.feature_layers)

    def _is_over(self, done: int) -> bool:
        until = self.job.until
        if until is not None and done < self._n_steps and here().same(time.perf_counter() > until):
            self._stopped = self._stopped or done
        return self._stopped > 0

    def _parameter_groups(self, actions: Mapping[str, Action]) -> list[dict[str, Any]]:
        ready = self.trainable
        groups = freeze.groups(ready.model, actions, ready.owners, ready.rates)
        for group in groups:
            group["lr"] *= self.scale
            group["is_anchored"] = not freeze.behaviour_of(actions, group["block"]).is_new
        return groups

    def _batches(
        self, number: int, steps: range, begin: int, frozen: freeze.FrozenBlocks
    ) -> Generator[tuple[Inputs, Tensor], None, None]:
        """Inputs and labels of each step from `begin` on; the order is that of the whole stage."""
        schedule, source, rows = self.job.schedule, self.job.source, self.unfreezing.fit_rows
        rng = np.random.default_rng([schedule.seed, self.job.number, number])
        batches = draw_batches(len(rows), schedule.batch_size, len(steps), rng)

        def make(batch: tuple[Rows, Rows]) -> tuple[Inputs, Tensor]:
            chosen, numbers = rows[batch[0]], augmentation_numbers(batch[1], schedule)
            inputs = source.batch(chosen, numbers, self.trainable.feature_layers)
            return inputs, source.targets(chosen)

        remaining = islice(batches, begin - steps.start, None)
        for inputs, labels in prefetch(make, remaining, schedule.workers):
            # A validation leaves the network in eval mode.
            self.trainable.model.train(self.validation.has_trained_head)  # no dropout for few pairs
            frozen.rest()
            yield tuple(value.to(schedule.device) for value in inputs), labels.to(schedule.device)

    def _report_step(self, number: int, done: int, values: dict[str, float]) -> Steps[None]:
        job, batch_size = self.job, self.job.schedule.batch_size
        now = time.perf_counter()
        elapsed, self._updated = now - self._updated, now
        self._seconds = elapsed if not self._seconds else 0.9 * self._seconds + 0.1 * elapsed
        details = {
            **values,
            "epoch": round(done * batch_size / len(self.unfreezing.fit_rows), 2),
            "job": job.number + 1,
            "per_second": round(batch_size / max(self._seconds, 1e-9), 1),
            "memory_mb": peak_rss_mb(),
        }
        of_all = sum(job.steps[: job.number]) + done
        total = sum(job.steps) or job.schedule.n_steps
        try:
            yield Event(stage="fine_tune", kind="step", step=of_all, of=total, values={**details})
        except GeneratorExit:
            if self.parallelism.is_whole:  # else the others would have to save as well
                self._save(number, done)
            raise
        if self.parallelism.agree(job.checkpoints.is_due):
            self._save(number, done)

    def _check_end(self) -> Alarm | None:
        """Last validation; an alarm where training changed nothing, or ruined the weights."""
        has_trained_head = self.validation.has_trained_head
        rows = spread(self.job.rows, COMPARED if has_trained_head else COMPARED // 4)
        after = self.validation.scores_at(1.0, rows)
        self.validation.finish()
        if not np.isfinite(after).all() or not self.validation.are_finite:
            sentence = "the network's outputs are no longer finite"
            return Alarm("diverged", self.job.schedule.n_steps, sentence)
        if not self.unfreezing.n_joined or self._stopped:
            return None  # no group of blocks helped, or time ran out: not the learning rate's fault
        is_whole = self._end == TrainingEnd(n_stages=self._end.n_stages)
        loss = self.validation.loss(after, rows) if is_whole and has_trained_head else None
        of_classes = self.job.source.labelled.target.has_classes
        before = self.validation.scores_at(0.0, rows)
        change = largest_change(before, after, of_classes=of_classes)
        self.is_idle = change < LEAST_CHANGE
        return self._watch.finish(change, loss)

    def _save(self, number: int, step: int) -> None:
        tensors = self.trainer.tensors() | self.validation.tensors() | self.unfreezing.tensors()
        facts = {
            "job": self.job.number,
            "scale": self.scale,
            "stage": number,
            "step": step,
            "watch": self._watch.state,
            "trainer": self.trainer.facts(),
            "unfreezing": self.unfreezing.facts(),
            "guards": [asdict(note) for note in self.guards],
        }
        checkpoints = self.job.checkpoints
        write = checkpoints.save if self.parallelism.is_whole else checkpoints.save_jointly
        write(Snapshot(tensors, facts))

    def _restore(self, snapshot: Snapshot) -> int:
        """Restore a snapshot; returns the step to resume at."""
        facts = snapshot.facts
        self.trainer.restore(snapshot.tensors, facts["trainer"])
        self.validation.restore(snapshot.tensors)
        self.unfreezing.restore(snapshot.tensors, facts["unfreezing"])
        self._watch.restore(facts["watch"])
        return int(facts["step"])
