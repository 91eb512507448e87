"""`warmstart check DATA`: data problems and the verdict; nothing is trained."""

from __future__ import annotations

from pathlib import Path

from threadpoolctl import threadpool_limits

from warmstart.data.dataset import Collection
from warmstart.events import Steps
from warmstart.evidence import check as evidence_check
from warmstart.evidence.data_checks import write_lists
from warmstart.features.extraction import extract_features
from warmstart.network.load import PretrainedModel
from warmstart.records.data import without
from warmstart.records.recording import Clock, recorded
from warmstart.records.run_folder import RunFolder, write_json
from warmstart.records.summary import Checked
from warmstart.request import Request, folder_name, read_data
from warmstart.request import check as check_request
from warmstart.run import cleaning, lineage, notes
from warmstart.run.base_model import choose_base
from warmstart.run.model_files import count_data
from warmstart.training.dataset import training_dataset


def check(request: Request) -> Steps[Checked]:
    """Read, extract features and check. With --out or --fix a folder is written, without a model.

    Raises: DataError, ModelError, UsageError or RunFolderError as `fit` does.
    """
    clock = Clock()
    check_request(request)
    collection = yield from read_data(request)
    yield notes.data(collection)
    request, base = yield from choose_base(request, collection, clock)
    yield notes.base(base.record)
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
        fix_folder = folder.path if request.fix and folder else None
        collection = cleaning.clean(collection, extracted, fix_folder)
        inherited = yield from lineage.inherit(
            base, extracted.network.record, collection.record, extracted
        )
        training_data = training_dataset(
            collection, extracted, base.record, request.budget, request.seed, inherited
        )
        inspection = yield from evidence_check.check(training_data)
    clock.lap("checks")
    record, issues = training_data.collection.record, inspection.label_issues
    findings = without((*record.problems, *inspection.findings), request.ignore)
    if folder is not None:
        write_json(folder.path / "data.json", record)
        write_json(folder.path / "inspection.json", inspection)
        write_lists(folder.path, issues, inspection.off_topic)
    return Checked(
        verdict=evidence_check.judge(
            inspection, words=training_data.labelled.target.words, basis=training_data.basis
        ),
        data=count_data(training_data.labelled, findings, inspection, record.kind),
        findings=findings,
        label_issues=issues,
        off_topic=inspection.off_topic,
        seconds=clock.table(),
        path=str(folder.path) if folder else None,
        task=None if record.task == "classify" else record.task,
    )
