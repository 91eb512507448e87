"""One learning at a time, in a thread: what it tells, how it is stopped and gone on with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from warmstart.errors import UsageError, WarmstartError
from warmstart.events import Event, Steps
from warmstart.refit_cache import RefitCache, use_refit_cache
from warmstart.reporting.curves import CurveReader
from warmstart.studio.work import FoldCurve, State, Working
from warmstart.terminal.progress import Stage, title_of

OFTEN_S = 0.1  # between two tellings of the same stage
MOST_POINTS = 400  # of a curve
AT_WORK = ("working", "stopping")
KEPT_BYTES = 400 << 20  # of what a correction of labels leaves as it is


class Teller:
    """Follows the events of a learning and says how far it is."""

    def __init__(self, number: int, budget: str) -> None:
        self.now = Working(state="working", number=number, budget=budget, stage="Read")
        self._stage: Stage | None = None
        self._told = 0.0
        self._reader = CurveReader()

    def see(self, event: Event) -> bool:
        """Take in an event; whether there is something to tell at once."""
        stage, title = self._stage, title_of(event, self._stage)
        is_new = False
        if stage is None or stage.key != (event.stage, title):
            stage = self._stage = Stage(event.stage, title, began=event.t, latest=event.t)
            is_new = True
        stage.see(event)
        self.now = replace(
            self.now,
            stage=stage.title,
            done=stage.step,
            of=stage.of,
            seconds_left=stage.pace.left(event.t),
            **self._added(event),
        )
        is_due = is_new or event.kind != "step" or event.t - self._told >= OFTEN_S
        if is_due:
            self._told = event.t
        return is_due

    def _added(self, event: Event) -> dict[str, Any]:
        """A note, or a point of the curve, that an event brings."""
        values = event.values
        if event.kind in ("note", "guard") and values.get("text"):
            note = {"title": str(values.get("title", "")), "text": str(values["text"])}
            return {"notes": (*self.now.notes, note)}
        curves = {one.fold: one for one in self.now.curves}
        found = self._reader.read(event)  # nothing of trainings that are only compared with
        for name, value in found.items():
            group, _, quantity = name.partition("/")
            if quantity != "val_accuracy" or not group.startswith("fold"):
                continue
            epoch = float(values.get("epoch", event.step))
            fold = f"fold {group.removeprefix('fold')}"
            old = curves[fold].points if fold in curves else ()
            # A training that began anew at a lower learning rate is drawn anew.
            points = (*(point for point in old if point[0] < epoch), (epoch, value))
            probe = found.get(f"{group}/head_accuracy")
            curves[fold] = FoldCurve(fold=fold, points=points[-MOST_POINTS:], probe=probe)
            return {"curves": tuple(curves.values())}
        return {}


class Worker:
    """Runs learnings one after the other. `tell` is called from its thread at every change,
    `done` with the number of a run that has come to its end."""

    def __init__(self, tell: Callable[[Working], None], done: Callable[[int], None]) -> None:
        # Higher than what a page has heard of a studio before this one.
        self.now = Working(turn=int(1000 * time.time()))
        self._tell = tell
        self._done = done
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._kept = RefitCache(KEPT_BYTES)

    def begin(self, number: int, budget: str, steps: Callable[[], Steps[Any]]) -> None:
        """Start to work. Raises: UsageError while another learning is at work."""
        with self._lock:
            if self.extracted().state in AT_WORK:
                raise UsageError("a learning is at work; stop it first, or wait for its end.")
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._work, args=(number, budget, steps), name="learn", daemon=True
            )
            self._thread.start()  # whose first word waits for the lock
            self._set(Working(state="working", number=number, budget=budget, stage="Read"))

    def extracted(self) -> Working:
        """What is going on. Work whose thread is gone without a word has stopped."""
        with self._lock:
            is_gone = self._thread is None or not self._thread.is_alive()
            if is_gone and self.now.state in AT_WORK:
                self._set(replace(self.now, state="stopped", seconds_left=None))
            return self.now

    def stop(self) -> None:
        """End what is at work after its next event; what was computed is kept."""
        with self._lock:
            if self.now.state == "working":
                self._stop.set()
                self._set(replace(self.now, state="stopping"))

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is at work."""
        if self._thread is not None:
            self._thread.join(seconds)

    def set_stopped(self, number: int, budget: str | None) -> None:
        """A run that an earlier process left unfinished."""
        self._set(Working(state="stopped", number=number, budget=budget))

    def _set(self, working: Working) -> None:
        with self._lock:
            self.now = replace(working, turn=self.now.turn + 1)
            self._tell(self.now)

    def _work(self, number: int, budget: str, steps: Callable[[], Steps[Any]]) -> None:
        teller = Teller(number, budget)
        end: State = "failed"
        error: str | None = None
        try:
            with use_refit_cache(self._kept):
                end = "stopped" if self._follow(teller, steps()) else "idle"
        except WarmstartError as told:
            error = str(told)
        except Exception as told:  # the page must not wait for ever
            error = f"this is a bug in warmstart: {type(told).__name__}: {told}"
        except BaseException:  # it was ended from outside, and can be gone on with
            end = "stopped"
        # A stop that comes from now on finds nothing at work.
        self._set(replace(teller.now, state=end, error=error, seconds_left=None))
        if end == "idle":
            self._done(number)

    def _follow(self, teller: Teller, steps: Steps[Any]) -> bool:
        """Tell of every event; whether the work was cut off before its end."""
        with closing(steps):
            for event in steps:
                if teller.see(event):
                    with self._lock:
                        self._set(replace(teller.now, state=self.now.state))
                if self._stop.is_set():
                    # What follows the last event takes no time: it is done, not cut off.
                    return next(steps, None) is not None
        return False
