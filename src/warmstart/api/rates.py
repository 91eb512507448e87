"""Compare three learning rates: the plan's, a third of it, three times it.

Not a sweep over one run: three short trainings, each with a full schedule, from the same weights
on the same batches, compared on held-out examples. A difference that could be chance is a tie.
"""

from __future__ import annotations

import math
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
from warmstart.planning.strategy import AUTO, HEAD, parse
from warmstart.records.inputs import Preprocessing
from warmstart.records.plan import Plan
from warmstart.records.recording import Clock
from warmstart.request import DEFAULT_BASE, Request, read_data, typed_settings
from warmstart.request import check as check_request
from warmstart.run import cleaning, lineage, notes
from warmstart.run import plan as run_plan
from warmstart.run.base_model import choose_base
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import standard_error
from warmstart.training import fine_tune
from warmstart.training.attempt import TrainingAttempt
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.dataset import TrainingDataset, training_dataset
from warmstart.training.guards import Alarm
from warmstart.training.job import TrainingJob
from warmstart.training.score import fit_on
from warmstart.training.shared import TrainingContext
from warmstart.training.trainable import trainable
from warmstart.training.validation import END

SCALES = (1 / 3, 1.0, 3.0)
STEPS = 60
Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class RateResult:
    """One learning rate and its result.

    `loss` is the mean log-loss in nats on held-out examples, `accuracy` the share of them that
    is right; both are None where training diverged, and `alarm` says what happened. `behind`
    is how far its loss is above the best one's, with the standard error of that.
    """

    lr: float
    loss: float | None
    accuracy: float | None
    behind: float | None = None
    error: float = 0.0
    alarm: str = ""

    @property
    def is_tied(self) -> bool:
        """Whether its distance to the best could be chance."""
        return self.behind is not None and self.behind <= Z_95 * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class RateProbe:
    """Three learning rates of the uppermost unfrozen block, the plan's in the middle.

    `before` is the loss of the linear probe, with which all of them began, on the same `n`
    examples; each was trained for `steps` updates.
    """

    results: tuple[RateResult, ...]
    before: float
    n: int
    steps: int

    @property
    def best(self) -> RateResult | None:
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
            f"{self.before:.3f}: {losses}. "
        )
        if self.best is None:
            return text + "All three diverged; try --lr a hundred times lower."
        plan, best = self.results[len(self.results) // 2], self.best
        if best.loss is not None and best.loss > self.before:
            text += "None is better than the linear probe alone. "
        if plan.is_tied:
            return text + f"The plan's {plan.lr:g} is as good as any of them, within chance."
        return text + f"{best.lr:g} is better than the plan's {plan.lr:g}: --lr {best.lr:g}."


def rate_probe(
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
) -> RateProbe:
    """Train with the plan's learning rate, a third of it and three times it, for some steps each.

    Takes what `warmstart.fit` takes; `steps` are updates, each of a batch. A fifth of the
    examples is held out, or your own hold-out. Nothing is written but cached features.
    Raises: as `fit` does; UsageError for a strategy that trains nothing.
    """
    request = Request(
        data=data,
        strategy=strategy,
        base=base,
        arch=arch,
        preprocessing=preprocessing,
        label=label,
        group=group,
        lr=lr,
        settings=typed_settings(settings),
        seed=seed,
    )
    return follow(probe(request, steps), on_event or (lambda event: None))


def probe(request: Request, n_steps: int) -> Steps[RateProbe]:
    """`rate_probe`, step by step."""
    if n_steps < 1:
        raise UsageError(f"steps={n_steps}: it needs a whole number, 1 or more.")
    clock = Clock()
    check_request(request)
    if parse(request.strategy) in (AUTO, HEAD):
        raise _nothing_trained(request.strategy)
    request = run_plan.with_plan_file(request)
    collection = yield from read_data(request)
    yield notes.data(collection)
    request, base = yield from choose_base(request, collection, clock)
    yield notes.base(base.record)
    run_plan.validate(request, collection, base)
    extracted = yield from extract_features(collection, base, run_plan.engine_of(request))
    with threadpool_limits(limits=1, user_api="blas"):
        collection = cleaning.clean(collection, extracted)
        inherited = yield from lineage.inherit(
            base, extracted.network.record, collection.record, extracted
        )
        training_data = training_dataset(
            collection, extracted, base.record, request.budget, request.seed, inherited
        )
        network = run_plan.network_facts(request, base, extracted.network, None)
        names = inherited.names(tuple(training_data.probe_layers))
        data = training_data.labelled.facts()
        plan = run_plan.make_plan(request, data, network, names, extracted.engine)
        if not plan.is_trained or plan.training.lr is None:
            raise _nothing_trained(request.strategy)
        return (yield from _train_all(training_data, plan, plan.training.lr.number, n_steps))


def _nothing_trained(strategy: str) -> UsageError:
    return UsageError(
        f"strategy {strategy} fine-tunes no block, so there is no learning rate to compare; name "
        "one that does, such as last:6 or full."
    )


def _train_all(
    training_data: TrainingDataset, plan: Plan, lr: float, n_steps: int
) -> Steps[RateProbe]:
    network = training_data.extracted.network
    torch.set_num_threads(threads_for(network.record))
    labelled = training_data.labelled
    held = fine_tune.held_out_folds(training_data, 1)[0]
    rows = np.setdiff1d(np.arange(len(labelled.learn)), held)
    yield Event(stage="fine_tune", kind="begin", values={"trainings": len(SCALES)})
    context = TrainingContext(
        source=(yield from fine_tune.open_source(training_data, plan)),
        labels=labelled.labels,
        groups=labelled.groups(),
        digests=take_digests(network),
        checkpoints=NoCheckpoints(),
        steps=(n_steps,) * len(SCALES),
    )
    head = fit_on(training_data, plan, rows)
    read = training_data.extracted.reader(training_data.examples(rows))
    job = TrainingJob(
        make=lambda: trainable(network, plan, head, read, training_data.seed),
        schedule=replace(schedule(plan), n_steps=n_steps, joining=()),
        context=context,
        rows=rows,
        held=held,
        number=0,  # the same for all: the same batches in the same order
    )
    outcomes: list[_Outcome] = []
    for number, scale in enumerate(SCALES):
        outcomes.append((yield from _train(job, scale, number)))
    yield Event(stage="fine_tune", kind="end")
    return _compare(outcomes, lr, job)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Log-loss and hits of each held-out row, (m,); None where training diverged."""

    scale: float
    before: Array
    losses: Array | None
    hits: Array | None
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
    labels, before = job.context.labels[job.held], attempt.validation.before
    if before is None:
        raise ValueError("a training that is compared holds rows out")
    has_ended = alarm is None or alarm.kind != "diverged"
    scores = attempt.validation.scores()[END] if has_ended else None
    if scores is None or not np.isfinite(scores).all():
        return _Outcome(scale, _losses(before, labels), None, None, alarm)
    hits = (scores.argmax(axis=1) == labels).astype(float)
    return _Outcome(scale, _losses(before, labels), _losses(scores, labels), hits, alarm)


def _losses(scores: Array, labels: Rows) -> Array:
    """Log-loss of each row. Shapes: (m, K), (m,) to (m,)."""
    entropy = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels), reduction="none")
    losses: Array = entropy.numpy()
    return losses


def _compare(outcomes: Sequence[_Outcome], lr: float, job: TrainingJob) -> RateProbe:
    groups = job.context.groups[job.held]
    trained = [one.losses for one in outcomes if one.losses is not None]
    best = min(trained, key=lambda losses: float(losses.mean()), default=None)
    results = []
    for one in outcomes:
        alarm = one.alarm.sentence if one.alarm else ""
        result = RateResult(lr=_rounded(lr * one.scale), loss=None, accuracy=None, alarm=alarm)
        if one.losses is not None and one.hits is not None and best is not None:
            gap = one.losses - best
            result = replace(
                result,
                loss=float(one.losses.mean()),
                accuracy=float(one.hits.mean()),
                behind=float(gap.mean()),
                error=standard_error(gap, groups),
            )
        results.append(result)
    return RateProbe(
        results=tuple(results),
        before=float(outcomes[0].before.mean()),
        n=len(job.held),
        steps=job.schedule.n_steps,
    )


def _rounded(rate: float) -> float:
    """Two significant figures, as it would be typed.

    >>> _rounded(0.0001234)
    0.00012
    """
    return float(f"{rate:.2g}") if math.isfinite(rate) else rate
