"""One attempt at a training: updates, validation, guards, checkpoints; it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from warmstart.distributed import here
from warmstart.events import Event, Steps, note
from warmstart.features.batches import prefetch
from warmstart.machine import peak_rss_mb
from warmstart.network import freeze
from warmstart.network.conv_bn_fusion import folded
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.tensors import in_channels_last
from warmstart.planning.actions import NEW
from warmstart.planning.schedule import stage_actions
from warmstart.records.plan import Action
from warmstart.records.summary import GuardNote
from warmstart.solve.ridge import Rows
from warmstart.training.augmentations import draw_batches
from warmstart.training.checkpoint import Snapshot
from warmstart.training.distributed import choose_parallelism, report_sharding
from warmstart.training.gradual_unfreezing import GradualUnfreezing
from warmstart.training.guards import LEAST_CHANGE, Alarm, Watch, largest_change
from warmstart.training.loop import make_pair_loss, summed_loss, warm_cosine
from warmstart.training.shared import Inputs, augmentation_numbers
from warmstart.training.trainable import tensors_to_train
from warmstart.training.trainer import LAG, Trainer, UpdateRule
from warmstart.training.validation import TrainingEnd, ValidationScores, renew_statistics, spread

if TYPE_CHECKING:
    from warmstart.training.job import TrainingJob


COMPARED = 64  # rows on which answers before and after training are compared


class TrainingAttempt:
    """A training to its end, or to an alarm.

    `guards`: notes of earlier attempts, for the checkpoints. `is_idle`: training changed nothing.
    """

    def __init__(self, job: TrainingJob, scale: float, guards: tuple[GuardNote, ...]) -> None:
        self.job, self.scale, self.guards = job, scale, guards
        self.trainable, schedule, context = job.make(), job.schedule, job.context
        self.trainable.model.to(schedule.device)
        in_channels_last(self.trainable.model)
        blocks = UnfrozenBlocks(
            self.trainable.model, schedule.split_at, schedule.gradient_checkpointing
        )
        self.parallelism = choose_parallelism(
            self.trainable, blocks, schedule, self._example_inputs()
        )
        self.moving = tensors_to_train(self.trainable)
        local = {name: t for name, t in self.moving.items() if self.parallelism.keeps(name)}
        self.trainer = Trainer(
            blocks,
            local,
            UpdateRule(
                optimizer=schedule.optimizer,
                weight_decay=schedule.weight_decay,
                ema_decay=schedule.ema_decay,
                lag=1 if schedule.contrastive else LAG,
                l2_sp=schedule.l2_sp,
                micro_batch=schedule.micro_batch or schedule.batch_size,
                device=schedule.device,
                precision=schedule.precision,
                seed=schedule.seed,
            ),
            make_pair_loss(schedule.contrastive_temperature)
            if schedule.contrastive
            else summed_loss(context.target),
            self.parallelism,
            renew=lambda: renew_statistics(
                self.validation, self.moving.values(), self.unfreezing.fit_rows, schedule.seed
            ),
        )
        self.validation = ValidationScores(
            context,
            job.held,
            self.trainable,
            self.trainer,
            has_trained_head=not schedule.contrastive,
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
            # Pairs are compared with each other: always guessing has no loss there.
            blind=0.0
            if schedule.contrastive
            else context.target.blind_loss(context.labels[job.rows]),
            begins_fitted="fresh" not in self.trainable.actions.values(),
        )
        self._throughput = _Throughput(schedule.batch_size)

    def run(self, snapshot: Snapshot | None = None) -> Steps[Alarm | None]:
        """Train; returns the alarm that ended it, None where it reached its end.

        `snapshot`: the state in which an earlier process left this attempt.
        """
        job = self.job
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
                self.validation.discard_after(steps.start, job.schedule.n_steps)
            if self._is_over(steps.stop):
                text = f"after {self._stopped:,} of {self._n_steps:,} updates: out of time"
                yield note("fine_tune", "Stopped", text)
            if not has_joined or self._stopped:
                break
        if job.is_last:
            yield from report_sharding(self.parallelism)
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
        model, begin = self.trainable.model, steps.start
        with (
            freeze.hold(model, actions, self.trainable.owners) as frozen,
            folded(
                model, frozen.eval_modules if self.parallelism.allows_fusion else (), self._probe
            ),
        ):
            self.trainer.begin(self._parameter_groups(actions))
            if snapshot is not None:
                begin = self._restore(snapshot)
            batches = self._batches(number, steps, begin)
            try:
                for step, (inputs, labels) in zip(range(begin, steps.stop), batches, strict=False):
                    model.train(self.validation.has_trained_head)  # no dropout for few pairs
                    frozen.rest()
                    factor = self._lr_factor(number, step)
                    loss = self.trainer.update(step, factor, inputs, labels)
                    alarm = self._watch.see(step + 1, loss)
                    if alarm is not None:
                        self.parallelism.end()
                        return alarm
                    values = {"loss": round(loss, 6), "factor": round(factor * self.scale, 6)}
                    values |= self.validation.validate(step + 1, self.job.schedule.n_steps)
                    yield from self._report_step(number, step, values)
                    if self._is_over(step + 1):
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
        return self.job.context.plain(spread(self.job.rows, 2), self.trainable.feature_layers)

    def _is_over(self, done: int) -> bool:
        until = self.job.until
        if until is not None and done < self._n_steps and here().same(time.perf_counter() > until):
            self._stopped = self._stopped or done
        return self._stopped > 0

    def _parameter_groups(self, actions: Mapping[str, Action]) -> list[dict[str, Any]]:
        groups = freeze.groups(
            self.trainable.model, actions, self.trainable.owners, self.trainable.rates
        )
        for group in groups:
            group["lr"] *= self.scale
            group["is_anchored"] = freeze.action_of(actions, group["block"]) not in NEW
        return groups

    def _lr_factor(self, number: int, step: int) -> float:
        """Warm-up and cosine of a stage; a training that ends early follows the same curve."""
        schedule = self.job.schedule
        steps = self._steps_of(number, schedule.n_steps)
        factor = warm_cosine(len(steps), schedule.warmup, falls=not schedule.contrastive)
        return factor(step - steps.start)

    def _batches(
        self, number: int, steps: range, begin: int
    ) -> Generator[tuple[Inputs, Tensor], None, None]:
        """Inputs and labels of each step from `begin` on; the order is that of the whole stage."""
        schedule, context, rows = self.job.schedule, self.job.context, self.unfreezing.fit_rows
        rng = np.random.default_rng([schedule.seed, self.job.number, number])
        batches = draw_batches(len(rows), schedule.batch_size, len(steps), rng)

        def make(batch: tuple[Rows, Rows]) -> tuple[Inputs, Tensor]:
            chosen, numbers = rows[batch[0]], augmentation_numbers(batch[1], schedule)
            inputs = context.source.batch(chosen, numbers, self.trainable.feature_layers)
            return inputs, context.targets(chosen)

        remaining = islice(batches, begin - steps.start, None)
        for inputs, labels in prefetch(make, remaining, schedule.workers):
            yield tuple(value.to(schedule.device) for value in inputs), labels.to(schedule.device)

    def _report_step(self, number: int, step: int, values: dict[str, float]) -> Steps[None]:
        job = self.job
        n_samples = (step + 1) * job.schedule.batch_size
        details = {
            **values,
            "epoch": round(n_samples / len(self.unfreezing.fit_rows), 2),
            "job": job.number + 1,
            "per_second": self._throughput.per_second(),
            "memory_mb": peak_rss_mb(),
        }
        done, total = job.earlier + step + 1, job.total
        try:
            yield Event(stage="fine_tune", kind="step", step=done, of=total, values={**details})
        except GeneratorExit:
            if self.parallelism.is_whole:  # else the others would have to save as well
                self._save(number, step + 1)
            raise
        if self.parallelism.agree(job.context.checkpoints.is_due):
            self._save(number, step + 1)

    def _check_end(self) -> Alarm | None:
        """Last validation; an alarm where training changed nothing, or ruined the weights."""
        has_trained_head = self.validation.has_trained_head
        rows = spread(self.job.rows, COMPARED if has_trained_head else COMPARED // 4)
        after = self.validation.scores_at(1.0, rows)
        self.validation.finish()
        if not np.isfinite(after).all() or not self.validation.are_finite:
            return Alarm(
                kind="diverged",
                step=self.job.schedule.n_steps,
                sentence="the network's outputs are no longer finite",
            )
        if not self.unfreezing.n_joined or self._stopped:
            return None  # no group of blocks helped, or time ran out: not the learning rate's fault
        is_whole = self._end == TrainingEnd(n_stages=self._end.n_stages)
        loss = self.validation.loss(after, rows) if is_whole and has_trained_head else None
        of_classes = self.job.context.target.has_classes
        before = self.validation.scores_at(0.0, rows)
        change = largest_change(before, after, of_classes=of_classes)
        self.is_idle = change < LEAST_CHANGE
        return self._watch.finish(change, loss)

    # ---- Checkpoints.

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
            "guards": [{"kind": g.kind, "step": g.step, "action": g.action} for g in self.guards],
        }
        checkpoints = self.job.context.checkpoints
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


class _Throughput:
    """Images per second, smoothed."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._last, self._seconds = batch_size, time.perf_counter(), 0.0

    def per_second(self) -> float:
        """After one more update."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        self._seconds = elapsed if not self._seconds else 0.9 * self._seconds + 0.1 * elapsed
        return round(self._batch_size / max(self._seconds, 1e-9), 1)
