"""One attempt at a training: updates, looks, guards, checkpoints; it can be gone on with."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from warmstart.distributed import here
from warmstart.events import Event, Steps, note
from warmstart.features.batches import ahead
from warmstart.machine import peak_rss_mb
from warmstart.network import freeze
from warmstart.network.conv_bn_fusion import folded
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.tensors import in_channels_last
from warmstart.planning.actions import NEW
from warmstart.planning.schedule import Schedule, stage_actions
from warmstart.records.plan import Action
from warmstart.records.summary import GuardNote
from warmstart.solve.ridge import Rows
from warmstart.training.augmentations import draw_batches
from warmstart.training.checkpoint import Snapshot
from warmstart.training.distributed import report_sharding, choose_parallelism
from warmstart.training.gradual_unfreezing import GradualUnfreezing
from warmstart.training.guards import LEAST_CHANGE, Alarm, Watch, largest_change
from warmstart.training.loop import BatchLoss, make_pair_loss, summed_loss, warm_cosine
from warmstart.training.shared import Inputs, augmentation_numbers
from warmstart.training.trainable import TrainableNetwork, tensors_to_train
from warmstart.training.trainer import LAG, Trainer, UpdateRule
from warmstart.training.validation import TrainingEnd, ValidationScores, renew_statistics, spread

if TYPE_CHECKING:
    from warmstart.training.job import TrainingJob


COMPARED = 64  # rows on which it is seen whether answers moved at all


class TrainingAttempt:
    """A training from its start to its end, or to an alarm.

    `guards` tells of earlier attempts, for the checkpoints. `is_idle`: training moved nothing.
    """

    def __init__(self, job: TrainingJob, scale: float, guards: tuple[GuardNote, ...]) -> None:
        self.job, self.scale, self.guards = job, scale, guards
        self.trainable, schedule = job.make(), job.schedule
        self.trainable.model.to(schedule.device)
        in_channels_last(self.trainable.model)
        tail = UnfrozenBlocks(
            self.trainable.model, schedule.split_at, schedule.gradient_checkpointing
        )
        self.way = choose_parallelism(self.trainable, tail, schedule, self._few())
        self.moving = tensors_to_train(self.trainable)
        moving = {name: t for name, t in self.moving.items() if self.way.keeps(name)}
        loss = _loss(job)
        self.trainer = Trainer(
            tail,
            moving,
            _course(schedule),
            loss,
            self.way,
            renew=lambda: renew_statistics(
                self.validation, self.moving.values(), self.unfreezing.fit, schedule.seed
            ),
        )
        says = not schedule.contrastive  # else the output is left behind
        self.validation = ValidationScores(job.context, job.held, self.trainable, self.trainer, says)
        self.stages = stage_actions(schedule, self.trainable.actions)
        is_judged = len(self.stages) > 1 and job.end is None
        self.unfreezing = GradualUnfreezing(self.validation, job.rows, schedule.seed, is_judged)
        self._end_of = job.end or TrainingEnd()
        last = self._steps_of(len(self.stages[: self._end_of.n_stages]) - 1, schedule.n_steps).stop
        self._goal = min(self._end_of.n_steps(schedule.n_steps), last)  # updates in all
        self.is_idle = False
        self._stopped = 0  # after so many updates, where the time was over before they were
        self._watch = _watch(job, self.trainable)
        self._clock = _Clock(schedule.batch_size)

    def run(self, saved: Snapshot | None = None) -> Steps[Alarm | None]:
        """Train; the alarm that ended it, None where it came to its end.

        `saved`: the state that an earlier process left this attempt in.
        """
        job, end = self.job, self._end_of
        first = int(saved.facts["stage"]) if saved else 0
        if saved is None:
            self.validation.begin()
            self.unfreezing.begin()
        for number, actions in enumerate(self.stages[: end.n_stages]):
            steps = self._steps_of(number, self._goal)
            if number < first or not steps:
                continue
            alarm = yield from self._stage(number, actions, steps, saved)
            saved = None
            if alarm is not None:
                return alarm
            has_joined = self.unfreezing.joins(number)
            if not has_joined:
                self.validation.forget(steps.start, job.schedule.n_steps)
            if self._is_over(steps.stop):
                yield note("fine_tune", "Stopped", self._over())
            if not has_joined or self._stopped:
                break
        if job.is_last:
            yield from report_sharding(self.way)
        return self._end()

    def settle(self) -> None:
        """Leave the network with the weights of its route."""
        self.trainer.settle(self._end_of.share)

    def _steps_of(self, number: int, stop: int) -> range:
        total, n = self.job.schedule.n_steps, len(self.stages)
        return range(total * number // n, min(total * (number + 1) // n, stop))

    def _stage(
        self, number: int, actions: Mapping[str, Action], steps: range, saved: Snapshot | None
    ) -> Steps[Alarm | None]:
        model, begin = self.trainable.model, steps.start
        with (
            freeze.hold(model, actions, self.trainable.owners) as held,
            folded(model, held.eval_modules if self.way.is_near else (), self._probe),
        ):
            self.trainer.begin(self._groups(actions))
            if saved is not None:
                begin = self._restore(saved)
            feed = self._batches(number, steps, begin)
            try:
                for step, (inputs, labels) in zip(range(begin, steps.stop), feed, strict=False):
                    model.train(self.validation.says)  # few updates of pairs drop nothing out
                    held.rest()
                    factor = self._factor(number, step)
                    loss = self.trainer.update(step, factor, inputs, labels)
                    alarm = self._watch.see(step + 1, loss)
                    if alarm is not None:
                        self.way.end()
                        return alarm
                    values = {"loss": round(loss, 6), "factor": round(factor * self.scale, 6)}
                    values |= self.validation.extracted(step + 1, self.job.schedule.n_steps)
                    yield from self._told(number, step, values)
                    if self._is_over(step + 1):
                        break
            finally:
                feed.close()
                model.eval()
            self.way.end()
        return None

    def _probe(self) -> Tensor:
        """Outputs for two images, in eval mode."""
        self.trainable.model.eval()
        device = self.job.schedule.device
        return self.way.run(*(value.to(device) for value in self._few()))

    def _few(self) -> Inputs:
        """Two images as they are."""
        return self.job.context.plain(spread(self.job.rows, 2), self.trainable.feature_layers)

    def _is_over(self, done: int) -> bool:
        """Whether the time is over before the steps are."""
        until = self.job.until
        if until is not None and done < self._goal and here().same(time.perf_counter() > until):
            self._stopped = self._stopped or done
        return self._stopped > 0

    def _over(self) -> str:
        return f"after {self._stopped:,} of {self._goal:,} updates: the minutes were over"

    def _groups(self, actions: Mapping[str, Action]) -> list[dict[str, Any]]:
        found = freeze.groups(
            self.trainable.model, actions, self.trainable.owners, self.trainable.rates
        )
        for group in found:
            group["lr"] *= self.scale
            group["is_anchored"] = freeze.action_of(actions, group["block"]) not in NEW
        return found

    def _factor(self, number: int, step: int) -> float:
        """Warm-up and cosine of a stage; a route that ends early ends on the same curve."""
        chosen = self.job.schedule
        whole = self._steps_of(number, chosen.n_steps)
        return warm_cosine(len(whole), chosen.warmup, falls=not chosen.contrastive)(
            step - whole.start
        )

    def _batches(
        self, number: int, steps: range, begin: int
    ) -> Generator[tuple[Inputs, Tensor], None, None]:
        """Inputs and labels of each step from `begin` on; drawn as from the stage's first."""
        chosen, context, rows = self.job.schedule, self.job.context, self.unfreezing.fit
        rng = np.random.default_rng([chosen.seed, self.job.number, number])
        drawn = islice(
            draw_batches(len(rows), chosen.batch_size, len(steps), rng), begin - steps.start, None
        )

        def make(one: tuple[Rows, Rows]) -> tuple[Inputs, Tensor]:
            places, visits = rows[one[0]], augmentation_numbers(one[1], chosen)
            return context.source.batch(
                places, visits, self.trainable.feature_layers
            ), context.targets(places)

        for inputs, labels in ahead(make, drawn, chosen.workers):
            yield tuple(value.to(chosen.device) for value in inputs), labels.to(chosen.device)

    def _told(self, number: int, step: int, values: dict[str, float]) -> Steps[None]:
        """The event of an update; a checkpoint where one is due, or where the caller stops."""
        job = self.job
        seen = (step + 1) * job.schedule.batch_size
        told = {
            **values,
            "epoch": round(seen / len(self.unfreezing.fit), 2),
            "job": job.number + 1,
            "per_second": self._clock.per_second(),
            "memory_mb": peak_rss_mb(),
        }
        done, total = job.earlier + step + 1, job.total
        try:
            yield Event(stage="fine_tune", kind="step", step=done, of=total, values={**told})
        except GeneratorExit:
            if self.way.is_whole:  # else the others would have to tell of theirs
                self._save(number, step + 1)
            raise
        if self.way.agreed(job.context.checkpoints.is_due):
            self._save(number, step + 1)

    def _end(self) -> Alarm | None:
        """The last looks; an alarm where training moved nothing, or ruined the weights."""
        most = COMPARED if self.validation.says else COMPARED // 4
        some, n_steps = spread(self.job.rows, most), self.job.schedule.n_steps
        ended = self.validation.shown(1.0, some)
        self.validation.finish()
        if not np.isfinite(ended).all() or not self.validation.are_finite:
            what = "the network's answers are not numbers any more"
            return Alarm(kind="diverged", step=n_steps, sentence=what)
        if not self.unfreezing.joined or self._stopped:
            return None  # no group of parts helped, or there was no time: no fault of the rate
        is_whole = self._end_of == TrainingEnd(n_stages=self._end_of.n_stages)
        is_judged = is_whole and self.validation.says
        loss = self.validation.loss(ended, some) if is_judged else None
        of_classes = self.job.context.target.tells_classes
        moved = largest_change(self.validation.shown(0.0, some), ended, of_classes=of_classes)
        self.is_idle = moved < LEAST_CHANGE
        return self._watch.finish(moved, loss)

    # ---- checkpoints -----------------------------------------------------------------------

    def _save(self, number: int, step: int) -> None:
        tensors = {**self.trainer.tensors(), **self.validation.tensors(), **self.unfreezing.tensors()}
        facts = {
            "job": self.job.number,
            "scale": self.scale,
            "stage": number,
            "step": step,
            "watch": self._watch.state,
            "trainer": self.trainer.facts(),
            "joining": self.unfreezing.facts(),
            "guards": [{"kind": g.kind, "step": g.step, "action": g.action} for g in self.guards],
        }
        checkpoints = self.job.context.checkpoints
        write = checkpoints.save if self.way.is_whole else checkpoints.save_jointly
        write(Snapshot(tensors, facts))

    def _restore(self, saved: Snapshot) -> int:
        """Be as when this was saved; the step to go on with."""
        facts = saved.facts
        self.trainer.restore(saved.tensors, facts["trainer"])
        self.validation.restore(saved.tensors)
        self.unfreezing.restore(saved.tensors, facts["joining"])
        self._watch.restore(facts["watch"])
        return int(facts["step"])


