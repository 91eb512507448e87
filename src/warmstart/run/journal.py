"""The progress of a run in its folder, so that it can be resumed after a kill.

`checkpoints/` holds, until the run is finished, the data as they were read, the states of
trainings, and `journal.json`: the engine, and the digests of the files that stages have written,
each with the key of what that stage depends on. A stage whose key and file are unchanged is not
run again; its result is read from the file in any case, so that equal values follow.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, TextIO

import torch

import warmstart
from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.errors import DataError, ModelError, RunFolderError
from warmstart.events import Steps
from warmstart.evidence import check
from warmstart.evidence.data_checks import write_lists
from warmstart.features.cache_key import cpu_name, version_of
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.features.machine import fix_threads, n_processors, n_threads
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
from warmstart.records.summary import Inspection
from warmstart.request import Request, as_plain, open_folder, write_request
from warmstart.run import plan
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.dataset import TrainingDataset

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
        engine = plan.engine_of(request) if stored is None else from_plain(Choice, stored)
        block = plan.stored_block(request, base, len(collection.record.examples))

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
