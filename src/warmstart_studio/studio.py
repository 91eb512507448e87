"""`warmstart studio [DATA]`: collect, label, train and export in a page on this computer."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import warmstart
from warmstart.errors import RunFolderError, UsageError, WarmstartError
from warmstart.events import Event, Steps, drain, follow
from warmstart.formatting import duration
from warmstart.modalities.image import decode
from warmstart.planning.plan_file import runs
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import parse
from warmstart.records.answer import LabelAnswer
from warmstart.records.plan import Choice, Plan
from warmstart.records.run_folder import RunFolder, write_bytes
from warmstart.refit_cache import RefitCache, use_refit_cache
from warmstart.reporting.curves import CurveReader
from warmstart.request import DEFAULT_BASE, Request, folder_name
from warmstart.run.forecast import dry_run
from warmstart.serving.model import own_keys, words
from warmstart.serving.serve import check_installed
from warmstart.terminal.progress import Stage, title_of
from warmstart_studio.project import (
    GROUP,
    LABEL,
    Project,
    corrections_of,
    has_groups,
    id_of,
    import_data,
)
from warmstart_studio.result import Json

if TYPE_CHECKING:
    from warmstart.records.data import TaskOption
    from warmstart.run.predictor import Predictor
    from warmstart.serving.access import Gate
    from warmstart_studio.app import Keys


# ---- One run at a time, in a thread: progress, stop and resume.


State = Literal["idle", "working", "stopping", "stopped", "failed"]
INTERVAL_S = 0.1  # between two updates of the same stage
MOST_POINTS = 400  # of a curve
RUNNING = ("working", "stopping")
CACHE_BYTES = 400 << 20  # of what corrected labels do not change
Job = Callable[[Callable[[Event], None]], object]  # a run that reports each of its events


class Stopped(BaseException):
    """Ends a run at its next event; it can be resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCurve:
    """The validation score of one fold during training.

    `points`: (epoch, share) in order; `probe`: the score of the linear probe on the same rows.
    """

    fold: str
    points: tuple[tuple[float, float], ...]
    probe: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """The progress of a run. `done` and `of` belong to the present stage.

    `turn` counts the updates, so that an older one is recognised.
    """

    turn: int = 0
    state: State = "idle"
    number: int | None = None
    budget: str | None = None
    stage: str = ""
    done: int = 0
    of: int | None = None
    seconds_left: float | None = None
    notes: tuple[Mapping[str, str], ...] = ()
    curves: tuple[FoldCurve, ...] = ()
    error: str | None = None


class ProgressTracker:
    """Turns the events of a run into its progress."""

    def __init__(self, number: int, budget: str) -> None:
        self.now = Working(state="working", number=number, budget=budget, stage="Read")
        self._stage: Stage | None = None
        self._sent = 0.0
        self._reader = CurveReader()

    def update(self, event: Event) -> bool:
        """Process an event; returns whether to publish now."""
        stage, title = self._stage, title_of(event, self._stage)
        is_new = stage is None or (stage.name, stage.title) != (event.stage, title)
        if stage is None or is_new:
            stage = self._stage = Stage(event.stage, title, began=event.t, latest=event.t)
        stage.see(event)
        self.now = replace(
            self.now,
            stage=stage.title,
            done=stage.step,
            of=stage.of,
            seconds_left=stage.pace.left(event.t),
            **self._changes(event),
        )
        is_due = is_new or event.kind != "step" or event.t - self._sent >= INTERVAL_S
        if is_due:
            self._sent = event.t
        return is_due

    def _changes(self, event: Event) -> dict[str, Any]:
        """The note or the point of a curve in an event."""
        values = event.values
        if event.kind in ("note", "guard") and values.get("text"):
            note = {"title": str(values.get("title", "")), "text": str(values["text"])}
            return {"notes": (*self.now.notes, note)}
        curves = {one.fold: one for one in self.now.curves}
        quantities = self._reader.read(event)  # empty for trainings that are only compared with
        for name, value in quantities.items():
            group, _, quantity = name.partition("/")
            if quantity != "val_accuracy" or not group.startswith("fold"):
                continue
            epoch = float(values.get("epoch", event.step))
            fold = f"fold {group.removeprefix('fold')}"
            old = curves[fold].points if fold in curves else ()
            # A training that restarted at a lower learning rate replaces its points.
            points = (*(point for point in old if point[0] < epoch), (epoch, value))
            probe = quantities.get(f"{group}/head_accuracy")
            curves[fold] = FoldCurve(fold=fold, points=points[-MOST_POINTS:], probe=probe)
            return {"curves": tuple(curves.values())}
        return {}


