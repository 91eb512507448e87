"""Fine-tuning: one training per cross-validation fold, then one on all examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from warmstart.data.splits import folds
from warmstart.events import Event, Steps, guard, note
from warmstart.features.machine import threads_for
from warmstart.network.partition import Network
from warmstart.network.surgery import can_ensemble
from warmstart.planning.fine_tuning import frozen_prefix
from warmstart.planning.forecast import time_ran_out
from warmstart.planning.plan_file import describe_failure
from warmstart.planning.rules import HOLDOUT_DIVISOR
from warmstart.planning.schedule import (
    Schedule,
    as_followed,
    for_fold,
    given_up,
    schedule,
    stage_actions,
)
from warmstart.records.block_actions import ADDED, FRESH, Action
from warmstart.records.plan import Plan
from warmstart.records.summary import Baseline, Estimate, Evidence, GuardNote
from warmstart.solve.ridge import Array, Rows
from warmstart.training.batches import BatchSource, open_source
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints
from warmstart.training.dataset import LabelledRows, Reader, TrainingDataset, rows_by_fold
from warmstart.training.early_stopping import (
    END,
    REFIT,
    REFIT_ENDS,
    ChosenEnd,
    OutputScales,
    TrainingEnd,
    average_refits,
    choose_end,
    held_scores,
    spread,
)
from warmstart.training.guards import (
    COMPARED_ROWS,
    BaseModelAnswers,
    check_overfit,
    limit_forgetting,
)
from warmstart.training.linear_probe import HeadFit, calibrate_head
from warmstart.training.loop import SCALES, TrainedNetwork, TrainingJob
from warmstart.training.score import estimate_prior, fit_on, head_probabilities
from warmstart.training.ship import PROBE, Decision, decide
from warmstart.training.trainable import RefitHead, TrainableNetwork, tensors_to_train, trainable
from warmstart.training.trainer import mean_loss

EARLIEST = 2  # folds after which fine-tuning that does not pay off is stopped


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The resulting network, its head, and a reader of its features.

    `plan` as it was carried out: blocks that did not join, and all blocks where training was given
    up, are frozen in it. `actions` is None where no block was trained. `own_head`: the estimate of
    a run's head before a new one is fitted. `given_up`: why only the linear probe is left.
    `probe_answers` (n, K): answers of the linear probes of each fold's training for the rows it
    held out, whose folds are `fold` (n,). `decision`: what ships, where linear probe and fine-tuned
    network were compared. The ship rule adds `gain`, the fine-tuning gain; `shipped`, where that is
    not the plan's strategy; `why`; `baselines`, other methods on the same rows.
    """

    network: Network
    head: HeadFit
    reader: Reader
    plan: Plan
    actions: dict[str, Action] | None = None
    own_head: Estimate | None = None
    guards: tuple[GuardNote, ...] = ()
    given_up: str = ""
    probe_answers: Array | None = None
    decision: Decision | None = None
    fold: Rows | None = None
    gain: Evidence | None = None
    shipped: str = ""
    why: str = ""
    baselines: tuple[Baseline, ...] = ()


def fine_tune(
    training_data: TrainingDataset,
    plan: Plan,
    head: HeadFit,
    *,
    digests: Mapping[str, str],
    checkpoints: Checkpoints | None = None,
    deadline: float | None = None,
) -> Steps[FineTuned]:
    """Train what the plan says; a plan that trains nothing returns the base model and `head`.

    `digests` are those of the base model's tensors, taken before the run changed any; `deadline`
    is that of all trainings, of `time.perf_counter`.

    The estimate comes from the trainings of the folds, each with a head fitted without the rows
    it held out; then the network is trained on all rows, up to the end that held-out rows chose.
    Where no learning rate works, the linear probe is returned.
    Raises: TrainingError if a frozen tensor changed.
    """
    data = training_data.labelled
    if not plan.is_trained:
        return _probe_alone(training_data, plan, head, time_ran_out(plan))
    settings, n = schedule(plan), len(data.learn)
    held_rows = held_out_folds(training_data, settings.folds)
    n_updates = (for_fold(settings, len(held), n).n_steps for held in held_rows)
    steps = (*n_updates, *[settings.n_steps] * settings.model_soup)
    values: dict[str, float | int | str] = {"trainings": len(steps), "folds": len(held_rows)}
    values["unit"] = data.nouns.many
    yield Event(stage="fine_tune", kind="begin", values=values)
    torch.set_num_threads(threads_for(training_data.extracted.network.record))
    task = _FineTuning(
        training_data=training_data,
        plan=plan,
        schedule=settings,
        head=head,
        source=(yield from open_source(training_data, plan, settings)),
        digests=digests,
        checkpoints=checkpoints or NoCheckpoints(),
        deadline=deadline,
        steps=steps,
    )
    yield from task.train_folds(held_rows)
    return task.give_up() if task.failed else (yield from task.train_all())


