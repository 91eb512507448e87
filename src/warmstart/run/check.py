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
    """Read, look and check. With --out or --fix a folder is written, none of it a model.

    Raises: DataError, ModelError, UsageError or RunFolderError as `fit` does.
    """
    clock = Clock()
    check_request(request)
    collection = yield from read_data(request)
    yield notes.data(collection)
    request, base = yield from choose_base(request, collection, clock)
    yield notes.base(base.record)
    clock.lap("read")
    folder = _folder(request, collection.record.name)
    steps = _work(request, folder, collection, base, clock)
    return (yield from (recorded(steps, folder) if folder is not None else steps))


def _work(
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
        collection = cleaning.settled(collection, extracted, fix_into)
        inherited = yield from lineage.inherit(
            base, extracted.network.record, collection.record, extracted
        )
        training_data = training_dataset(
            collection, extracted, base.record, request.budget, request.seed, inherited
        )
        collection = training_data.collection
        inspection = yield from evidence_check.check(training_data)
    clock.lap("checks")
    found = without((*collection.record.problems, *inspection.findings), request.ignore)
    issues = inspection.label_issues
    if folder is not None:
        write_json(folder.path / "data.json", collection.record)
        write_json(folder.path / "inspection.json", inspection)
        write_lists(folder.path, issues, inspection.off_topic)
    record = collection.record
    return Checked(
        verdict=evidence_check.judge(
            inspection, words=training_data.labelled.target.words, basis=training_data.basis
        ),
        data=count_data(training_data.labelled, found, inspection, record.kind),
        findings=found,
        label_issues=issues,
        off_topic=inspection.off_topic,
        seconds=clock.table(),
        path=str(folder.path) if folder else None,
        task=None if record.task == "classify" else record.task,
    )


def _folder(request: Request, name: str) -> RunFolder | None:
    """A folder only where files were asked for."""
    if request.out is not None:
        return RunFolder.create(request.out)
    if request.fix:
        return RunFolder.create_beside(Path("runs"), folder_name(f"{name}-check"))
    return None
