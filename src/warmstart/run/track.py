"""Live training curves in TensorBoard, W&B, MLflow and other trackers of Accelerate."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from warmstart.events import Event, Steps, note
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary
from warmstart.reporting.curves import (
    Axis,
    Choices,
    CurveReader,
    Curves,
    choices_in,
    numbers_of,
    results_of,
)
from warmstart.training.trackers import open_tracker, tracker_location

Result = TypeVar("Result")
SHARE = 0.05  # of the training time that logging may take; validations are logged in any case
LONGEST = 160  # characters of an error that are shown


def tracked(steps: Steps[Result], names: Sequence[str]) -> Steps[Result]:
    """Run steps and log their events to trackers, from when an event names the run folder.

    A tracker that fails is dropped, with a note: it never ends the work.
    """
    if not names:
        return (yield from steps)
    board = _Trackers(tuple(dict.fromkeys(names)))
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                break
            yield event
            yield from board.log(event)
        yield from board.finish()
        return result
    finally:
        steps.close()
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

    def finish(self) -> list[Event]:
        """Log the result, if there is one, and close the trackers; returns notes."""
        path = self.folder / "summary.json" if self.folder is not None else None
        if path is not None and path.exists():
            self._log(results_of(read_json(path, Summary)), is_due=True)
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
