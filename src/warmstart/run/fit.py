"""The recipe: read → features → checks → plan → head → fine_tune → evaluate → deliver."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from warmstart.data.dataset import Collection
from warmstart.events import Steps
from warmstart.evidence import check
from warmstart.network.load import PretrainedModel
from warmstart.records.recording import Clock, recorded
from warmstart.records.run_folder import write_json
from warmstart.request import Request, read_data
from warmstart.request import check as check_request
from warmstart.run import cleaning, forecast, lineage, notes
from warmstart.run import plan as run_plan
from warmstart.run.base_model import choose_base
from warmstart.run.candidates import fine_tune_and_choose, measure
from warmstart.run.deliver import Finished, Results, deliver
from warmstart.run.from_scratch import concluded
from warmstart.run.journal import Journal, Unfinished, open_journal
from warmstart.run.model_files import origin_of, surgery_of
from warmstart.run.track import tracked
from warmstart.training import score
from warmstart.training.dataset import training_dataset


def fit(request: Request, unfinished: Unfinished | None = None) -> Steps[Finished]:
    """Run every stage into a new run folder, or the remaining ones into an `unfinished` one.

    Raises: DataError, ModelError, UsageError or RunFolderError before a folder is made;
    TrainingError or any other error afterwards (the folder then says FAILED or INTERRUPTED).
    """
    clock = Clock()
    check_request(request)
    request = run_plan.with_plan_file(request)
    collection = yield from read_data(request)
    yield notes.data(collection)
    request, base = yield from choose_base(request, collection, clock)
    yield notes.base(base.record, surgery_of(base))
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
        collection = cleaning.clean(collection, extracted, journal.path if request.fix else None)
        inherited = yield from lineage.inherit(
            base, extracted.network.record, collection.record, extracted
        )
        request = yield from forecast.apply_minutes(
            request, extracted, len(collection.record.examples)
        )
        training_data = training_dataset(
            collection, extracted, base.record, request.budget, request.seed, inherited
        )
        record, labelled = training_data.collection.record, training_data.labelled
        write_json(journal.path / "data.json", record)
        inspection = yield from journal.inspect(training_data)
        verdict = check.judge(inspection, words=labelled.target.words, basis=training_data.basis)
        yield notes.evidence(verdict)
        clock.lap("checks")
        depth = verdict, check.tries_fine_tuning(training_data, verdict)
        facts = run_plan.network_facts(request, base, extracted.network, *depth)
        names = inherited.names(tuple(training_data.probe_layers))
        plan = journal.plan(lambda: forecast.make_plan(request, training_data, facts, names, clock))
        yield notes.plan(plan, record)
        clock.lap("plan")
        head = yield from score.fit_all(training_data, plan)
        clock.lap("head")
        allowance = forecast.training_allowance(request, training_data, plan, clock)
        fine_tuned = yield from fine_tune_and_choose(
            training_data, plan, head, origin.digests, journal.checkpoints, allowance
        )
        clock.lap("fine_tune")
        measured = measure(fine_tuned, labelled, head, check.ships(inspection, fine_tuned))
        clock.lap("evaluate")
        inspection, verdict = yield from concluded(
            request, training_data, inspection, fine_tuned, measured
        )
        clock.lap("fine_tune")
        shipped = check.choose_shipped(verdict, fine_tuned)
        results = Results(
            origin=origin,
            extracted=extracted,
            record=record,
            labelled=labelled,
            inspection=inspection,
            verdict=verdict,
            plan=plan,
            fine_tuned=fine_tuned,
            measured=measured,
            shipped=shipped,
            ignored=request.ignore,
        )
        return (yield from deliver(journal.folder, results, collection, clock))
