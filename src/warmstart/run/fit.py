"""The recipe: read → features → checks → plan → head → fine_tune → evaluate → deliver.

`check` ends with the verdict; nothing is trained then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.data.dataset import Collection
from warmstart.events import Event, Steps, note
from warmstart.evidence import check as evidence_check
from warmstart.evidence.data_checks import write_lists
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.features.machine import keep_freed_memory
from warmstart.modalities.registry import MODALITIES
from warmstart.network.load import PretrainedModel
from warmstart.network.surgery import add_ensemble_branch
from warmstart.planning.fine_tuning import frozen_prefix
from warmstart.planning.forecast import given_up
from warmstart.planning.plan_file import in_words, output_words
from warmstart.planning.schedule import head_only
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import without
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.records.run_folder import Clock, RunFolder, recorded, write_json
from warmstart.records.summary import Checked, Evidence
from warmstart.request import Request, folder_name
from warmstart.run import cleaning, forecast
from warmstart.run import plan as run_plan
from warmstart.run.base_model import base_note, inherit, read_and_choose
from warmstart.run.deliver import Finished, Results, count_data, deliver, origin_of, surgery_of
from warmstart.run.from_scratch import with_scratch
from warmstart.run.journal import Journal, Unfinished, open_journal, tracked
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import standard_error
from warmstart.stats.metrics import MODEL_VARIANCE
from warmstart.stats.paired import hits_difference
from warmstart.tasks.registry import none_if_default
from warmstart.tasks.words import change_text, points
from warmstart.training import score
from warmstart.training.boosting import compare_boosting
from warmstart.training.dataset import LabelledRows, Reader, TrainingDataset, training_dataset
from warmstart.training.fine_tune import FineTuned, fine_tune
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit, weights_by_layer, with_calibration
from warmstart.training.score import ModelEvaluation, estimate, score_test
from warmstart.training.ship import FINE_TUNED, PROBE, Decision


def fit(typed: Request, unfinished: Unfinished | None = None) -> Steps[Finished]:
    """Run every stage into a new run folder, or the remaining ones into an `unfinished` one.

    Raises: DataError, ModelError, UsageError or RunFolderError before a folder is made;
    TrainingError or any other error afterwards (the folder then says FAILED or INTERRUPTED).
    """
    clock = Clock()
    request, collection, base = yield from read_and_choose(typed, clock)
    yield base_note(base.record, surgery_of(base))
    run_plan.validate(request, collection, base)
    journal = open_journal(request, collection, base, unfinished)
    clock.lap("read")
    steps = _run_stages(request, journal, collection, base, clock)
    return (yield from recorded(tracked(steps, request.track), journal.folder, journal.log))


def _run_stages(
    request: Request, journal: Journal, collection: Collection, base: PretrainedModel, clock: Clock
) -> Steps[Finished]:
    yield from journal.begin(request, collection, base, clock)
    extracted = yield from journal.extracted(request, collection, base)
    with threadpool_limits(limits=1, user_api="blas"):  # matrices are small: more threads only wait
        origin = origin_of(base, extracted.network)
        clock.lap("features")

        fix_into = journal.path if request.fix else None
        timely, data, names = yield from prepare(request, collection, base, extracted, fix_into)
        record, labelled = data.collection.record, data.labelled
        write_json(journal.path / "data.json", record)
        evidence = yield from journal.inspect(data)
        expected = evidence_check.judge(evidence, words=labelled.target.words, basis=data.basis)
        yield note("checks", "Check", evidence_check.headline(expected))
        clock.lap("checks")

        tries = evidence_check.tries_fine_tuning(data, expected)
        facts = run_plan.network_facts(timely, base, extracted.network, expected, tries)
        plan = journal.plan(lambda: forecast.make_plan(timely, data, facts, names, clock))
        yield _plan_note(plan, record)
        clock.lap("plan")

        head = yield from score.fit_all(data, plan)
        clock.lap("head")

        with keep_freed_memory():
            trained = yield from fine_tune(
                data,
                plan,
                head,
                digests=origin.digests,
                checkpoints=journal.checkpoints,
                deadline=forecast.training_deadline(timely, data, plan, clock),
            )
        chosen = yield from _choose(data, plan, head, trained)
        baselines = yield from compare_boosting(data, chosen)
        fine_tuned = replace(chosen, baselines=baselines)
        clock.lap("fine_tune")

        ships = evidence_check.ships(evidence, fine_tuned)
        measured = measure(fine_tuned, labelled, head, ships)
        clock.lap("evaluate")

        complete = yield from with_scratch(timely, data, evidence, fine_tuned)
        inspection, verdict = evidence_check.conclude(data, complete, fine_tuned, measured)
        clock.lap("fine_tune")

        results = Results(
            origin=origin,
            training_data=data,
            inspection=inspection,
            verdict=verdict,
            plan=plan,
            fine_tuned=fine_tuned,
            measured=measured,
            shipped=evidence_check.choose_shipped(verdict, fine_tuned),
            ignored=request.ignore,
        )
        return (yield from deliver(journal.folder, results, clock))


def _plan_note(plan: Plan, record: DataRecord) -> Event:
    text = f"{in_words(plan)} · new head for {output_words(record.task, record.classes)}"
    cut = given_up(plan, MODALITIES[record.kind].nouns)
    return note("plan", "Plan", f"{text}\nto fit your minutes: {cut}" if cut else text)


def prepare(
    request: Request,
    collection: Collection,
    base: PretrainedModel,
    extracted: ExtractedFeatures,
    fix_into: Path | None = None,
) -> Steps[tuple[Request, TrainingDataset, tuple[str, ...]]]:
    """Clean the data and arrange them in rows, with the names of the heads that may compete.

    Where the minutes are too few for every check, the request comes back with `--budget fast`,
    unless the user set another. Raises: DataError where too little
    of a class, or too few groups, are left.
    """
    cleaned = cleaning.clean(collection, extracted, fix_into)
    record, network = cleaned.record, extracted.network.record
    inherited = yield from inherit(base, network, record, extracted)
    timely = forecast.shorten_checks(request, network, len(record.examples))
    if timely is not request:
        yield note("checks", "Hurry", "few minutes: --budget fast, without the transfer gain")
    training_data = training_dataset(
        cleaned, extracted, base.record, timely.budget, request.seed, inherited
    )
    return timely, training_data, inherited.names(tuple(training_data.probe_layers))


def check(typed: Request) -> Steps[Checked]:
    """Read, extract features and check. With --out or --fix a folder is written, without a model.

    Raises: DataError, ModelError, UsageError or RunFolderError as `fit` does.
    """
    clock = Clock()
    request, collection, base = yield from read_and_choose(typed, clock)
    yield base_note(base.record)
    clock.lap("read")
    if request.out is None and not request.fix:
        return (yield from _run_checks(request, None, collection, base, clock))
    if request.out is not None:
        folder = RunFolder.create(request.out)
    else:
        name = folder_name(f"{collection.record.name}-check")
        folder = RunFolder.create_beside(Path("runs"), name)
    steps = _run_checks(request, folder.path, collection, base, clock)
    return (yield from recorded(steps, folder))


def _run_checks(
    request: Request,
    folder: Path | None,
    collection: Collection,
    base: PretrainedModel,
    clock: Clock,
) -> Steps[Checked]:
    extracted = yield from extract_features(collection, base)
    clock.lap("features")
    with threadpool_limits(limits=1, user_api="blas"):
        fix_into = folder if request.fix else None
        _, data, _ = yield from prepare(request, collection, base, extracted, fix_into)
        inspection = yield from evidence_check.check(data)
    clock.lap("checks")
    record, words = data.collection.record, data.labelled.target.words
    findings = without((*record.problems, *inspection.findings), request.ignore)
    if folder is not None:
        write_json(folder / "data.json", record)
        write_json(folder / "inspection.json", inspection)
        write_lists(folder, inspection.label_issues, inspection.off_topic)
    return Checked(
        verdict=evidence_check.judge(inspection, words=words, basis=data.basis),
        data=count_data(data.labelled, findings, inspection, record.kind),
        findings=findings,
        label_issues=inspection.label_issues,
        off_topic=inspection.off_topic,
        seconds=clock.table(),
        path=str(folder) if folder else None,
        task=none_if_default(record.task),
    )


# ---- What ships where the depth is not the user's: linear probe, fine-tuned network, or ensemble.

ENSEMBLE = "ensemble"
TINY_GAIN = 0.005  # of accuracy: below it, calibration decided


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A reader of the fine-tuned network's feature layers and of the base model's beside them."""

    tuned: Reader
    base: Reader

    def __call__(self, examples: Sequence[Example]) -> ReadFeatures:
        tuned, base = self.tuned(examples), self.base(examples)

        def read(layer: FeatureLayer) -> Features:
            return base(replace(layer, of="")) if layer.of else tuned(layer)

        return read


