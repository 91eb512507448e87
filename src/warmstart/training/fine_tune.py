"""Training parts of the network: once for each fold that is held out, then on all examples."""

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
from warmstart.planning.forecast import Allowance, gave_way
from warmstart.planning.rules import HELD_ONCE
from warmstart.planning.schedule import carried_out, given_up, of_rows, schedule, stage_actions
from warmstart.planning.words import gave_up
from warmstart.records.plan import Action, Plan
from warmstart.records.summary import Baseline, Estimate, Evidence, GuardNote
from warmstart.solve.calibration import Calibration
from warmstart.solve.ridge import Array, Rows
from warmstart.training.cached_activations import cache_activations, augmentations_of
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints
from warmstart.training.dataset import Reader, TrainingDataset
from warmstart.training.forgetting import ROWS, BaseModelAnswers, limit_forgetting
from warmstart.training.guards import overfit
from warmstart.training.job import SCALES, TrainingJob
from warmstart.training.linear_probe import HeadFit
from warmstart.training.live import read_pixels
from warmstart.training.model_soup import train_soup
from warmstart.training.output import RefitHead, OutputScales, calibrated, average_refits
from warmstart.training.score import estimate_prior, fit_on, head_probabilities
from warmstart.training.selection import cross_calibrated
from warmstart.training.shared import BatchSource, LiveBatches, TrainingContext
from warmstart.training.ship import PROBE, Decision, decide
from warmstart.training.trainable import TrainableNetwork, trainable
from warmstart.training.validation import (
    END,
    VALIDATIONS,
    REFIT,
    REFIT_ENDS,
    ChosenEnd,
    TrainingEnd,
    choose,
    spread,
)

# ---- Whether held-out rows got worse towards the end of the trainings, and what was done.


def check_overfit(chosen: ChosenEnd, groups: NDArray[np.int64], n_steps: int) -> GuardNote | None:
    """A note where the loss of held-out rows rose look by look, by more than chance.

    Shapes: blocks (n,).
    """
    steps = [
        TrainingEnd(validation=extracted).n_steps(n_steps)
        for extracted in range(1, VALIDATIONS + 1)
    ]
    held = np.isfinite(chosen.losses[END])
    looks = [losses[held] for losses in chosen.losses[:VALIDATIONS]]
    if not held.any():
        return None
    alarm, _ = overfit(looks, groups[held], steps)
    if alarm is None:
        return None
    end = chosen.end
    kept = f"what was learnt up to {end.validation} fifths of the steps is kept"
    if end.share < 1:
        kept = f"weights {end.share:.0%} of the way from the start's are kept"
    return GuardNote(kind="overfit", step=alarm.step, action=kept)


NO_LIMIT = Allowance()
EARLIEST = 2  # folds after which fine-tuning that does not pay is stopped


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The network that came out, its head, and a reader of its taps.

    `plan` is the plan as it was carried out: parts that did not join, and all of them where
    training was given up, are frozen in it. `actions` is None where nothing was trained step
    by step. `own_head` is what a run's own head is worth, before any new one was fitted.
    `given_up` says why the linear probe is left. `before` (n, K): how linear probes that
    learnt from what those trainings learnt from answer the rows held out, whose folds are `held`
    (n,); `decision`: what ships, where the linear probe was compared with the fine-tuned network.

    The ship rule fills in the rest: `gain`, what fine-tuning brought over the linear probe;
    `shipped`, where that is not the plan's strategy; `why`; `beside`, what other methods give on
    the same rows.
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
class _Ended:
    """Where trainings should have ended. Shapes: scores (C, n, K) of each candidate end."""

    joined: int
    scores: Array
    scales: tuple[OutputScales, ...]
    chosen: ChosenEnd


@dataclass(slots=True)
class _HeldOut:
    """What trainings without them said of held-out rows.

    Shapes: scores (C, n, K) of each candidate end, before (n, K) answers of the linear probes
    that those trainings began with, fold (n,); NaN and -1 for rows that were never held out.
    """

    scores: Array
    before: Array
    fold: Rows
    joined: list[int] = field(default_factory=list)  # groups of parts
    scale: float = 1.0
    guards: list[GuardNote] = field(default_factory=list)
    failed: tuple[float, ...] = ()  # scales of the rates of a training that was given up


