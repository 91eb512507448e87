"""Compare three learning rates by short trainings from the same weights on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy

from warmstart.errors import UsageError
from warmstart.events import Event, Steps, follow
from warmstart.features.extraction import extract_features
from warmstart.features.machine import threads_for
from warmstart.network.ledger import take_digests
from warmstart.planning.schedule import schedule
from warmstart.planning.strategy import AUTO, HEAD, Strategy, parse
from warmstart.records.inputs import Preprocessing
from warmstart.records.plan import Plan
from warmstart.records.run_folder import Clock
from warmstart.request import DEFAULT_BASE, Request, read_settings
from warmstart.run import plan as run_plan
from warmstart.run.base_model import base_note, read_and_choose
from warmstart.run.fit import prepare
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import standard_error
from warmstart.training.batches import open_source
from warmstart.training.dataset import TrainingDataset
from warmstart.training.early_stopping import END
from warmstart.training.fine_tune import held_out_folds
from warmstart.training.guards import Alarm
from warmstart.training.loop import TrainingAttempt, TrainingJob
from warmstart.training.score import fit_on
from warmstart.training.trainable import trainable

SCALES = (1 / 3, 1.0, 3.0)
STEPS = 60
Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateResult:
    """One learning rate and its result.

    `loss` is the mean log-loss in nats on held-out examples, `accuracy` the share of them that
    is right; both are None where training diverged, and `alarm` says what happened. `gap` is how
    far its loss is above the lowest one, `gap_error` the standard error of that.
    """

    lr: float
    loss: float | None
    accuracy: float | None
    gap: float | None = None
    gap_error: float = 0.0
    alarm: str = ""

    @property
    def is_tied(self) -> bool:
        """Whether its distance to the best could be chance."""
        return self.gap is not None and self.gap <= Z_95 * self.gap_error


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateComparison:
    """Three learning rates of the uppermost unfrozen block, the plan's in the middle.

    `probe_loss` is the loss of the linear probe, with which all of them began, on the same `n`
    examples; each was trained for `steps` updates.
    """

    results: tuple[LearningRateResult, ...]
    probe_loss: float
    n: int
    steps: int

    @property
    def best(self) -> LearningRateResult | None:
        trained = [one for one in self.results if one.loss is not None]
        return min(trained, key=lambda one: one.loss or 0.0, default=None)

    @property
    def sentence(self) -> str:
        """The result, and what to do about it."""
        losses = ", ".join(
            f"{one.lr:g}: {'diverged' if one.loss is None else f'{one.loss:.3f}'}"
            for one in self.results
        )
        text = (
            f"Loss on {self.n:,} held-out examples after {self.steps} steps, from "
            f"{self.probe_loss:.3f}: {losses}. "
        )
        if self.best is None:
            return text + "All three diverged; try --lr a hundred times lower."
        plan, best = self.results[len(self.results) // 2], self.best
        if best.loss is not None and best.loss > self.probe_loss:
            text += "None is better than the linear probe alone. "
        if plan.is_tied:
            return text + f"The plan's {plan.lr:g} ties with the best."
        return text + f"{best.lr:g} is better than the plan's {plan.lr:g}: --lr {best.lr:g}."


def compare_learning_rates(
    data: Any,
    strategy: str = "last:6",
    *,
    steps: int = STEPS,
    base: Any = DEFAULT_BASE,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    label: str | None = None,
    group: str | None = None,
    lr: float | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    seed: int = 0,
    on_event: Callable[[Event], None] | None = None,
) -> LearningRateComparison:
    """Train with the plan's learning rate, a third of it and three times it, for some steps each.

    Takes what `warmstart.fit` takes; `steps` are updates, each of a batch. A fifth of the
    examples is held out, or your own hold-out. Nothing is written but cached features.
    Raises: as `fit` does; UsageError for a strategy that trains nothing.
    """
    request = Request(
        data=data,
        strategy=parse(strategy),
        base=base,
        arch=arch,
        preprocessing=preprocessing,
        label=label,
        group=group,
        lr=lr,
        settings=read_settings(settings),
        seed=seed,
    )
    return follow(_steps(request, steps), on_event or (lambda event: None))


def _steps(request: Request, n_steps: int) -> Steps[LearningRateComparison]:
    if n_steps < 1:
        raise UsageError(f"steps={n_steps}: it needs a whole number, 1 or more.")
    if request.strategy in (AUTO, HEAD):
        raise _nothing_trained(request.strategy)
    request, collection, base = yield from read_and_choose(request, Clock())
    yield base_note(base.record)
    run_plan.validate(request, collection, base)
    extracted = yield from extract_features(collection, base, run_plan.engine_of(request))
    with threadpool_limits(limits=1, user_api="blas"):
        request, training_data, names = yield from prepare(request, collection, base, extracted)
        network = run_plan.network_facts(request, base, extracted.network, None)
        facts = training_data.labelled.facts()
        plan = run_plan.make_plan(request, facts, network, names, extracted.engine)
        if not plan.is_trained or plan.training.lr is None:
            raise _nothing_trained(request.strategy)
        return (yield from _train_all(training_data, plan, plan.training.lr.number, n_steps))


def _nothing_trained(strategy: Strategy) -> UsageError:
    return UsageError(
        f"strategy {strategy} fine-tunes no block, so there is no learning rate to compare; "
        "name one that does, such as last:6 or full."
    )


def _train_all(
    training_data: TrainingDataset, plan: Plan, lr: float, n_steps: int
) -> Steps[LearningRateComparison]:
    network = training_data.extracted.network
    torch.set_num_threads(threads_for(network.record))
    labelled = training_data.labelled
    held = held_out_folds(training_data, 1)[0]
    rows = np.setdiff1d(np.arange(len(labelled.learn)), held)
    yield Event(stage="fine_tune", kind="begin", values={"trainings": len(SCALES)})
    settings = replace(schedule(plan), n_steps=n_steps, joining=())
    source = yield from open_source(training_data, plan, settings)
    head = fit_on(training_data, plan, rows)
    read = training_data.extracted.reader(training_data.examples(rows))
    job = TrainingJob(
        make=lambda: trainable(network, plan, head, read, training_data.seed),
        schedule=settings,
        source=source,
        digests=take_digests(network),
        rows=rows,
        held=held,
        number=0,  # the same for all: the same batches in the same order
        steps=(n_steps,) * len(SCALES),
    )
    outcomes: list[_Outcome] = []
    for number, scale in enumerate(SCALES):
        outcomes.append((yield from _train(job, scale, number)))
    yield Event(stage="fine_tune", kind="end")
    return _compare(outcomes, lr, job)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Predictions (m, K) for the held-out rows, `after` None where training diverged."""

    scale: float
    before: Array
    after: Array | None
    alarm: Alarm | None