def measure(
    fine_tuned: FineTuned, labelled: LabelledRows, head: HeadFit, is_shipped: bool
) -> ModelEvaluation:
    """The estimate of what ships, of the linear probe on the same rows, and the test scores.

    `head` is the linear probe on the frozen network, fitted on all rows.
    """
    n_folds = max(len(np.unique(head.fold[head.fold >= 0])), 2)
    shipped = estimate(fine_tuned.head, labelled)
    probe = restrict_to_rows_of(head, fine_tuned.head)
    measured = ModelEvaluation(
        estimate=shipped,
        linear_probe=estimate(probe, labelled, shipped.method),
        gain=fine_tuned.gain,
        n_learnt=max(round((1 - 1 / n_folds) * len(labelled.learn)), 1),
    )
    if not labelled.test or not is_shipped:
        return measured
    scores, probabilities = score_test(fine_tuned.head, labelled, fine_tuned.reader(labelled.test))
    return replace(measured, test=scores, test_probabilities=probabilities)


def restrict_to_rows_of(head: HeadFit, other: HeadFit) -> HeadFit:
    """The linear probe's predictions on the rows that `other` held out."""
    held = (head.fold >= 0) & (other.fold >= 0)
    return replace(
        head,
        probabilities=np.where(held[:, None], head.probabilities, np.nan),
        fold=np.where(held, head.fold, -1),
    )