@dataclass(slots=True, kw_only=True)
class _FineTuning:
    """The trainings of a plan, and what those of the folds say of the rows that each held out.

    Shapes: scores (C, n, K), probe_answers (n, K) of the initial linear probes, fold (n,); NaN and
    -1 for rows that were never held out.
    """

    training_data: TrainingDataset
    plan: Plan
    schedule: Schedule
    head: HeadFit
    source: BatchSource
    digests: Mapping[str, str]
    checkpoints: Checkpoints
    deadline: float | None
    steps: tuple[int, ...]  # updates of each training
    scores: Array = field(init=False)
    probe_answers: Array = field(init=False)
    fold: Rows = field(init=False)
    n_joined: list[int] = field(default_factory=list)  # groups of blocks
    scale: float = 1.0  # of the learning rates
    guards: list[GuardNote] = field(default_factory=list)
    failed: tuple[float, ...] = ()  # learning rate scales of a training that was given up

    def __post_init__(self) -> None:
        n = len(self.labelled.labels)
        shape = (n, self.labelled.n_classes)
        self.scores = np.full((REFIT + len(REFIT_ENDS), *shape), np.nan)
        self.probe_answers = np.full(shape, np.nan)
        self.fold = np.full(n, -1, dtype=np.int64)

    @property
    def labelled(self) -> LabelledRows:
        return self.training_data.labelled

    def train_folds(self, held_rows: Sequence[Rows]) -> Steps[None]:
        """Train once per fold, without its rows, and score them."""
        training_data = self.training_data
        for number, held in enumerate(held_rows):
            keep = np.setdiff1d(np.arange(len(self.labelled.labels)), held)
            probe = fit_on(training_data, self.plan, keep)
            read = training_data.extracted.reader(training_data.examples(held))
            self.probe_answers[held] = head_probabilities(probe, read, self.labelled.target)
            trained = yield from self._job(probe, keep, held, number, None).learn()
            self.guards += trained.guards
            if trained.has_failed:
                self._fail(trained)
                break
            self.scale = trained.scale
            self.scores[:, held] = trained.scores
            self.fold[held] = number
            self.n_joined.append(trained.n_stages)
            if number + 1 == EARLIEST < len(held_rows) and self._is_futile():
                text = f"after {EARLIEST} of {len(held_rows)} folds: fine-tuning does not help here"
                yield note("fine_tune", "Stopped", text)
                break

    def _fail(self, trained: TrainedNetwork) -> None:
        self.failed = tuple(scale for scale in SCALES if self.scale >= scale >= trained.scale)

    def _choose_end(self) -> tuple[ChosenEnd, Array, tuple[OutputScales, ...]]:
        """Where trainings should have ended, the scores (C, n, K) compared, and their scales."""
        labelled, is_paired = self.labelled, self.schedule.contrastive
        # Where no block joined, a refitted head equals another one on the same layers.
        scores = self.scores if int(np.median(self.n_joined)) else self.scores[:REFIT]
        scores, scales = average_refits(
            scores, labelled.labels, labelled.target, is_alone=is_paired
        )
        chosen = choose_end(
            scores,
            labelled.labels,
            self.fold,
            labelled.groups(),
            labelled.target,
            default=REFIT if is_paired else END,
        )
        return chosen, scores, scales

    def _decide(self, chosen: ChosenEnd) -> Decision:
        """What ships, by the answers of each fold's training for the rows it held out."""
        labelled, head, plan, fold = self.labelled, self.head, self.plan, self.fold
        network = self.training_data.extracted.network
        return decide(
            np.where(fold[:, None] >= 0, head.probabilities, np.nan),
            self.probe_answers,
            self._calibrate(head, chosen).probabilities,
            labelled.labels,
            fold,
            labelled.groups(),
            labelled.target,
            is_apart=FRESH.name in plan.actions,
            is_paired=self.schedule.contrastive,
            may_ensemble=ADDED.name not in plan.actions
            and can_ensemble(network, frozen_prefix(plan)),
            is_set=plan.strategy.source == "user",
        )

    def _calibrate(self, head: HeadFit, chosen: ChosenEnd) -> HeadFit:
        labels, groups = self.labelled.labels, self.labelled.groups()
        return calibrate_head(head, chosen.scores, labels, self.fold, groups, self.labelled.target)

    def _is_futile(self) -> bool:
        """Whether fine-tuning has no chance to ship: only the time depends on it."""
        if self.plan.strategy.source == "user" or not self.n_joined:
            return False
        decision = self._decide(self._choose_end()[0])
        return decision.kind == PROBE and decision.ahead <= 0

    def train_all(self) -> Steps[FineTuned]:
        """Train on all rows, where the fine-tuned network ships, and calibrate its head."""
        training_data, plan, head = self.training_data, self.plan, self.head
        chosen, scores, scales = self._choose_end()
        settings, n_joined = self.schedule, int(np.median(self.n_joined))
        n_groups = len(stage_actions(settings, {}))
        if n_groups > 1:
            text = f"{n_joined} of {n_groups} groups of blocks joined"
            text += "" if n_joined == n_groups else "; one more did not improve validation loss"
            yield note("fine_tune", "Joined", text)
        decision = self._decide(chosen)
        fine_tuned = FineTuned(
            network=training_data.extracted.network,
            head=head,
            reader=training_data.extracted.reader,
            plan=as_followed(plan, settings, n_joined),
            decision=decision,
            fold=self.fold,
        )
        if decision.kind == PROBE:
            yield Event(stage="fine_tune", kind="end", values={"joined": n_joined})
            return fine_tuned
        guards = self.guards
        if overfit_note := check_overfit(chosen, self.labelled.groups(), settings.n_steps):
            guards.append(overfit_note)
            text = f"validation loss rose towards the end: {overfit_note.action}"
            yield guard("overfit", text)
        stop = replace(chosen.end, n_stages=n_joined)
        rows, first = np.arange(len(self.fold)), len(self.steps) - settings.model_soup

        def make_job(number: int) -> TrainingJob:
            return self._job(head, rows, rows[:0], number, stop)

        trained = yield from train_soup(make_job, range(first, len(self.steps)))
        guards += trained.guards
        if trained.trainable is None:
            self._fail(trained)
            return self.give_up()
        compared = spread(rows, COMPARED_ROWS)
        answers = BaseModelAnswers(training_data, self.source, compared, settings.n_steps)
        make = make_job(first).make
        notes, interpolated = yield from limit_forgetting(
            answers, trained.trainable, make, chosen, scores
        )
        guards += notes
        if interpolated is not chosen:  # another network ships
            chosen, decision = interpolated, self._decide(interpolated)
        fitted, reader = RefitHead(training_data, plan, self.source).end(
            trained.trainable,
            head,
            scales[chosen.candidate - REFIT] if chosen.is_refitted else None,
        )
        yield Event(stage="fine_tune", kind="end", values={"joined": n_joined})
        return replace(
            fine_tuned,
            network=trained.trainable.network,
            head=self._calibrate(fitted, chosen),
            reader=reader,
            actions=trained.trainable.actions,
            guards=tuple(guards),
            probe_answers=self.probe_answers,
            decision=decision,
        )

    def give_up(self) -> FineTuned:
        why = describe_failure(self.plan, self.guards[-1].kind, self.failed)
        fine_tuned = _probe_alone(self.training_data, given_up(self.plan, why), self.head, why)
        return replace(fine_tuned, guards=tuple(self.guards))

    def _job(
        self,
        head: HeadFit,
        keep: Rows,
        held: Rows,
        number: int,
        end: TrainingEnd | None,
    ) -> TrainingJob:
        """One training of fresh copies of the base model on some rows, for the plan's epochs."""
        training_data, plan = self.training_data, self.plan
        read = training_data.extracted.reader(training_data.examples(keep))
        refit = RefitHead(training_data, plan, self.source)

        def make() -> TrainableNetwork:
            return trainable(training_data.extracted.network, plan, head, read, training_data.seed)

        def refit_scores(trained: TrainableNetwork) -> Array:
            return refit.held_scores(trained, head, keep, held)

        until = None
        if self.deadline is not None:  # each training gets its share of the time that is left
            now, share = time.perf_counter(), self.steps[number] / sum(self.steps[number:])
            until = now + share * max(self.deadline - now, 0.0)
        return TrainingJob(
            make=make,
            schedule=for_fold(self.schedule, len(held), len(self.fold)),
            source=self.source,
            digests=self.digests,
            rows=keep,
            held=held,
            number=number,
            steps=self.steps,
            checkpoints=self.checkpoints,
            end=end,
            scale=self.scale,
            refit=refit_scores if len(held) else None,
            until=until,
        )