class Worker:
    """Executes runs one after the other. `publish` is called from its thread at every change,
    `on_done` with the number of a finished run."""

    def __init__(self, publish: Callable[[Working], None], on_done: Callable[[int], None]) -> None:
        # Higher than any turn that a page got from an earlier studio.
        self.now = Working(turn=int(1000 * time.time()))
        self._publish = publish
        self._on_done = on_done
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._cache = RefitCache(CACHE_BYTES)

    def begin(self, number: int, budget: str, job: Job) -> None:
        """Begin a run. Raises: UsageError while another one is in progress."""
        with self._lock:
            if self.status().state in RUNNING:
                raise UsageError("a run is in progress; stop it first, or wait for its end.")
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(number, budget, job), name="fit", daemon=True
            )
            self._thread.start()  # its first update waits for the lock
            self._set(Working(state="working", number=number, budget=budget, stage="Read"))

    def status(self) -> Working:
        """The current state. A run whose thread has died is stopped."""
        with self._lock:
            is_dead = self._thread is None or not self._thread.is_alive()
            if is_dead and self.now.state in RUNNING:
                self._set(replace(self.now, state="stopped", seconds_left=None))
            return self.now

    def stop(self) -> None:
        """Stop the run after its next event; it can be resumed."""
        with self._lock:
            if self.now.state == "working":
                self._stop.set()
                self._set(replace(self.now, state="stopping"))

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end of the run."""
        if self._thread is not None:
            self._thread.join(seconds)

    def set_stopped(self, number: int, budget: str | None) -> None:
        """Show the unfinished run of an earlier process."""
        self._set(Working(state="stopped", number=number, budget=budget))

    def _set(self, working: Working) -> None:
        with self._lock:
            self.now = replace(working, turn=self.now.turn + 1)
            self._publish(self.now)

    def _run(self, number: int, budget: str, job: Job) -> None:
        tracker = ProgressTracker(number, budget)
        end: State = "failed"
        error: str | None = None

        def show(event: Event) -> None:
            if self._stop.is_set():
                raise Stopped  # what follows the last event takes no time: that run is finished
            if tracker.update(event):
                with self._lock:
                    self._set(replace(tracker.now, state=self.now.state))

        try:
            with use_refit_cache(self._cache):
                job(show)
            end = "idle"
        except WarmstartError as problem:
            error = str(problem)
        except Exception as bug:  # the page must not wait for ever
            error = f"this is a bug in warmstart: {type(bug).__name__}: {bug}"
        except BaseException:  # stopped, or ended from outside: it can be resumed
            end = "stopped"
        # A later stop finds no run.
        self._set(replace(tracker.now, state=end, error=error, seconds_left=None))
        if end == "idle":
            self._on_done(number)


# ---- The work behind the page, with the requests, records and events of the command line.


STRATEGY = "strategy="


@dataclass(slots=True)
class StudioWork:
    """The work of a project. `base` is the base model."""

    project: Project
    worker: Worker
    base: str
    _loaded: dict[int, Predictor] = field(default_factory=dict)

    def begin(self, number: int, table: Path, budget: str, settings: Sequence[str]) -> None:
        """Begin a run. Raises: UsageError while another one is in progress."""
        options = self.options(table, budget, settings)
        # A path as one would type it. Only here: a resumed run may be in another folder.
        here, out = Path.cwd(), self.project.run(number)
        data = table.relative_to(here) if table.is_relative_to(here) else table
        options["data"] = str(data)
        self.worker.begin(
            number, budget, lambda show: warmstart.fit(**options, out=out, on_event=show)
        )

    def resume(self) -> None:
        """Resume the stopped run. Raises: RunFolderError where there is none."""
        now = self.worker.status()
        if now.state != "stopped" or now.number is None:
            raise RunFolderError("there is no stopped run to resume.")
        run = self.project.run(now.number)
        self.worker.begin(
            now.number, now.budget or "", lambda show: warmstart.resume(run, on_event=show)
        )

    def options(self, table: Path, budget: str, settings: Sequence[str]) -> Json:
        """The options of `warmstart.fit` for a table of labels."""
        strategies = [s.removeprefix(STRATEGY) for s in settings if s.startswith(STRATEGY)]
        about = self.project.about
        return {
            "data": str(table),
            "base": self.base,
            "label": about.label_column or LABEL,
            "group": GROUP if has_groups(table) else None,
            "task": about.task or "auto",
            "budget": budget,
            "strategy": strategies[-1] if strategies else "auto",
            "settings": tuple(one for one in settings if not one.startswith(STRATEGY)),
        }

    def forecast(self, table: Path, budget: str, settings: Sequence[str]) -> Json:
        """The time, memory and plan of a run; `problem` where it is not possible."""
        try:
            options = self.options(table, budget, settings)
            values = {
                "strategy": parse(options["strategy"]),
                "settings": parse_settings(options["settings"]),
            }
            result = drain(dry_run(Request(**{**options, **values})))
        except WarmstartError as error:
            forecast = dict.fromkeys(("seconds", "memory_mb"))
            return {**forecast, "words": "", "rows": [], "problem": str(error)}
        seconds = result.forecast.total
        return {
            "seconds": round(seconds, 1),
            "words": f"about {duration(seconds)}",
            "memory_mb": round(result.forecast.memory_mb),
            "rows": plan_rows(result.plan),
            "problem": None,
        }

    def answer(self, number: int, payload: bytes, name: str) -> Json:
        """A model's answer to one picture. Raises: DataError where it cannot be read."""
        if number not in self._loaded:
            self._loaded = {number: warmstart.load(self.project.run(number))}
        predictor = self._loaded[number]
        ((id, pixels),) = predictor.prepared([decode(payload, name)])
        (answer,) = predictor.answer([id], [pixels])
        labels = self.project.board.labels

        def now(label: str) -> str:
            return self.project.history.name_of(label, number)

        ids = [id_of(example) for example in answer.nearest]
        answer = replace(
            answer,
            label=answer.label and now(answer.label),
            scores={now(label): p for label, p in answer.scores.items()},
        )
        if isinstance(answer, LabelAnswer):
            answer = replace(answer, labels=tuple(now(label) for label in answer.labels))
        return {
            **own_keys(answer),
            "label": answer.label,
            "words": words(answer),
            "probability": answer.probability,
            "confident": answer.confident,
            "ood": answer.ood,
            "scores": answer.scores,
            "nearest": [{"id": id, "label": labels.get(id)} for id in ids if id in labels],
        }

    def download(self, number: int, name: str) -> Path:
        """Write a file to download. Raises: ExportError where it cannot be made."""
        run, title = self.project.run(number), self.project.about.name
        if name == "report.html":
            return run / name
        if name == "labels.csv":
            board, history = self.project.board, self.project.history
            changed = {id for change in history.done for id in change.labels}
            removed = changed - set(board.labels)
            path = self.project.path / name
            write_bytes(path, corrections_of(board, self.project.pictures, removed).encode())
            return path
        if name == "model.zip":
            return _zip([run / "model", run / "README.md"], run / name, title)
        folder = run / "export" / "onnx"
        if not folder.exists():
            warmstart.export(run, "onnx")
        return _zip([folder], run / name, title)