def _choose(
    training_data: TrainingDataset, plan: Plan, head: HeadFit, fine_tuned: FineTuned
) -> Steps[FineTuned]:
    """What ships, by held-out rows; a depth that the user set ships as it is."""
    decision, fold = fine_tuned.decision, fine_tuned.fold
    if decision is None or fold is None:
        return fine_tuned
    build = {PROBE: _probe, FINE_TUNED: _fine_tuned}.get(decision.kind, _ensemble)
    chosen = build(training_data, head, fine_tuned, decision)
    probe = np.where((fold >= 0)[:, None], head.probabilities, np.nan)
    gain = fine_tuning_gain(probe, decision.fine_tuned, training_data.labelled, fold)
    if plan.strategy.source != "user":
        yield note("fine_tune", "Compared", chosen.why)
    return replace(chosen, gain=gain)


def _fine_tuned(
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    """The fine-tuned network, calibrated on its predictions at full size."""
    fitted = fine_tuned.head
    scaled = replace(
        fitted,
        weight=(fitted.calibration.scale * fitted.weight).astype(np.float32),
        bias=_scaled_bias(fitted).astype(np.float32),
        probabilities=decision.probabilities,
    )
    calibrated = with_calibration(scaled, decision.option.calibration)
    if fine_tuned.plan.strategy.source == "user":
        return replace(fine_tuned, head=calibrated)
    words, gain = training_data.labelled.target.words, points(decision.ahead)
    why = f"{words.than.format(gain)} than the linear probe on held-out examples"
    if decision.ahead < TINY_GAIN:
        why = f"on held-out examples {words.tie}"
    return replace(fine_tuned, head=calibrated, why=why)


def _probe(
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    """The frozen network with the linear probe: training is reported and thrown away."""
    strategy = str(fine_tuned.plan.strategy.value)
    is_scratch = strategy.startswith("scratch")
    trained = "the network was trained from scratch" if is_scratch else f"{strategy} was fine-tuned"
    why = f"{trained} beside it and is no better on held-out examples"
    return replace(
        fine_tuned,
        network=training_data.extracted.network,
        head=head,
        reader=training_data.extracted.reader,
        plan=head_only(fine_tuned.plan, why),
        actions=None,
        guards=(),
        shipped="head",
        why=why,
    )


def _ensemble(
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    """Both in one network: the head reads the fine-tuned layers and the base model's own."""
    option, strategy = decision.option, str(fine_tuned.plan.strategy.value)
    cut, share = frozen_prefix(fine_tuned.plan), option.share
    base = training_data.extracted.network
    tuned_scale = share * fine_tuned.head.calibration.scale
    probe_scale = (1 - share) * head.calibration.scale
    columns = {
        layer: tuned_scale * weight
        for layer, weight in weights_by_layer(fine_tuned.head, base.record).items()
    }
    for layer, weight in weights_by_layer(head, base.record).items():
        place = layer if layer.block <= cut else replace(layer, of="base")
        columns[place] = columns.get(place, 0.0) + probe_scale * weight
    bias = share * _scaled_bias(fine_tuned.head) + (1 - share) * _scaled_bias(head)
    joint = replace(
        fine_tuned.head,
        name=f"{head.name}+{strategy}",
        feature_layers=tuple(columns),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
        bias=bias.astype(np.float32),
        probabilities=decision.probabilities,
    )
    words = training_data.labelled.target.words
    trained = "the network from scratch" if strategy.startswith("scratch") else strategy
    why = (
        f"on held-out examples an ensemble of {trained} and the linear probe "
        f"({100 * share:.0f} to {100 * (1 - share):.0f}) gives the best {words.answers}"
    )
    if decision.ahead < TINY_GAIN:
        why += f", if hardly {words.hardly}"
    return replace(
        fine_tuned,
        network=add_ensemble_branch(fine_tuned.network, base.backbone, cut),
        head=with_calibration(joint, option.calibration),
        reader=CandidatePair(fine_tuned.reader, training_data.extracted.reader),
        shipped=ENSEMBLE,
        why=why,
    )


def _scaled_bias(head: HeadFit) -> Array:
    return head.calibration.scale * head.bias.astype(np.float64) + head.calibration.bias


def fine_tuning_gain(probe: Array, tuned: Array, labelled: LabelledRows, fold: Rows) -> Evidence:
    """The gain of fine-tuning over the linear probe, on rows that neither was trained on.

    Shapes: probe, tuned (n, K) out-of-fold predictions by the same folds; fold (n,), -1 for rows
    that were never held out.
    """
    held, target = fold >= 0, labelled.target
    truth, groups, n = labelled.labels[held], labelled.groups()[held], int(held.sum())
    before, after = (target.credits(one[held], truth) for one in (probe, tuned))
    inflation = 1.0 if labelled.holdout or fold.max() < 1 else MODEL_VARIANCE  # one fold too
    gap = hits_difference(after, before, groups, inflation)
    probe_loss = target.answer_losses(probe[held], truth)
    loss = probe_loss - target.answer_losses(tuned[held], truth)
    details: dict[str, float | int | str] = {
        "log_loss": float(probe_loss.mean()),
        "log_loss_gain": float(loss.mean()),
        "log_loss_error": float(np.sqrt(inflation)) * standard_error(loss, groups),
    }
    change = change_text(gap.value, gap.low, gap.high)
    text = f"Fine-tuned against linear probe on the same {n:,} held-out examples: {change}."
    return Evidence(
        name="fine_tuning_gain",
        value=gap.value,
        low=gap.low,
        high=gap.high,
        n=n,
        meaning=text,
        details=details,
    )