def fine_tune(
    training_data: TrainingDataset,
    plan: Plan,
    head: HeadFit,
    digests: Mapping[str, str],
    checkpoints: Checkpoints | None = None,
    allowance: Allowance = NO_LIMIT,
) -> Steps[FineTuned]:
    """Train what the plan says; the network as it was looked at where it trains nothing.

    `digests` are those of the start's tensors, taken before the run touched any.

    The estimate comes from trainings that held rows out, each with a head fitted without
    them; then the network is trained on all rows, as far as held-out rows said was best.
    Where no rate works, the fitted head is what is left.
    Raises: TrainingError if a frozen tensor changed.
    """
    if not plan.is_trained:
        read = training_data.extracted.reader(training_data.labelled.learn)
        came = estimate_prior(training_data.prior, training_data.labelled, read)
        return FineTuned(
            training_data.extracted.network,
            head,
            training_data.extracted.reader,
            plan,
            own_head=came,
            given_up=gave_way(plan),
        )
    job = _TrainingJob(training_data, plan, head, checkpoints or NoCheckpoints(), allowance)
    folds_held = held_out_folds(training_data, schedule(plan).folds)
    steps = _steps(training_data, plan, folds_held)
    values: dict[str, float | int | str] = {"trainings": len(steps), "folds": len(folds_held)}
    values["unit"] = training_data.labelled.nouns.many
    yield Event(stage="fine_tune", kind="begin", values=values)
    torch.set_num_threads(threads_for(training_data.extracted.network.record))
    source = yield from open_source(training_data, plan)
    context = TrainingContext(
        source=source,
        labels=training_data.labelled.labels,
        groups=training_data.labelled.groups(),
        target=training_data.labelled.target,
        digests=digests,
        checkpoints=job.checkpoints,
        steps=steps,
    )
    held = yield from job.without(context, folds_held)
    if held.failed:
        return _head_alone(training_data, plan, head, held)
    return (yield from job.finish(context, job.ended(context, held), held))