class _Clock:
    """Images a second, smoothed."""

    def __init__(self, batch: int) -> None:
        self._batch, self._last, self._seconds = batch, time.perf_counter(), 0.0

    def per_second(self) -> float:
        """After one more update."""
        now = time.perf_counter()
        took, self._last = now - self._last, now
        self._seconds = took if not self._seconds else 0.9 * self._seconds + 0.1 * took
        return round(self._batch / max(self._seconds, 1e-9), 1)


def _loss(job: TrainingJob) -> BatchLoss:
    chosen = job.schedule
    return (
        make_pair_loss(chosen.contrastive_temperature)
        if chosen.contrastive
        else summed_loss(job.context.target)
    )


def _course(chosen: Schedule) -> UpdateRule:
    return UpdateRule(
        optimizer=chosen.optimizer,
        weight_decay=chosen.weight_decay,
        ema_decay=chosen.ema_decay,
        lag=1 if chosen.contrastive else LAG,
        l2_sp=chosen.l2_sp,
        micro_batch=chosen.micro_batch or chosen.batch_size,
        device=chosen.device,
        precision=chosen.precision,
        seed=chosen.seed,
    )


def _watch(job: TrainingJob, trainable: TrainableNetwork) -> Watch:
    context = job.context
    return Watch(
        n_steps=job.schedule.n_steps,
        warm_up=job.schedule.warmup,
        # Pairs are compared with each other: blind answers have no loss there.
        blind=0.0
        if job.schedule.contrastive
        else context.target.blind_loss(context.labels[job.rows]),
        begins_fitted="fresh" not in trainable.actions.values(),
    )