def plan_rows(plan: Plan) -> list[Json]:
    """The plan for people: layers, then the training, each with its reason."""
    rows = [_row("strategy", plan.strategy, "strategy")]
    for group in runs(plan):
        block = next(one for one in plan.blocks if one.name == group.names[0])
        row = _row(f"blocks {group.layers}", block.action, None)
        rows.append({**row, "value": group.behaviour.plain})
    if plan.is_trained:
        for one in fields(plan.training):
            choice = getattr(plan.training, one.name)
            if isinstance(choice, Choice):
                rows.append(_row(one.name.replace("_", " "), choice, f"training.{one.name}"))
    return rows


def _row(name: str, choice: Choice, path: str | None) -> Json:
    return {
        "name": name,
        "value": str(choice.value),
        "because": choice.because,
        "source": choice.source,
        "rule": None if choice.rule is None else str(choice.rule),
        "path": path,
    }


def _zip(roots: Sequence[Path], target: Path, name: str) -> Path:
    """Files and folders as a zip with one folder `name` in it."""
    with tempfile.TemporaryDirectory(dir=target.parent) as workdir:
        draft = Path(workdir) / target.name
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for root in roots:
                for path in [root] if root.is_file() else sorted(root.rglob("*")):
                    if path.is_file():
                        archive.write(path, Path(name) / path.relative_to(root.parent))
        shutil.move(draft, target)
    return target


