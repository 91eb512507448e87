"""Fine-tuning: one training per cross-validation fold, then one on all examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.splits import folds
from warmstart.events import Event, Steps, guard, note
from warmstart.features.machine import threads_for
from warmstart.network.ensemble import can_ensemble
from warmstart.network.partition import Network
from warmstart.planning.cached_activations import frozen_prefix
from warmstart.planning.forecast import Allowance, time_ran_out
from warmstart.planning.rules import HOLDOUT_DIVISOR
from warmstart.planning.schedule import as_followed, for_fold, given_up, schedule, stage_actions
from warmstart.planning.words import describe_failure
from warmstart.records.plan import Action, Plan
from warmstart.records.summary import Baseline, Estimate, Evidence, GuardNote
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Rows
from warmstart.training.cached_activations import augmentations_of, cache_activations
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints
from warmstart.training.dataset import Reader, TrainingDataset
from warmstart.training.forgetting import ROWS, BaseModelAnswers, limit_forgetting
from warmstart.training.guards import overfit
from warmstart.training.job import SCALES, TrainedNetwork, TrainingJob
from warmstart.training.linear_probe import HeadFit
from warmstart.training.live import read_pixels
from warmstart.training.model_soup import train_soup
from warmstart.training.output import OutputScales, RefitHead, average_refits, calibrate_head
from warmstart.training.score import estimate_prior, fit_on, head_probabilities
from warmstart.training.selection import cross_calibrated
from warmstart.training.shared import BatchSource, LiveBatches, TrainingContext
from warmstart.training.ship import PROBE, Decision, decide
from warmstart.training.trainable import TrainableNetwork, trainable
from warmstart.training.validation import (
    END,
    REFIT,
    REFIT_ENDS,
    VALIDATIONS,
    ChosenEnd,
    TrainingEnd,
    choose,
    spread,
)


def check_overfit(chosen: ChosenEnd, groups: NDArray[np.int64], n_steps: int) -> GuardNote | None:
    """A note where validation loss rose by more than chance. Shapes: groups (n,)."""
    steps = [TrainingEnd(validation=k).n_steps(n_steps) for k in range(1, VALIDATIONS + 1)]
    held = np.isfinite(chosen.losses[END])
    if not held.any():
        return None
    losses = [losses[held] for losses in chosen.losses[:VALIDATIONS]]
    alarm, _ = overfit(losses, groups[held], steps)
    if alarm is None:
        return None
    end = chosen.end
    action = f"the weights after {end.validation} fifths of the steps are kept"
    if end.share < 1:
        action = f"weights {end.share:.0%} of the way from the base model's are kept"
    return GuardNote(kind="overfit", step=alarm.step, action=action)


NO_LIMIT = Allowance()
EARLIEST = 2  # folds after which fine-tuning that does not pay off is stopped


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The resulting network, its head, and a reader of its features.

    `plan` is the plan as it was carried out: blocks that did not join, and all blocks where
    training was given up, are frozen in it. `actions` is None where no block was trained.
    `own_head`: the estimate of a run's own head before a new one is fitted. `given_up`: why only
    the linear probe is left. `probe_answers` (n, K): answers of linear probes fitted on the rows of
    each fold's training, for the rows it held out, whose folds are `fold` (n,). `decision`: what
    ships, where the linear probe was compared with the fine-tuned network.

    The ship rule fills in the rest: `gain`, the fine-tuning gain over the linear probe; `shipped`,
    where that is not the plan's strategy; `why`; `baselines`, other methods on the same rows.
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


@dataclass(frozen=True, slots=True)
class _End:
    """Where trainings should have ended. Shapes: scores (C, n, K) of each candidate end."""

    n_joined: int
    scores: Array
    scales: tuple[OutputScales, ...]
    chosen: ChosenEnd


@dataclass(slots=True)
class _Folds:
    """Results of the trainings of all folds, for the rows that each held out.

    Shapes: scores (C, n, K) of each candidate end, probe_answers (n, K) of the linear probes with
    which those trainings began, fold (n,); NaN and -1 for rows that were never held out.
    """

    scores: Array
    probe_answers: Array
    fold: Rows
    n_joined: list[int] = field(default_factory=list)  # groups of blocks
    scale: float = 1.0
    guards: list[GuardNote] = field(default_factory=list)
    failed: tuple[float, ...] = ()  # learning rate scales of a training that was given up


def fine_tune(
    training_data: TrainingDataset,
    plan: Plan,
    head: HeadFit,
    digests: Mapping[str, str],
    checkpoints: Checkpoints | None = None,
    allowance: Allowance = NO_LIMIT,
) -> Steps[FineTuned]:
    """Train what the plan says; a plan that trains nothing returns the base model and `head`.

    `digests` are those of the base model's tensors, taken before the run changed any.

    The estimate comes from the trainings of the folds, each with a head fitted without the rows
    it held out; then the network is trained on all rows, up to the end that held-out rows chose.
    Where no learning rate works, the linear probe is returned.
    Raises: TrainingError if a frozen tensor changed.
    """
    data, extracted = training_data.labelled, training_data.extracted
    if not plan.is_trained:
        return _probe_alone(training_data, plan, head, time_ran_out(plan))
    chosen, n = schedule(plan), len(data.learn)
    held_rows = held_out_folds(training_data, chosen.folds)
    n_updates = (for_fold(chosen, len(held), n).n_steps for held in held_rows)
    steps = (*n_updates, *[chosen.n_steps] * chosen.model_soup)
    values: dict[str, float | int | str] = {"trainings": len(steps), "folds": len(held_rows)}
    values["unit"] = data.nouns.many
    yield Event(stage="fine_tune", kind="begin", values=values)
    torch.set_num_threads(threads_for(extracted.network.record))
    context = TrainingContext(
        source=(yield from open_source(training_data, plan)),
        labels=data.labels,
        groups=data.groups(),
        target=data.target,
        digests=digests,
        checkpoints=checkpoints or NoCheckpoints(),
        steps=steps,
    )
    task = _FineTuning(training_data, plan, head, context, allowance)
    results = yield from task.train_folds(held_rows)
    if results.failed:
        return task.give_up(results)
    return (yield from task.train_all(task.choose_end(results), results))


@dataclass(frozen=True, slots=True)
class _FineTuning:
    training_data: TrainingDataset
    plan: Plan
    head: HeadFit
    context: TrainingContext
    allowance: Allowance

    def train_folds(self, held_rows: Sequence[Rows]) -> Steps[_Folds]:
        """Train once per fold, without its rows, and score them."""
        context, training_data = self.context, self.training_data
        n = len(context.labels)
        shape = (n, training_data.labelled.n_classes)
        results = _Folds(
            np.full((REFIT + len(REFIT_ENDS), *shape), np.nan),
            np.full(shape, np.nan),
            np.full(n, -1, dtype=np.int64),
        )
        for number, held in enumerate(held_rows):
            keep = np.setdiff1d(np.arange(n), held)
            probe = fit_on(training_data, self.plan, keep)
            read = training_data.extracted.reader(training_data.examples(held))
            results.probe_answers[held] = head_probabilities(probe, read, context.target)
            job = self._job(probe, keep, held, number, None, results.scale)
            trained = yield from job.learn()
            results.guards += trained.guards
            if trained.has_failed:
                results.failed = _failed_scales(results.scale, trained)
                break
            results.scale = trained.scale
            results.scores[:, held] = trained.scores
            results.fold[held] = number
            results.n_joined.append(trained.n_stages)
            if number + 1 == EARLIEST < len(held_rows) and self.is_futile(results):
                text = f"after {EARLIEST} of {len(held_rows)} folds: fine-tuning does not help here"
                yield note("fine_tune", "Stopped", text)
                break
        return results

    def choose_end(self, results: _Folds) -> _End:
        context = self.context
        n_joined = int(np.median(results.n_joined))
        # Where no block joined, a refitted head equals another one on the same layers.
        scores = results.scores if n_joined else results.scores[:REFIT]
        is_paired = schedule(self.plan).contrastive
        scores, scales = average_refits(scores, context.labels, context.target, is_alone=is_paired)
        chosen = choose(
            scores,
            context.labels,
            results.fold,
            context.groups,
            # Scores are on the head's own scale: not divided by its temperature.
            Calibration(1.0, np.zeros(len(self.head.bias))),
            context.target,
            usual=REFIT if is_paired else END,
        )
        return _End(n_joined, scores, scales, chosen)

    def decision(self, results: _Folds, chosen: ChosenEnd) -> Decision:
        """What ships, by the answers of each fold's training for the rows it held out."""
        context, head, plan, target = self.context, self.head, self.plan, self.context.target
        is_held = results.fold >= 0
        answers, _ = cross_calibrated(
            chosen.scores / head.scale,
            context.labels,
            results.fold,
            context.groups,
            Calibration(head.scale, np.zeros(len(head.bias))),
            target,
        )
        actions = {str(block.action.value) for block in plan.blocks}
        network = self.training_data.extracted.network
        return decide(
            np.where(is_held[:, None], head.probabilities, np.nan),
            results.probe_answers,
            answers,
            context.labels,
            results.fold,
            context.groups,
            target,
            is_apart="fresh" in actions,
            is_paired=schedule(plan).contrastive,
            may_ensemble="added" not in actions and can_ensemble(network, frozen_prefix(plan)),
            is_set=plan.strategy.source == "user",
        )

    def is_futile(self, results: _Folds) -> bool:
        """Whether, after the first folds, fine-tuning has no chance to ship.

        Only the time depends on it: where training stops, the linear probe ships, whose estimate
        comes from all of its own folds.
        """
        if self.plan.strategy.source == "user" or not results.n_joined:
            return False
        decision = self.decision(results, self.choose_end(results).chosen)
        return decision.kind == PROBE and decision.ahead <= 0

    def train_all(self, end: _End, results: _Folds) -> Steps[FineTuned]:
        """Train on all rows, where the fine-tuned network ships, and calibrate its head."""
        training_data, plan, head, context = self.training_data, self.plan, self.head, self.context
        n_joined, chosen, settings = end.n_joined, end.chosen, schedule(plan)
        n_groups = len(stage_actions(settings, {}))
        if n_groups > 1:
            text = f"{n_joined} of {n_groups} groups of blocks joined"
            text += "" if n_joined == n_groups else "; one more did not improve validation loss"
            yield note("fine_tune", "Joined", text)
        decision = self.decision(results, chosen)
        if decision.kind == PROBE:
            yield Event(stage="fine_tune", kind="end", values={"joined": n_joined})
            return FineTuned(
                network=training_data.extracted.network,
                head=head,
                reader=training_data.extracted.reader,
                plan=as_followed(plan, n_joined),
                decision=decision,
                fold=results.fold,
            )
        guards = list(results.guards)
        if overfit_note := check_overfit(chosen, context.groups, settings.n_steps):
            guards.append(overfit_note)
            text = f"validation loss rose towards the end: {overfit_note.action}"
            yield guard("overfit", text)
        stop = replace(chosen.end, n_stages=n_joined)
        rows, first = np.arange(len(context.labels)), len(context.steps) - settings.model_soup

        def make_job(number: int, scale: float) -> TrainingJob:
            return self._job(head, rows, rows[:0], number, stop, scale)

        trained = yield from train_soup(make_job, range(first, len(context.steps)), results.scale)
        guards += trained.guards
        if trained.trainable is None:
            results.guards, results.failed = guards, _failed_scales(results.scale, trained)
            return self.give_up(results)
        answers = BaseModelAnswers(training_data, context, spread(rows, ROWS), settings.n_steps)
        make = make_job(first, trained.scale).make
        notes, remembering = yield from limit_forgetting(
            answers, trained.trainable, make, chosen, end.scores
        )
        guards += notes
        if remembering is not chosen:  # another network ships
            chosen, decision = remembering, self.decision(results, remembering)
        refit = RefitHead(training_data, plan, context.source)
        fitted, reader = refit.end(trained.trainable, head, chosen, end.scales)
        yield Event(stage="fine_tune", kind="end", values={"joined": n_joined})
        return FineTuned(
            network=trained.trainable.network,
            head=calibrate_head(
                fitted, chosen.scores, context.labels, results.fold, context.groups, context.target
            ),
            reader=reader,
            plan=as_followed(plan, n_joined),
            actions=trained.trainable.actions,
            guards=tuple(guards),
            probe_answers=results.probe_answers,
            decision=decision,
            fold=results.fold,
        )

    def give_up(self, results: _Folds) -> FineTuned:
        why = describe_failure(self.plan, results.guards[-1].kind, results.failed)
        fine_tuned = _probe_alone(self.training_data, given_up(self.plan, why), self.head, why)
        return replace(fine_tuned, guards=tuple(results.guards))

    def _job(
        self,
        head: HeadFit,
        keep: Rows,
        held: Rows,
        number: int,
        end: TrainingEnd | None,
        scale: float,
    ) -> TrainingJob:
        """One training of fresh copies of the base model on some rows, for the plan's epochs."""
        training_data, plan, context = self.training_data, self.plan, self.context
        read = training_data.extracted.reader(training_data.examples(keep))
        refit = RefitHead(training_data, plan, context.source)

        def make() -> TrainableNetwork:
            return trainable(training_data.extracted.network, plan, head, read, training_data.seed)

        def refit_scores(trained: TrainableNetwork) -> Array:
            return refit.held_scores(trained, head, keep, held)

        return TrainingJob(
            make=make,
            schedule=for_fold(schedule(plan), len(held), len(context.labels)),
            context=context,
            rows=keep,
            held=held,
            number=number,
            end=end,
            scale=scale,
            refit=refit_scores if len(held) else None,
            until=self.allowance.share(context.steps[number] / sum(context.steps[number:])),
        )


