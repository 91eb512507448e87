"""The curves of a training sent to TensorBoard, W&B, MLflow and their like while it runs.

Accelerate's trackers do the sending; here events become `log(values, step)`. progress.jsonl
holds every event, whether there is a tracker or not.
"""

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

from warmstart.events import Event, Steps
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
SHARE = 0.05  # of a training's time that sending may take; looks are sent in any case
LONGEST = 160  # letters of an error that are shown


def tracked(steps: Steps[Result], names: Sequence[str]) -> Steps[Result]:
    """Run steps and send what their events tell to trackers.

    The run folder is what an event names in `folder`; before that, nothing is sent. A tracker
    that fails is left out from then on, and a note says so: it never ends the work.
    Raises: what the steps raise.
    """
    if not names:
        return (yield from steps)
    board = _Board(tuple(dict.fromkeys(names)))
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                result: Result = stop.value
                break
            yield event
            yield from board.see(event)
        yield from board.finish()
        return result
    finally:
        steps.close()
        board.close()  # the work has ended early; what fails now has nobody to tell


@dataclass(slots=True)
class _Tracker:
    """One of Accelerate's trackers at work, and the seconds that sending has taken."""

    sends: Any
    began: float  # by the clock of the events
    spent: float = 0.0

    def log(self, values: Curves, step: int) -> None:
        """Send values."""
        start = time.perf_counter()
        self.sends.log(values, step=step)
        self.spent += time.perf_counter() - start

    def is_late(self, now: float) -> bool:
        """Whether it has taken more than its share of the time."""
        return self.spent > SHARE * (now - self.began)


class _Board:
    """The trackers of a run, and what is known of it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.waiting = names
        self.trackers: dict[str, _Tracker] = {}
        self.folder: Path | None = None
        self.reader = CurveReader()
        self.axis = Axis()
        self.now = Event(stage="read", kind="begin")
        self.notes: list[Event] = []

    def see(self, event: Event) -> list[Event]:
        """Send what an event tells; returns notes on trackers that began or failed."""
        self.now = event
        if "folder" in event.values:
            self.folder = Path(str(event.values["folder"]))
        values = self.reader.read(event)
        is_planned = event.stage == "plan" and event.kind == "note"
        if self.folder is not None and (is_planned or values):
            self._begin(self.folder)
        if values:
            self.axis.see(event)
            must = "val" in event.values or event.kind == "guard"
            self._log(values, lambda tracker: must or not tracker.is_late(event.t))
        return self._told()

    def finish(self) -> list[Event]:
        """Send the result, if there is one, and close the trackers; returns notes."""
        path = self.folder / "summary.json" if self.folder is not None else None
        if path is not None and path.exists():
            self._log(results_of(read_json(path, Summary)), lambda tracker: True)
        self.close()
        return self._told()

    def close(self) -> None:
        """Close the trackers; a second time there are none."""
        for name, tracker in [*self.trackers.items()]:
            self._try(name, tracker.sends.finish)
        self.trackers = {}

    def _log(self, values: Curves, is_meant: Callable[[_Tracker], bool]) -> None:
        for name, tracker in [*self.trackers.items()]:
            if is_meant(tracker):
                self._try(name, partial(tracker.log, values, self.axis.at))

    def _begin(self, folder: Path) -> None:
        """Begin the trackers that have not begun, with the plan as what they compare runs by."""
        waiting, self.waiting = self.waiting, ()
        plan = read_choices(folder / "plan.toml") if waiting else {}
        self.reader.rate = numbers_of(plan).get("training.lr", self.reader.rate)
        for name in waiting:
            self._try(name, partial(self._open, name, folder, plan))

    def _open(self, name: str, folder: Path, plan: Choices) -> None:
        sends = open_tracker(name, folder)
        self.trackers[name] = _Tracker(sends, began=self.now.t)
        sends.store_init_configuration(dict(plan))
        self._note(tracker_location(name, sends, folder))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Do it; a tracker that cannot is out."""
        try:
            with unattended():
                action()
        except Exception as error:
            self.trackers.pop(name, None)
            why = " ".join(str(error).split())[:LONGEST] or type(error).__name__
            self._note(f"{name} is left out from here on, the run goes on: {why}")

    def _note(self, text: str) -> None:
        values: Choices = {"title": "Track", "text": text}
        self.notes.append(Event(stage=self.now.stage, kind="note", values=values))

    def _told(self) -> list[Event]:
        notes, self.notes = self.notes, []
        return notes


@contextmanager
def unattended() -> Iterator[None]:
    """Keep a library from asking questions, for nobody may be there, and off stdout.

    stdout is for results; asked where nobody can answer, trackers fail at once and say why.
    """
    typed = sys.stdin
    with open(os.devnull) as nobody, redirect_stdout(sys.stderr):
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = typed


def read_choices(path: Path) -> Choices:
    """The values of a plan's file; nothing where there is none."""
    try:
        return choices_in(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
