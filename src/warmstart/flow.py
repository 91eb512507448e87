"""The order of work: read → look → check → plan → head → evaluate → deliver."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from warmstart.data.collection import Collection
from warmstart.events import Steps
from warmstart.folder import RunFolder
from warmstart.joints import check, notes, problems, request, rows, score
from warmstart.joints.deliver import Finished, Results, deliver
from warmstart.joints.look import take_look
from warmstart.joints.model import Origin
from warmstart.joints.request import Request
from warmstart.joints.scene import set_scene
from warmstart.joints.starting import choose_start
from warmstart.network.ledger import take_digests
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
    collection = yield from request.read_data(asked)
    yield notes.data(collection)
    asked, start = yield from choose_start(asked, collection, clock)
    yield notes.start(start.record)
    folder = request.open_folder(asked, collection.record.name)
    clock.lap("read")
    return (yield from recorded(_work(asked, folder, collection, start, clock), folder))


def _work(
    asked: Request, folder: RunFolder, collection: Collection, start: Start, clock: Clock
) -> Steps[Finished]:
    look = yield from take_look(collection, start)
    with threadpool_limits(limits=1, user_api="blas"):  # small matrices: more threads only wait
        origin = Origin(start.record, look.network, take_digests(look.network))
        clock.lap("look")
        collection = problems.settled(collection, look, folder.path if asked.fix else None)
        scene = set_scene(collection, look, start.record, asked.budget, asked.seed)
        record, arranged, shapes = collection.record, scene.arranged, scene.profiles
        stored = look.reader(arranged.learn)
        inspection = yield from check.check(scene)
        verdict = check.judge(inspection)
        yield notes.evidence(verdict)
        clock.lap("check")
        plan = request.plan(
            asked, arranged.facts(), look.network.record, tuple(shapes), look.engine
        )
        yield notes.plan(plan, look.network.record, record)
        clock.lap("plan")
        heads = rows.heads(plan, shapes, stored, len(arranged.learn))
        head = yield from fit_head(
            heads, rows.pose(arranged, plan), 0 if arranged.holdout else None
        )
        clock.lap("head")
        shipped = check.choose_shipped(asked.strategy, verdict, head.name, len(plan.parts) - 1)
        is_shipped = shipped.strategy != "none"
        measured = score.measure(head, arranged, look.reader(arranged.test), is_shipped)
        clock.lap("evaluate")
        results = Results(
            origin=origin, look=look, record=record, arranged=arranged, inspection=inspection,
            verdict=verdict, plan=plan, head=head, measured=measured, shipped=shipped,
        )  # fmt: skip
        return (yield from deliver(folder, results, collection, clock))
