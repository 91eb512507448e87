"""One run at a time, in a thread: progress, stop and resume."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from warmstart.errors import UsageError, WarmstartError
from warmstart.events import Event, Steps
from warmstart.refit_cache import RefitCache, use_refit_cache
from warmstart.reporting.curves import CurveReader
from warmstart.terminal.progress import Stage, title_of

State = Literal["idle", "working", "stopping", "stopped", "failed"]
INTERVAL_S = 0.1  # between two updates of the same stage
MOST_POINTS = 400  # of a curve
RUNNING = ("working", "stopping")
CACHE_BYTES = 400 << 20  # of what corrected labels do not change


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

    def begin(self, number: int, budget: str, steps: Callable[[], Steps[Any]]) -> None:
        """Begin a run. Raises: UsageError while another one is in progress."""
        with self._lock:
            if self.status().state in RUNNING:
                raise UsageError("a run is in progress; stop it first, or wait for its end.")
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(number, budget, steps), name="fit", daemon=True
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

    def _run(self, number: int, budget: str, steps: Callable[[], Steps[Any]]) -> None:
        tracker = ProgressTracker(number, budget)
        end: State = "failed"
        error: str | None = None
        try:
            with use_refit_cache(self._cache):
                end = "stopped" if self._follow(tracker, steps()) else "idle"
        except WarmstartError as problem:
            error = str(problem)
        except Exception as bug:  # the page must not wait for ever
            error = f"this is a bug in warmstart: {type(bug).__name__}: {bug}"
        except BaseException:  # ended from outside: it can be resumed
            end = "stopped"
        # A later stop finds no run.
        self._set(replace(tracker.now, state=end, error=error, seconds_left=None))
        if end == "idle":
            self._on_done(number)

    def _follow(self, tracker: ProgressTracker, steps: Steps[Any]) -> bool:
        """Publish every event; returns whether the run was stopped before its end."""
        with closing(steps):
            for event in steps:
                if tracker.update(event):
                    with self._lock:
                        self._set(replace(tracker.now, state=self.now.state))
                if self._stop.is_set():
                    # What follows the last event takes no time: then the run is finished.
                    return next(steps, None) is not None
        return False
