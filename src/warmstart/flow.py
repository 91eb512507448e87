"""The order of work: read → look → check → plan → head → tune → evaluate → deliver."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from warmstart.data.collection import Collection
from warmstart.events import Steps
from warmstart.folder import RunFolder
from warmstart.joints import check, lineage, notes, planned, problems, request, rows, score, tune
from warmstart.joints.deliver import Finished, Results, deliver
from warmstart.joints.look import take_look
from warmstart.joints.model import origin_of, surgery_of
from warmstart.joints.request import Request
from warmstart.joints.scene import set_scene
from warmstart.joints.starting import choose_start
from warmstart.network.load import Start
from warmstart.recording import Clock, recorded
from warmstart.training.head import fit_head

__all__ = ["Request", "fit"]


def fit(asked: Request) -> Steps[Finished]:
    """Do the whole job into a new run folder.

    Raises: DataError, StartError, UsageError or RunFolderError before any folder is made;
    TrainingError, or what went wrong, after it (the folder then says FAILED or INTERRUPTED).
    """
    clock = Clock()
    request.check(asked)
    asked = planned.settle(asked)
    collection = yield from request.read_data(asked)
    yield notes.data(collection)
    asked, start = yield from choose_start(asked, collection, clock)
    yield notes.start(start.record, surgery_of(start))
    planned.rehearse(asked, collection, start)
    folder = request.open_folder(asked, collection.record.name)
    clock.lap("read")
    return (yield from recorded(_work(asked, folder, collection, start, clock), folder))


def _work(
    asked: Request, folder: RunFolder, collection: Collection, start: Start, clock: Clock
) -> Steps[Finished]:
    look = yield from take_look(collection, start, planned.engine_of(asked))
    with threadpool_limits(limits=1, user_api="blas"):  # small matrices: more threads only wait
        origin = origin_of(start, look.network)
        clock.lap("look")
        collection = problems.settled(collection, look, folder.path if asked.fix else None)
        inherited = yield from lineage.inherit(start, look.network.record, collection.record, look)
        scene = set_scene(collection, look, start.record, asked.budget, asked.seed, inherited)
        record, arranged, shapes = scene.collection.record, scene.arranged, scene.profiles
        stored = look.reader(arranged.learn)
        inspection = yield from check.check(scene)
        verdict = check.judge(inspection)
        yield notes.evidence(verdict)
        clock.lap("check")
        facts = planned.network_facts(asked, start, look.network, verdict)
        names = inherited.names(tuple(shapes))
        plan = planned.make_plan(asked, arranged.facts(), facts, names, look.engine)
        yield notes.plan(plan, record)
        clock.lap("plan")
        heads = rows.heads(plan, shapes, stored, len(arranged.learn), scene.prior)
        head = yield from fit_head(
            heads, rows.pose(arranged, plan), 0 if arranged.holdout else None
        )
        clock.lap("head")
        worked = yield from tune.tune(scene, plan, head, origin.digests)
        clock.lap("tune")
        shipped = check.choose_shipped(verdict, worked.plan, worked.head.name, worked.compared)
        is_shipped = shipped.strategy != "none"
        measured = score.measure(worked.head, arranged, worked.reader, is_shipped)
        clock.lap("evaluate")
        results = Results(
            origin=origin, look=look, record=record, arranged=arranged, inspection=inspection,
            verdict=verdict, plan=plan, worked=worked, measured=measured, shipped=shipped,
        )  # fmt: skip
        return (yield from deliver(folder, results, collection, clock))