def open_source(training_data: TrainingDataset, plan: Plan) -> Steps[BatchSource]:
    """Cached outputs of the frozen blocks, or images for the whole network."""
    chosen, learn = schedule(plan), training_data.labelled.learn
    if chosen.split_at:
        return (yield from cache_activations(training_data, plan))
    return LiveBatches(
        pixels=read_pixels(training_data.collection, learn, training_data.prep),
        contents=tuple(example.sha256 for example in learn),
        augmentations=augmentations_of(chosen),
        seed=chosen.seed,
        prep=training_data.prep,
    )


def _probe_alone(training_data: TrainingDataset, plan: Plan, head: HeadFit, why: str) -> FineTuned:
    """The base model with its linear probe, and why only that is left."""
    data, extracted = training_data.labelled, training_data.extracted
    own_head = estimate_prior(training_data.prior, data, extracted.reader(data.learn))
    network, reader = extracted.network, extracted.reader
    return FineTuned(network, head, reader, plan, own_head=own_head, given_up=why)


def _failed_scales(first: float, trained: TrainedNetwork) -> tuple[float, ...]:
    """The learning rate scales of a failed training, from its first attempt to its last."""
    return tuple(scale for scale in SCALES if first >= scale >= trained.scale)


def held_out_folds(training_data: TrainingDataset, n_folds: int) -> list[Rows]:
    """The rows that each training holds out: the user's hold-out set, or folds of whole groups."""
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    if labelled.holdout:
        return [np.arange(n - labelled.holdout, n)]
    rng = np.random.default_rng([training_data.seed, 7])
    count = HOLDOUT_DIVISOR if n_folds == 1 else n_folds
    fold = folds(labelled.fold_strata, labelled.groups(), count, rng)
    return [np.flatnonzero(fold == f) for f in range(1 if n_folds == 1 else int(fold.max()) + 1)]