@dataclass(frozen=True, slots=True)
class _TrainingJob:
    training_data: TrainingDataset
    plan: Plan
    head: HeadFit
    checkpoints: Checkpoints
    allowance: Allowance

    def without(self, context: TrainingContext, folds_held: Sequence[Rows]) -> Steps[_HeldOut]:
        """One training for each fold, on all rows but those; what they say of them."""
        n, training_data = len(context.labels), self.training_data
        shape = (n, training_data.labelled.n_classes)
        found = _HeldOut(
            np.full((REFIT + len(REFIT_ENDS), *shape), np.nan),
            np.full(shape, np.nan),
            np.full(n, -1, dtype=np.int64),
        )
        for number, held in enumerate(folds_held):
            keep = np.setdiff1d(np.arange(n), held)
            fitted = fit_on(training_data, self.plan, keep)
            found.before[held] = head_probabilities(
                fitted, training_data.extracted.reader(training_data.examples(held)), context.target
            )
            job = self._job(context, fitted, keep, held, number, None, found.scale)
            trained = yield from job.learn()
            found.guards += trained.guards
            if trained.has_failed:
                found.failed = _scales(found.scale, trained.scale)
                break
            found.scale = trained.scale
            found.scores[:, held] = trained.scores
            found.fold[held] = number
            found.joined.append(trained.n_stages)
            if number + 1 == EARLIEST < len(folds_held) and self.is_futile(context, found):
                text = f"after {EARLIEST} of {len(folds_held)} folds: it does not pay here"
                yield note("fine_tune", "Stopped", text)
                break
        return found

    def ended(self, context: TrainingContext, held: _HeldOut) -> _Ended:
        """Where the trainings should have ended, by rows that they held out."""
        joined = int(np.median(held.joined))
        # Where no layer joined, the fitted output is as good as another one on the same layers.
        said = held.scores if joined else held.scores[:REFIT]
        is_paired = schedule(self.plan).contrastive
        scores, scales = average_refits(said, context.labels, context.target, is_alone=is_paired)
        chosen = choose(
            scores,
            context.labels,
            held.fold,
            context.groups,
            _plain(self.head),
            context.target,
            usual=REFIT if is_paired else END,
        )
        return _Ended(joined, scores, scales, chosen)

    def decision(self, context: TrainingContext, held: _HeldOut, chosen: ChosenEnd) -> Decision:
        """What ships, by the answers of trainings that had not seen these rows."""
        head, plan, target = self.head, self.plan, context.target
        rows = held.fold >= 0
        tuned = cross_calibrated(
            chosen.scores / head.scale,
            context.labels,
            held.fold,
            context.groups,
            Calibration(head.scale, np.zeros(len(head.bias))),
            target,
        )[0]
        actions = {str(part.action.value) for part in plan.blocks}
        network = self.training_data.extracted.network
        return decide(
            np.where(rows[:, None], head.probabilities, np.nan),
            held.before,
            tuned,
            context.labels,
            held.fold,
            context.groups,
            target,
            is_apart="fresh" in actions,
            is_paired=schedule(plan).contrastive,
            may_ensemble="added" not in actions and can_ensemble(network, frozen_prefix(plan)),
            is_set=plan.strategy.source == "user",
        )

    def is_futile(self, context: TrainingContext, held: _HeldOut) -> bool:
        """Whether the folds so far leave no hope that fine-tuning ships.

        Nothing that ships depends on it but the time: where it is stopped, the linear probe ships,
        whose estimate comes from all of its own folds.
        """
        if self.plan.strategy.source == "user" or not held.joined:
            return False
        found = self.decision(context, held, self.ended(context, held).chosen)
        return found.kind == PROBE and found.ahead <= 0

    def finish(self, context: TrainingContext, ended: _Ended, held: _HeldOut) -> Steps[FineTuned]:
        """The training on all rows, where it ships; the head that came out, what it is worth."""
        training_data, plan, head = self.training_data, self.plan, self.head
        joined, scores, scales, chosen = ended.joined, ended.scores, ended.scales, ended.chosen
        yield from _tell_joined(plan, joined)
        decision = self.decision(context, held, chosen)
        if decision.kind == PROBE:
            yield Event(stage="fine_tune", kind="end", values={"joined": joined})
            return FineTuned(
                network=training_data.extracted.network,
                head=head,
                reader=training_data.extracted.reader,
                plan=carried_out(plan, joined),
                decision=decision,
                fold=held.fold,
            )
        guards = list(held.guards)
        if seen := check_overfit(chosen, context.groups, schedule(plan).n_steps):
            guards.append(seen)
            text = f"held-out examples got worse towards the end: {seen.action}"
            yield guard("overfit", text)
        end = replace(chosen.end, n_stages=joined)
        everything, first = (
            np.arange(len(context.labels)),
            len(context.steps) - schedule(plan).model_soup,
        )
        none = everything[:0]

        def of_all(number: int, scale: float) -> TrainingJob:
            return self._job(context, head, everything, none, number, end, scale)

        trained = yield from train_soup(of_all, range(first, len(context.steps)), held.scale)
        guards += trained.guards
        if trained.trainable is None:
            held.guards, held.failed = guards, _scales(held.scale, trained.scale)
            return _head_alone(training_data, plan, head, held)
        memory = BaseModelAnswers(
            training_data, context, spread(everything, ROWS), schedule(plan).n_steps
        )
        make = of_all(first, trained.scale).make
        kept = limit_forgetting(memory, trained.trainable, make, chosen, scores)
        told, end = yield from kept
        guards += told
        if end is not chosen:  # the network that ships is another one
            chosen, decision = end, self.decision(context, held, end)
        again = RefitHead(training_data, plan, context.source)
        output, reader = again.end(trained.trainable, head, chosen, scales)
        tuned = calibrated(
            output, chosen.scores, context.labels, held.fold, context.groups, context.target
        )
        yield Event(stage="fine_tune", kind="end", values={"joined": joined})
        return FineTuned(
            network=trained.trainable.network,
            head=tuned,
            reader=reader,
            plan=carried_out(plan, joined),
            actions=trained.trainable.actions,
            guards=tuple(guards),
            probe_answers=held.before,
            decision=decision,
            fold=held.fold,
        )

    def _job(
        self,
        context: TrainingContext,
        head: HeadFit,
        keep: Rows,
        held: Rows,
        number: int,
        end: TrainingEnd | None,
        scale: float,
    ) -> TrainingJob:
        """One training of fresh copies of the start on some rows, each passed as often."""
        training_data, plan = self.training_data, self.plan
        read = training_data.extracted.reader(training_data.examples(keep))
        steps = context.steps

        def make() -> TrainableNetwork:
            return trainable(training_data.extracted.network, plan, head, read, training_data.seed)

        again = RefitHead(training_data, plan, context.source)

        def refit(trained: TrainableNetwork) -> Array:
            return again.held_scores(trained, head, keep, held)

        return TrainingJob(
            make=make,
            schedule=of_rows(schedule(plan), len(held), len(context.labels)),
            context=context,
            rows=keep,
            held=held,
            number=number,
            end=end,
            scale=scale,
            refit=refit if len(held) else None,
            until=self.allowance.share(steps[number] / sum(steps[number:])),
        )


