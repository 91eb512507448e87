"""The recipe: read → features → checks → plan → head → fine_tune → evaluate → deliver.

`check` ends with the verdict; nothing is trained then.
"""

from __future__ import annotations

from pathlib import Path

from threadpoolctl import threadpool_limits

from warmstart.data.dataset import Collection
from warmstart.events import Steps, note
from warmstart.evidence import check as evidence_check
from warmstart.evidence.data_checks import write_lists
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.modalities.registry import MODALITIES
from warmstart.network.load import PretrainedModel
from warmstart.planning.forecast import given_up
from warmstart.planning.plan_file import in_words, output_words
from warmstart.records.data import without
from warmstart.records.run_folder import Clock, RunFolder, recorded, write_json
from warmstart.records.summary import Checked
from warmstart.request import Request, folder_name
from warmstart.run import cleaning, forecast, lineage
from warmstart.run import plan as run_plan
from warmstart.run.base_model import base_note, read_and_choose
from warmstart.run.candidates import fine_tune_and_choose, measure
from warmstart.run.deliver import Finished, Results, count_data, deliver, origin_of, surgery_of
from warmstart.run.from_scratch import concluded
from warmstart.run.journal import Journal, Unfinished, open_journal
from warmstart.run.track import tracked
from warmstart.tasks.registry import none_if_default
from warmstart.training import score
from warmstart.training.dataset import TrainingDataset, training_dataset


def fit(request: Request, unfinished: Unfinished | None = None) -> Steps[Finished]:
    """Run every stage into a new run folder, or the remaining ones into an `unfinished` one.

    Raises: DataError, ModelError, UsageError or RunFolderError before a folder is made;
    TrainingError or any other error afterwards (the folder then says FAILED or INTERRUPTED).
    """
    clock = Clock()
    request, collection, base = yield from read_and_choose(request, clock)
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
        request, training_data, names = yield from prepare(
            request, collection, base, extracted, fix_into
        )
        record, labelled = training_data.collection.record, training_data.labelled
        write_json(journal.path / "data.json", record)
        inspection = yield from journal.inspect(training_data)
        words = labelled.target.words
        verdict = evidence_check.judge(inspection, words=words, basis=training_data.basis)
        by_name = {evidence.name: evidence for evidence in verdict.evidence}
        measured_first = by_name.get("transfer_gain", by_name["permutation_test"])
        yield note("checks", "Check", measured_first.meaning)
        clock.lap("checks")
        depth = verdict, evidence_check.tries_fine_tuning(training_data, verdict)
        facts = run_plan.network_facts(request, base, extracted.network, *depth)
        plan = journal.plan(lambda: forecast.make_plan(request, training_data, facts, names, clock))
        text = f"{in_words(plan)} · new head for {output_words(record.task, record.classes)}"
        if cut := given_up(plan, MODALITIES[record.kind].nouns):
            text += f"\nto fit your minutes: {cut}"
        yield note("plan", "Plan", text)
        clock.lap("plan")
        head = yield from score.fit_all(training_data, plan)
        clock.lap("head")
        allowance = forecast.training_allowance(request, training_data, plan, clock)
        fine_tuned = yield from fine_tune_and_choose(
            training_data, plan, head, origin.digests, journal.checkpoints, allowance
        )
        clock.lap("fine_tune")
        measured = measure(fine_tuned, labelled, head, evidence_check.ships(inspection, fine_tuned))
        clock.lap("evaluate")
        inspection, verdict = yield from concluded(
            request, training_data, inspection, fine_tuned, measured
        )
        clock.lap("fine_tune")
        results = Results(
            origin=origin,
            training_data=training_data,
            inspection=inspection,
            verdict=verdict,
            plan=plan,
            fine_tuned=fine_tuned,
            measured=measured,
            shipped=evidence_check.choose_shipped(verdict, fine_tuned),
            ignored=request.ignore,
        )
        return (yield from deliver(journal.folder, results, clock))


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
    collection = cleaning.clean(collection, extracted, fix_into)
    record, network = collection.record, extracted.network.record
    inherited = yield from lineage.inherit(base, network, record, extracted)
    shortened = forecast.shorten_checks(request, network, len(record.examples))
    if shortened is not request:
        yield note("checks", "Hurry", "few minutes: --budget fast, without the transfer gain")
    training_data = training_dataset(
        collection, extracted, base.record, shortened.budget, request.seed, inherited
    )
    return shortened, training_data, inherited.names(tuple(training_data.probe_layers))


def check(request: Request) -> Steps[Checked]:
    """Read, extract features and check. With --out or --fix a folder is written, without a model.

    Raises: DataError, ModelError, UsageError or RunFolderError as `fit` does.
    """
    clock = Clock()
    request, collection, base = yield from read_and_choose(request, clock)
    yield base_note(base.record)
    clock.lap("read")
    folder = None
    if request.out is not None:
        folder = RunFolder.create(request.out)
    elif request.fix:
        name = folder_name(f"{collection.record.name}-check")
        folder = RunFolder.create_beside(Path("runs"), name)
    steps = _run_checks(request, folder, collection, base, clock)
    return (yield from (recorded(steps, folder) if folder is not None else steps))


def _run_checks(
    request: Request,
    folder: RunFolder | None,
    collection: Collection,
    base: PretrainedModel,
    clock: Clock,
) -> Steps[Checked]:
    extracted = yield from extract_features(collection, base)
    clock.lap("features")
    with threadpool_limits(limits=1, user_api="blas"):
        fix_into = folder.path if request.fix and folder else None
        _, data, _ = yield from prepare(request, collection, base, extracted, fix_into)
        inspection = yield from evidence_check.check(data)
    clock.lap("checks")
    record, words = data.collection.record, data.labelled.target.words
    findings = without((*record.problems, *inspection.findings), request.ignore)
    if folder is not None:
        write_json(folder.path / "data.json", record)
        write_json(folder.path / "inspection.json", inspection)
        write_lists(folder.path, inspection.label_issues, inspection.off_topic)
    return Checked(
        verdict=evidence_check.judge(inspection, words=words, basis=data.basis),
        data=count_data(data.labelled, findings, inspection, record.kind),
        findings=findings,
        label_issues=inspection.label_issues,
        off_topic=inspection.off_topic,
        seconds=clock.table(),
        path=str(folder.path) if folder else None,
        task=none_if_default(record.task),
    )
