"""The progress of a run in its folder, so that it can be resumed after a kill.

`checkpoints/` holds, until the run is finished, the data as they were read, the states of
trainings, and `journal.json`: the engine, and the digests of the files that stages have written,
each with the key of what that stage depends on. A stage whose key and file are unchanged is not
run again; its result is read from the file in any case, so that equal values follow. Trackers
(`--track`) follow the same events.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, TextIO

import torch

import warmstart
from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.errors import DataError, ModelError, RunFolderError
from warmstart.events import Event, Steps, note, tapped
from warmstart.evidence import check
from warmstart.evidence.data_checks import write_lists
from warmstart.features.cache_key import cpu_name, version_of
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.features.machine import n_threads
from warmstart.network.load import PretrainedModel
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.records.data import DataRecord
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import (
    LOG,
    Clock,
    RunFolder,
    from_plain,
    open_log,
    opening,
    read_json,
    seconds_worked,
    to_plain,
    write_bytes,
    write_json,
)
from warmstart.records.summary import Inspection, Summary
from warmstart.reporting.curves import (
    Axis,
    Choices,
    CurveReader,
    Curves,
    choices_in,
    numbers_of,
    results_of,
)
from warmstart.request import Request, as_plain, open_folder, write_request
from warmstart.run.deliver import Finished
from warmstart.run.plan import engine_of, stored_block
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.dataset import TrainingDataset
from warmstart.training.trackers import open_tracker, tracker_location

# ---- The environment that changes results: recorded, and restored on resume.

PACKAGES = "torch torchvision timm numpy scipy scikit-learn pillow onnxruntime peft transformers"
FOLDER = "checkpoints"
READ, NOTES, PLAN = "read.json", "journal.json", "plan.toml"
NEW_RUN = "or begin a new run with `warmstart fit`."
ARITHMETIC = "MKL_CBWR"  # the mode of MKL; a strict one rounds equally everywhere


def environment() -> dict[str, Any]:
    """Versions, processors and rounding mode, as they are now."""
    versions = {}
    for name in PACKAGES.split():
        with suppress(PackageNotFoundError):  # an extra that is not installed
            versions[name] = version_of(name)
    return {
        "packages": {"warmstart": warmstart.__version__, **versions},
        "processors": n_threads(),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "arithmetic": os.environ.get(ARITHMETIC, ""),
    }


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run to resume: its folder, its locked log, its base model, and what has changed."""

    folder: RunFolder
    log: TextIO
    base: str  # SHA-256 of its tensors
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Journal:
    """The run folder of a run in progress: results of stages are written there, and read again.

    `about`: a digest of the request, the base model and the environment; `earlier`: seconds by
    stage of earlier processes.
    """

    folder: RunFolder
    log: TextIO
    about: str
    notes: dict[str, Any]  # the content of journal.json
    earlier: Mapping[str, float] | None = None  # None: this process begins the run
    remark: str = ""

    @property
    def path(self) -> Path:
        return self.folder.path

    def begin(
        self, request: Request, collection: Collection, base: PretrainedModel, clock: Clock
    ) -> Steps[None]:
        """Write request.json and read.json; an event names the folder."""
        if self.earlier is None:
            yield opening(self.folder, clock)
            write_request(self.path, request, base.record.sha256, environment())
        else:
            text = f"goes on after {sum(self.earlier.values()):.0f} s of work"
            yield opening(self.folder, clock, f"{text}; {self.remark}" if self.remark else text)
            clock.add(self.earlier)
        (self.path / FOLDER).mkdir(exist_ok=True)
        write_json(self.path / FOLDER / READ, collection.record)

    def extracted(
        self, request: Request, collection: Collection, base: PretrainedModel
    ) -> Steps[ExtractedFeatures]:
        """Features by the engine that the run began with: another rounds differently."""
        stored = self.notes.get("engine")
        engine = engine_of(request) if stored is None else from_plain(Choice, stored)
        block = stored_block(request, base, len(collection.record.examples))

        def write_engine(engine: Choice) -> None:  # before the first image is passed
            if "engine" not in self.notes:
                self._note(engine=to_plain(engine))

        return (yield from extract_features(collection, base, engine, write_engine, block))

    def inspect(self, training_data: TrainingDataset) -> Steps[Inspection]:
        """The evidence for the verdict: measured, or read where nothing has changed."""
        path = self.path / "inspection.json"
        key = self._key("inspection", _digest(self.path / "data.json"))
        if self.notes.get("inspection") != [key, _digest(path)]:
            write_json(path, (yield from check.check(training_data)))
            self._note(inspection=[key, _digest(path)])
        inspection = read_json(path, Inspection)
        write_lists(self.path, inspection.label_issues, inspection.off_topic)
        return inspection

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan: made, or strictly as it was, for some of it rests on measured times."""
        path = self.path / PLAN
        key = self._key("plan", _digest(self.path / "inspection.json"))
        if self.notes.get("plan", [""])[0] != key:
            write_bytes(path, write_plan(here().same(make())).encode())
            self._note(plan=[key, _digest(path)])
        return read_plan(path.read_text("utf-8"), str(path))

    @property
    def checkpoints(self) -> Checkpoints:
        """For the trainings of the plan."""
        names = ("data.json", "inspection.json", PLAN)
        key = self._key("training", *(_digest(self.path / name) for name in names))
        return Checkpoints(self.path / FOLDER, key)

    def _key(self, *digests: str) -> str:
        content = [self.about, self.notes.get("engine"), *digests]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _note(self, **notes: Any) -> None:
        self.notes.update(notes)
        write_json(self.path / FOLDER / NOTES, self.notes)


def open_journal(
    request: Request,
    collection: Collection,
    base: PretrainedModel,
    unfinished: Unfinished | None = None,
) -> Journal:
    """The journal of a new run, in a new folder, or of a resumed one.

    Raises: RunFolderError if no folder can be made, or its plan was changed; DataError or
    ModelError where the data or the base model have changed.
    """
    about = _about(request, base)
    if unfinished is None:
        folder = open_folder(request, collection.record.name)
        return Journal(folder, open_log(folder), about, {})
    folder = unfinished.folder
    if base.record.sha256 != unfinished.base:
        raise ModelError(
            f"the weights of {base.record.name} are not those that {folder.path} began with; "
            f"put them back, {NEW_RUN}"
        )
    if (folder.path / FOLDER / READ).exists():
        before = read_json(folder.path / FOLDER / READ, DataRecord)
        check_same_data(folder.path, before, collection.record)
    notes = _read_notes(folder.path / FOLDER / NOTES)
    if "plan" in notes and notes["plan"][1] != _digest(folder.path / PLAN):
        raise RunFolderError(
            f"{folder.path / PLAN} was changed or removed after its run had begun; put it back, or "
            "give what you want to a new run: warmstart fit DATA --plan FILE"
        )
    earlier = seconds_worked(folder.path / LOG)
    folder.unmark()
    return Journal(folder, unfinished.log, about, notes, earlier, unfinished.remark)


def check_same_data(run: Path, before: DataRecord, now: DataRecord) -> None:
    """Raises: DataError naming the first example that differs from when the run began."""
    if now == before:
        return
    old, new = ({e.id: e for e in record.examples} for record in (before, now))
    difference = "its list of unreadable files differs"
    if id := next((id for id in old | new if old.get(id) != new.get(id)), None):
        difference = f"{id} has another label, group or split"
        if id not in new:
            difference = f"{id} is gone"
        elif id not in old:
            difference = f"{id} is new"
        elif new[id].sha256 != old[id].sha256:
            difference = f"{id} has changed"
    raise DataError(
        f"the data of {run} have changed since it began: {difference}; put them back, {NEW_RUN}"
    )


def _about(request: Request, base: PretrainedModel) -> str:
    """A digest of what stages depend on, apart from each other, the data and processor names."""
    now = {name: value for name, value in environment().items() if name not in ("cpu", "gpu")}
    plain = {n: value for n, value in as_plain(request).items() if n not in ("out", "track")}
    text = json.dumps([plain, base.record.sha256, now], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _read_notes(path: Path) -> dict[str, Any]:
    """The journal; a missing or damaged entry is dropped, and its stage runs again."""
    valid: dict[str, Any] = {}
    try:
        notes = json.loads(path.read_text("utf-8"))
        for name in ("inspection", "plan"):
            if isinstance(pair := notes.get(name), list) and [*map(type, pair)] == [str, str]:
                valid[name] = pair
        if "engine" in notes:
            valid["engine"] = to_plain(from_plain(Choice, notes["engine"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return valid


# ---- Live training curves in TensorBoard, W&B, MLflow and other trackers of Accelerate.

SHARE = 0.05  # of the training time that logging may take; validations are logged in any case
LONGEST = 160  # characters of an error that are shown


def tracked(steps: Steps[Finished], names: Sequence[str]) -> Steps[Finished]:
    """Run steps and log their events to trackers, from when an event names the run folder.

    A tracker that fails is dropped, with a note: it never ends the work.
    """
    if not names:
        return (yield from steps)
    board = _Trackers(tuple(dict.fromkeys(names)))
    try:
        finished = yield from tapped(steps, board.log)
        yield from board.finish(finished.summary)
        return finished
    finally:
        board.close()  # where the work ended early; errors are no longer reported


@dataclass(slots=True)
class _Tracker:
    backend: Any
    began: float  # by the clock of the events
    spent: float = 0.0

    def log(self, values: Curves, step: int) -> None:
        start = time.perf_counter()
        self.backend.log(values, step=step)
        self.spent += time.perf_counter() - start


class _Trackers:
    def __init__(self, names: Sequence[str]) -> None:
        self.waiting = names
        self.trackers: dict[str, _Tracker] = {}
        self.folder: Path | None = None
        self.reader = CurveReader()
        self.axis = Axis()
        self.latest = Event(stage="read", kind="begin")
        self.notes: list[Event] = []

    def log(self, event: Event) -> list[Event]:
        """Log the curves of an event; returns notes on trackers that started or failed."""
        self.latest = event
        if "folder" in event.values:
            self.folder = Path(str(event.values["folder"]))
        values = self.reader.read(event)
        is_planned = event.stage == "plan" and event.kind == "note"
        if self.folder is not None and (is_planned or values):
            self._start(self.folder)
        if values:
            self.axis.see(event)
            self._log(values, is_due="val" in event.values or event.kind == "guard")
        return self._pop_notes()

    def finish(self, summary: Summary) -> list[Event]:
        """Log the result and close the trackers; returns notes."""
        if results := results_of(summary):
            self._log(results, is_due=True)
        self.close()
        return self._pop_notes()

    def close(self) -> None:
        for name, tracker in [*self.trackers.items()]:
            self._try(name, tracker.backend.finish)
        self.trackers = {}

    def _log(self, values: Curves, *, is_due: bool) -> None:
        for name, tracker in [*self.trackers.items()]:
            if is_due or tracker.spent <= SHARE * (self.latest.t - tracker.began):
                self._try(name, partial(tracker.log, values, self.axis.at))

    def _start(self, folder: Path) -> None:
        """Start the waiting trackers, with the plan as the configuration of the run."""
        waiting, self.waiting = self.waiting, ()
        plan: Choices = {}
        if waiting and (file := folder / "plan.toml").exists():
            plan = choices_in(tomllib.loads(file.read_text("utf-8")))
        self.reader.lr = numbers_of(plan).get("training.lr", self.reader.lr)

        def start(name: str) -> None:
            backend = open_tracker(name, folder)
            self.trackers[name] = _Tracker(backend, began=self.latest.t)
            backend.store_init_configuration(dict(plan))
            self._note(tracker_location(name, backend, folder))

        for name in waiting:
            self._try(name, partial(start, name))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            with unattended():
                action()
        except Exception as error:
            self.trackers.pop(name, None)
            why = " ".join(str(error).split())[:LONGEST] or type(error).__name__
            self._note(f"{name} is off from here on, the run goes on: {why}")

    def _note(self, text: str) -> None:
        self.notes.append(note(self.latest.stage, "Track", text))

    def _pop_notes(self) -> list[Event]:
        notes, self.notes = self.notes, []
        return notes


@contextmanager
def unattended() -> Iterator[None]:
    """Keep a library off stdout, which is for results; with an empty stdin, questions fail."""
    stdin = sys.stdin
    with open(os.devnull) as empty, redirect_stdout(sys.stderr):
        sys.stdin = empty
        try:
            yield
        finally:
            sys.stdin = stdin