def _steps(
    training_data: TrainingDataset, plan: Plan, folds_held: Sequence[Rows]
) -> tuple[int, ...]:
    """Updates of each training, in proportion to what it learns from; the last learn from all."""
    n, chosen = len(training_data.labelled.learn), schedule(plan)
    steps = (of_rows(chosen, len(held), n).n_steps for held in folds_held)
    return (*steps, *[chosen.n_steps] * chosen.model_soup)


def open_source(training_data: TrainingDataset, plan: Plan) -> Steps[BatchSource]:
    """Stored outputs of the frozen parts, or images for the whole network."""
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


def _head_alone(
    training_data: TrainingDataset, plan: Plan, head: HeadFit, held: _HeldOut
) -> FineTuned:
    """What is left where training was given up: the network as it came, its fitted head."""
    why = gave_up(plan, held.guards[-1].kind, held.failed)
    read = training_data.extracted.reader(training_data.labelled.learn)
    return FineTuned(
        network=training_data.extracted.network,
        head=head,
        reader=training_data.extracted.reader,
        plan=given_up(plan, why),
        own_head=estimate_prior(training_data.prior, training_data.labelled, read),
        guards=tuple(held.guards),
        given_up=why,
    )


def _scales(first: float, last: float) -> tuple[float, ...]:
    """Of the rates of a training from its first attempt to its last."""
    return tuple(scale for scale in SCALES if first >= scale >= last)


def _tell_joined(plan: Plan, joined: int) -> Steps[None]:
    """How many groups of layers joined, where they join one after the other."""
    groups = len(stage_actions(schedule(plan), {}))
    if groups > 1:
        text = f"{joined} of {groups} groups of layers joined"
        text += "" if joined == groups else "; one more did not help on examples set apart"
        yield note("fine_tune", "Joined", text)


def held_out_folds(training_data: TrainingDataset, n_folds: int) -> list[Rows]:
    """The rows of each training that holds some out: the user's own hold-out, or whole blocks."""
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    if labelled.holdout:
        return [np.arange(n - labelled.holdout, n)]
    rng = np.random.default_rng([training_data.seed, 7])
    part = folds(labelled.folding, labelled.groups(), HELD_ONCE if n_folds == 1 else n_folds, rng)
    return [np.flatnonzero(part == f) for f in range(1 if n_folds == 1 else int(part.max()) + 1)]


def _plain(head: HeadFit) -> Calibration:
    """The fitted head's own calibration, for scores that were not divided by its temperature."""
    return Calibration(1.0, np.zeros(len(head.bias)))
