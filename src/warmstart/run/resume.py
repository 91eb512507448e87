"""`warmstart resume RUN`: the recipe again in the same folder, from where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from warmstart.distributed import here
from warmstart.errors import RunFolderError
from warmstart.events import Steps
from warmstart.features.machine import fix_threads, n_processors
from warmstart.records.run_folder import RunFolder, clear_checkpoints, open_log, read_json
from warmstart.records.summary import Summary
from warmstart.request import Request, read_request, with_objects
from warmstart.run.deliver import Finished
from warmstart.run.fit import fit
from warmstart.run.journal import FOLDER, NEW_RUN, Unfinished, environment
from warmstart.training.checkpoint import JOINT

Result = TypeVar("Result")


def resume(run: Path, objects: Mapping[str, Any] | None = None) -> Steps[Finished]:
    """Go on with a run that was stopped or killed; the result equals that of an unbroken run.

    `objects` are the Python objects that the run began from (data, test,
    base, preprocessing), by name. A finished run is returned unchanged.
    Raises: RunFolderError for a folder that holds no such run, is at work already, has failed,
    or began with other versions or more processors; UsageError for objects that are missing;
    DataError or ModelError where data or base model have changed; else as `fit`.
    """
    if not run.is_dir():
        raise RunFolderError(
            f"{run} does not exist; name the folder of a run that was stopped, such as runs/photos."
        )
    if (run / "FAILED").exists():
        why = (run / "FAILED").read_text("utf-8", errors="replace").strip() or "unknown"
        raise RunFolderError(
            f"{run} failed, and would again: {why.rstrip('.')}. Fix that, then begin a new run "
            "with `warmstart fit`."
        )
    folder = RunFolder(run.resolve())
    if (folder.path / "DONE").exists():
        return _finished(run, folder)
    file = read_request(folder.path)
    log = open_log(folder)
    try:
        if (folder.path / "DONE").exists():  # finished before the log was locked
            return _finished(run, folder)
        request = replace(with_objects(file, run, objects or {}), out=None)
        remark = check_same(run, file.environment)
        steps = fit(request, Unfinished(folder, log, file.base, remark))
        with as_before(file.environment):
            finished = yield from _within(file.place, steps)
    finally:
        log.close()
    return replace(finished, path=run)


def _finished(run: Path, folder: RunFolder) -> Finished:
    clear_checkpoints(folder)
    return Finished(path=run, summary=read_json(folder.path / "summary.json", Summary))


def check_same(run: Path, before: Mapping[str, Any]) -> str:
    """What may differ in the last digits, in words; empty where nothing has changed.

    Raises: RunFolderError for another version of a package, or fewer processors: a resumed run
    would differ from the one that was begun.
    """
    now = environment()
    for name, old in before["packages"].items():
        new = now["packages"].get(name)
        if new != old:
            state = f"{new} is installed" if new else "it is not installed"
            raise RunFolderError(
                f"{run} began with {name} {old}, and {state} now, so that results would differ; "
                f"install {name}=={old} again, {NEW_RUN}"
            )
    if n_processors() < before["processors"]:
        raise RunFolderError(
            f"{run} began on {before['processors']} processors, and this process may use "
            f"{n_processors()}, so that results would differ; allow it as many, {NEW_RUN}"
        )
    kinds = ("cpu", "gpu", "arithmetic")
    is_changed = any(now[kind] != before.get(kind, now[kind]) for kind in kinds)
    return "another processor than before: last digits may differ" if is_changed else ""


@contextmanager
def as_before(before: Mapping[str, Any]) -> Iterator[None]:
    """As many processors and threads as when the run began; restored at the end."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        n_needed = before["processors"] * here().local
        if allowed is not None and len(allowed) > n_needed:
            os.sched_setaffinity(0, sorted(allowed)[:n_needed])
        torch.set_num_threads(before["threads"])
        with fix_threads(before["processors"]):
            yield
    finally:
        torch.set_num_threads(threads)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def _within(place: Path, steps: Steps[Result]) -> Steps[Result]:
    """Run steps in the folder where the run began, or here if it is gone; the caller in its own."""
    place = place if place.is_dir() else Path.cwd()
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


def fit_along(request: Request) -> Steps[Finished]:
    """`fit` in another process than the first: equal work, in a folder of its own."""
    with TemporaryDirectory(prefix="warmstart-") as folder:
        return (yield from fit(replace(request, out=Path(folder) / "run", track=())))


def resume_along(run: Path, objects: Mapping[str, Any] | None = None) -> Steps[Finished]:
    """`resume` in another process than the first, in a copy of the folder."""
    with TemporaryDirectory(prefix="warmstart-") as folder:
        copy = Path(folder) / "run"
        if run.is_dir():
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(JOINT))
            for checkpoint in (run / FOLDER).glob(JOINT):  # as large as the network: only linked
                (copy / FOLDER / checkpoint.name).symlink_to(checkpoint.resolve())
        here().gather(None)  # the first goes on now
        return (yield from resume(copy, objects))