def _probe_alone(training_data: TrainingDataset, plan: Plan, head: HeadFit, why: str) -> FineTuned:
    """The base model with its linear probe, and why only that is left."""
    data, extracted = training_data.labelled, training_data.extracted
    own_head = estimate_prior(training_data.prior, data, extracted.reader(data.learn))
    network, reader = extracted.network, extracted.reader
    return FineTuned(network, head, reader, plan, own_head=own_head, given_up=why)


def held_out_folds(training_data: TrainingDataset, n_folds: int) -> list[Rows]:
    """The rows that each training holds out: the user's hold-out set, or folds of whole groups."""
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    if labelled.holdout:
        return [np.arange(n - labelled.holdout, n)]
    rng = np.random.default_rng([training_data.seed, 7])
    count = HOLDOUT_DIVISOR if n_folds == 1 else n_folds
    every_fold = rows_by_fold(folds(labelled.fold_strata, labelled.groups(), count, rng))
    return [*every_fold[:1]] if n_folds == 1 else [*every_fold]


SOUP_ROWS = 256  # training rows, at most, on which the mean is compared with its ingredients
BARRIER = 0.05  # of the loss of always guessing: a mean that is worse by more lies between basins


def train_soup(make: Callable[[int], TrainingJob], numbers: range) -> Steps[TrainedNetwork]:
    """Train once for each number, in another order each; the result has the mean of all weights.

    Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
    accuracy without increasing inference time", §2.

    `make` returns the job of a number; the later ones begin at the learning rates of the first.
    Where the mean fits the training rows worse than its ingredients do, the first is returned.
    """
    job = make(numbers[0])
    trained = yield from job.learn()
    trainable = trained.trainable
    if len(numbers) == 1 or trainable is None:
        return trained
    rows = spread(job.rows, SOUP_ROWS)
    first = {n: tensor.detach().clone() for n, tensor in tensors_to_train(trainable).items()}
    mean, losses = first, [_loss(job, trainable, rows)]
    for count, number in enumerate(numbers[1:], start=2):
        other = yield from replace(make(number), scale=trained.scale).learn()
        trained = replace(trained, guards=(*trained.guards, *other.guards))
        if other.trainable is None:
            break  # its guards say why; the mean so far counts
        losses.append(_loss(job, other.trainable, rows))
        weights = tensors_to_train(other.trainable)
        mean = {n: torch.lerp(t, weights[n].detach(), 1 / count) for n, t in mean.items()}
        del other, weights  # a whole network
    if len(losses) == 1:
        return trained
    _set_weights(trainable, mean)
    barrier = _loss(job, trainable, rows) - float(np.mean(losses))
    labelled = job.source.labelled
    if barrier > BARRIER * labelled.target.blind_loss(labelled.labels[job.rows]):
        _set_weights(trainable, first)
        text = f"the mean of {len(losses)} trainings is worse than each; the first is kept"
    else:
        text = f"the weights are the mean of {len(losses)} trainings"
    yield note("fine_tune", "Model soup", text)
    return trained


def _set_weights(trainable: TrainableNetwork, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors_to_train(trainable).items():
            tensor.copy_(weights[name])


def _loss(job: TrainingJob, trainable: TrainableNetwork, rows: Rows) -> float:
    scores = torch.from_numpy(held_scores(trainable, job.source, rows))
    return mean_loss(job.source.labelled.target, scores, job.source.targets(rows))