def _train(job: TrainingJob, scale: float, number: int) -> Steps[_Outcome]:
    attempt, n_steps = TrainingAttempt(job, scale, ()), job.schedule.n_steps
    steps = attempt.run()
    try:
        while True:
            event = next(steps)
            values = {**event.values, "job": number + 1} if event.kind == "step" else event.values
            yield replace(event, step=event.step + number * n_steps, values=values)
    except StopIteration as stop:
        alarm: Alarm | None = stop.value
    finally:
        steps.close()
    if attempt.validation.before is None:
        raise ValueError("a training that is compared holds rows out")
    has_ended = alarm is None or alarm.kind != "diverged"
    scores = attempt.validation.scores()[END] if has_ended else None
    after = scores if scores is not None and np.isfinite(scores).all() else None
    return _Outcome(scale, attempt.validation.before, after, alarm)


def _losses(scores: Array, labels: Rows) -> Array:
    """Log-loss of each row. Shapes: (m, K), (m,) to (m,)."""
    entropy = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels), reduction="none")
    losses: Array = entropy.numpy()
    return losses


def _compare(outcomes: Sequence[_Outcome], lr: float, job: TrainingJob) -> LearningRateComparison:
    labelled = job.source.labelled
    labels, groups = labelled.labels[job.held], labelled.groups()[job.held]
    losses = {one.scale: _losses(one.after, labels) for one in outcomes if one.after is not None}
    best = min(losses.values(), key=lambda loss: float(loss.mean()), default=None)
    results = []
    for one in outcomes:
        typed = float(f"{lr * one.scale:.2g}")  # two significant figures, as it would be typed
        alarm = one.alarm.sentence if one.alarm else ""
        result = LearningRateResult(lr=typed, loss=None, accuracy=None, alarm=alarm)
        if one.after is not None and best is not None:
            gaps = losses[one.scale] - best
            result = replace(
                result,
                loss=float(losses[one.scale].mean()),
                accuracy=float((one.after.argmax(axis=1) == labels).astype(float).mean()),
                gap=float(gaps.mean()),
                gap_error=standard_error(gaps, groups),
            )
        results.append(result)
    return LearningRateComparison(
        results=tuple(results),
        probe_loss=float(_losses(outcomes[0].before, labels).mean()),
        n=len(job.held),
        steps=job.schedule.n_steps,
    )
