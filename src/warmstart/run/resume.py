"""`warmstart resume RUN`: the same flow again in the same folder, from where it was left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from warmstart.distributed import here
from warmstart.errors import RunFolderError
from warmstart.events import Steps
from warmstart.records.recording import clear_checkpoints, open_log
from warmstart.records.run_folder import RunFolder, read_json
from warmstart.records.summary import Summary
from warmstart.request import Request, read_request, with_objects
from warmstart.run.deliver import Finished
from warmstart.run.journal import FOLDER, Unfinished, as_before, check_same
from warmstart.training.checkpoint import JOINT

Result = TypeVar("Result")
Fit = Callable[[Request, Unfinished], Steps[Finished]]


def resume(run: Path, fit: Fit, objects: Mapping[str, Any] | None = None) -> Steps[Finished]:
    """Go on with a run that was stopped or killed; the result is as if it never had been.

    `fit` is the flow. `objects` are the Python objects that the run began from (data, test,
    start, preprocessing), by name. A run that is done is handed back as it is.
    Raises: RunFolderError for a folder that holds no such run, is at work already, has failed,
    or began with other versions or more processors; UsageError for objects that are missing;
    DataError or ModelError where data or start are not what they were; else as `fit`.
    """
    place = _checked(run)
    if (place / "DONE").exists():
        return _done(run, place)
    file = read_request(place)
    log = open_log(RunFolder(place))
    try:
        if (place / "DONE").exists():  # while nobody held the log
            return _done(run, place)
        asked = replace(with_objects(file, run, objects or {}), out=None)
        remark = check_same(run, file.around)
        steps = fit(asked, Unfinished(RunFolder(place), log, file.base, remark))
        with as_before(file.around):
            finished = yield from _within(file.place, steps)
    finally:
        log.close()
    return replace(finished, path=run)


def _checked(run: Path) -> Path:
    """The folder itself. Raises: RunFolderError for none, or a run that failed."""
    if not run.is_dir():
        raise RunFolderError(
            f"{run} does not exist; name the folder of a run that was stopped, such as runs/photos."
        )
    if (run / "FAILED").exists():
        why = (run / "FAILED").read_text("utf-8", errors="replace").strip() or "unknown"
        raise RunFolderError(
            f"{run} failed, and would again: {why.rstrip('.')}. Mend that, then begin a new run "
            "with `warmstart fit`."
        )
    return run.resolve()


def _done(run: Path, place: Path) -> Finished:
    clear_checkpoints(RunFolder(place))
    return Finished(path=run, summary=read_json(place / "summary.json", Summary))


def _within(place: Path, steps: Steps[Result]) -> Steps[Result]:
    """The steps with relative paths as they were typed; the caller's stay as they are.

    Where the folder that they began from is gone, they begin from where we are.
    """
    place = place if place.is_dir() else Path(os.getcwd())
    try:
        while True:
            try:
                with chdir(place):
                    event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            yield event
    finally:
        with chdir(place):
            steps.close()


# ---- A job in a process that is not the first of several: the same work, in a folder of its own.
#
# It does all that the first does; its folder ends with it.


def fit_along(request: Request, fit: Callable[[Request], Steps[Finished]]) -> Steps[Finished]:
    """A new run, beside the first process's. Raises: as `fit`, the flow."""
    with _own_folder() as place:
        return (yield from fit(replace(request, out=place / "run", track=())))


def resume_along(run: Path, fit: Fit, objects: dict[str, object] | None = None) -> Steps[Finished]:
    """One that goes on, from a copy of the folder as the first process finds it.

    Raises: as `resume`.
    """
    with _own_folder() as place:
        if run.is_dir():
            shutil.copytree(run, place / "run", ignore=shutil.ignore_patterns(JOINT))
            for kept in (run / FOLDER).glob(JOINT):  # as large as the network: seen, not copied
                (place / "run" / FOLDER / kept.name).symlink_to(kept.resolve())
        here().gathered(None)  # the first goes on now
        return (yield from resume(place / "run", fit, objects))


@contextmanager
def _own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="warmstart-") as place:
        yield Path(place)