# ---- The project, and its page until a signal.


HOME = Path("studio")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioOptions:
    """The options of a studio."""

    data: str | None = None
    out: Path | None = None
    label: str | None = None
    group: str | None = None
    task: TaskOption = "auto"
    base: str = DEFAULT_BASE
    port: int = 8001


def studio(
    project: Project,
    options: StudioOptions,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
) -> None:
    """Serve a project's page until a signal, then close it.

    `ready` gets the address, with its token, once the server listens.
    Raises: ServeError where the server cannot start.
    """
    from warmstart.serving import running
    from warmstart.serving.model import ServerLimits
    from warmstart_studio.app import Keys

    listener = running.bind("127.0.0.1", options.port)
    try:
        token = secrets.token_urlsafe(24)
        keys = Keys(token, secrets.token_urlsafe(24))
        app, close = application(project, options.base, keys, listener.getsockname()[1])

        def stop() -> None:
            stopping()
            close()

        address = f"{running.address(listener)}?token={token}"
        running.run(running.Server(app, ServerLimits(), lambda: ready(address), stop), listener)
    finally:
        listener.close()
        project.close()


def open_project(
    options: StudioOptions, on_event: Callable[[Event], None]
) -> tuple[Project, int | None]:
    """Open the project, and import its data if it is new.

    Returns it with the number of unreadable files, None without an import.
    Raises: DataError for unreadable data, RunFolderError for another kind of folder or one in use.
    """
    check_installed()
    name, source, data = "untitled", "", options.data
    if data is not None:
        name = folder_name(Path(data).name.removeprefix("sample:"))
        is_sample = data.startswith("sample:")
        source = data if is_sample else str(Path(data).expanduser().resolve())
    project = Project.open(options.out or HOME / name, name, source)
    try:
        if data is None or project.history.version:
            return project, None
        steps: Steps[int] = import_data(project, data, options.label, options.group, options.task)
        return project, follow(steps, on_event)
    except BaseException:
        project.close()
        if not project.pictures:  # nothing was imported: a misspelt name leaves no folder
            shutil.rmtree(project.path, ignore_errors=True)
            if options.out is None:
                with suppress(OSError):  # other studios are in it
                    HOME.rmdir()
        raise


def application(
    project: Project, base: str, keys: Keys, port: int
) -> tuple[Gate, Callable[[], None]]:
    """The ASGI application of a project, and a function that ends its streams and its run."""
    from warmstart_studio.app import Hub, make_app  # not before `check_installed`

    hub = Hub()
    worker = Worker(hub.send_working, hub.send_result)
    work = StudioWork(project, worker, base)
    numbers = project.numbers()
    if numbers and RunFolder(project.run(numbers[-1])).is_resumable:
        worker.set_stopped(numbers[-1], None)

    def close() -> None:
        worker.stop()
        worker.wait(10.0)
        hub.close()

    return make_app(project, work, hub, keys, port), close
