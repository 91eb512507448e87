"""Progress of a job: its events as one line per stage, in a log, a notebook or a terminal."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from typing import Any, Self, TextIO

from warmstart.events import Event
from warmstart.formatting import duration
from warmstart.terminal.text import WIDTH, column, lead, line, time_left

# ---- Speed and time left, smoothed so that they do not jump.


RECENT_S = 15.0  # seconds after which a measurement of the speed counts a third
CALM_S = 5.0  # seconds after which a change of the expected end is two thirds done
SOONEST_S = 1.0  # seconds of counting before the end is estimated


@dataclass(slots=True)
class ProgressRate:
    """The recent speed of a counter and the time at which it will reach its end.

    Speed is steps over seconds, both decaying exponentially with age; the expected end moves
    towards the one that follows from it. Times are seconds since the epoch.
    """

    at: float  # when `step` was reached
    step: int = 0
    done: float = 0.0  # decayed steps and seconds
    spent: float = 0.0
    counted: float = 0.0  # seconds in all
    end: float | None = None

    def skip(self, at: float, step: int) -> None:
        """Continue from here without measuring the speed in between."""
        self.at, self.step = at, step

    def see(self, at: float, step: int, of: int | None) -> None:
        """Record that `step` of `of` was reached."""
        seconds, steps = at - self.at, step - self.step
        self.skip(at, step)
        if seconds < 0 or steps < 0:  # the clock was set back or the job restarted
            return
        decay = math.exp(-seconds / RECENT_S)
        self.done, self.spent = decay * self.done + steps, decay * self.spent + seconds
        self.counted += seconds
        if of is None or self.counted < SOONEST_S or not self.done:
            return
        end = at + max(of - step, 0) * self.spent / self.done
        inertia = 0.0 if self.end is None else math.exp(-seconds / CALM_S)
        self.end = end + inertia * ((self.end or end) - end)

    def left(self, now: float) -> float | None:
        """Seconds until the end; None while it cannot be estimated.

        >>> rate = ProgressRate(at=0.0)
        >>> rate.see(2.0, step=100, of=300)
        >>> rate.left(2.0), rate.left(3.5)
        (4.0, 2.5)
        """
        return None if self.end is None else max(self.end - now, 0.0)


# ---- One stage of a job, built from its events, and its line.


TITLES = {"fine_tune": "Fine-tune"}  # the other stages are called by their capitalized names
SMOOTH = 0.9  # weight of earlier losses after each update
LEAST_BAR = 4  # columns


def title_of(event: Event, current: Stage | None) -> str:
    """The title of the line that an event belongs to.

    A stage may begin with work that has its own title, such as the augmentations of a training.

    >>> title_of(Event(stage="fine_tune", kind="begin", values={"title": "Augment"}), None)
    'Augment'
    """
    is_note = event.kind in ("note", "guard")  # their titles are those of paragraphs
    if "title" in event.values and not is_note:
        return str(event.values["title"])
    is_new = not is_note and (event.kind == "begin" or "job" in event.values)
    if current is not None and current.name == event.stage and not is_new:
        return current.title
    return TITLES.get(event.stage, event.stage.capitalize())


@dataclass(slots=True)
class Stage:
    """The current stage of a job, updated by its events."""

    name: str
    title: str
    began: float  # seconds since the epoch, of its first and its latest event
    latest: float
    step: int = 0
    of: int | None = None
    per_second: float | None = None
    unit: str = "images"  # what a training counts
    cached: int = 0  # images whose features were all in the cache
    has_note: bool = False
    job: int | None = None  # number of the current training
    folds: int | None = None  # how many trainings, the first ones, hold rows out
    epoch: float | None = None  # of the current training
    validations: dict[int, tuple[float, float | None]] = field(default_factory=dict)  # by training
    pace: ProgressRate = field(init=False)
    _losses: float = 0.0  # decayed sum of losses, and of their weights
    _weight: float = 0.0
    _seconds: float = 0.0  # sum over updates of seconds per image, and the number of updates
    _n_seconds: int = 0

    def __post_init__(self) -> None:
        self.pace = ProgressRate(self.began)

    @property
    def is_counting(self) -> bool:
        return self.step > 0 and (self.of is None or self.step < self.of)

    @property
    def count(self) -> str:
        """`64/300`, `64`, or nothing where the stage does not count."""
        if not self.step:
            return ""
        return f"{self.step:,}/{self.of:,}" if self.of else f"{self.step:,}"

    @property
    def fold(self) -> str:
        """`fold 2/3`, or `all images` for a training on all of them."""
        if self.job is None or self.folds is None:
            return ""
        return f"all {self.unit}" if self.job > self.folds else f"fold {self.job}/{self.folds}"

    @property
    def position(self) -> str:
        """`fold 2/3 epoch 4.2` of a training, else the count."""
        if not self.fold or self.epoch is None:
            return self.count
        return f"{self.fold} epoch {self.epoch:.1f}"

    @property
    def speed(self) -> str:
        """`73/s`; a training names its unit, `73 images/s`."""
        if self.per_second is None:
            return ""
        unit = "/s" if self.job is None else f" {self.unit}/s"
        digits = 1 if self.per_second < 9.95 else 0
        return f"{self.per_second:,.{digits}f}{unit}"

    @property
    def loss(self) -> str:
        """`loss 0.31`, smoothed over the latest updates of the current training."""
        return f"loss {_figure(self._losses / self._weight)}" if self._weight else ""

    @property
    def val(self) -> str:
        """`val 86 % (linear probe 83 %)`: mean over folds of their latest validation scores."""
        return _validation_text([*self.validations.values()])

    def see(self, event: Event) -> None:
        """Update the stage with one of its events."""
        values = event.values
        self.latest = max(self.latest, event.t)
        folds = _number(values, "folds")
        self.folds = int(folds) if folds is not None else self.folds
        if values.get("missing") == 0:
            self.cached = int(_number(values, "total") or 0)
        if event.kind in ("note", "guard"):
            return
        if event.kind == "step" or event.of:
            self._count(event)
        speed = _number(values, "per_second")
        if speed is not None and speed > 0:
            self._set_speed(speed)
        epoch, loss, val = (_number(values, name) for name in ("epoch", "loss", "val"))
        self.epoch = epoch if epoch is not None else self.epoch
        if loss is not None:
            self._losses = SMOOTH * self._losses + loss
            self._weight = SMOOTH * self._weight + 1
        if val is not None:
            self.validations[self.job or 0] = (val, _number(values, "head"))

    def _count(self, event: Event) -> None:
        self.of = event.of or self.of
        job = _number(event.values, "job")
        if job is None or job == self.job:
            self.pace.see(event.t, event.step, self.of)
        else:  # the pause between two trainings says nothing about the speed
            self.pace.skip(event.t, event.step)
            self.job = int(job)
            self._losses = self._weight = 0.0
        if event.step < self.step:  # the training restarted
            self._losses = self._weight = 0.0
        self.step = event.step

    def _set_speed(self, speed: float) -> None:
        """Feature extraction reports its mean speed so far, a training that of one update."""
        self.per_second = speed
        if self.job is not None:
            self._seconds += 1 / speed
            self._n_seconds += 1
            self.per_second = self._n_seconds / self._seconds

    def line(self, bar_end: int = 0, width: int = WIDTH) -> str | None:
        """The line of the finished stage; None where its note has said everything.

        A bar fills the space between the count and the rest up to column `bar_end`.
        """
        if self.has_note and self.per_second is None and not self._weight:
            return None
        seconds = duration(self.latest - self.began)
        if self.cached and not self.step:
            return line(self.title, [(1, f"{self.cached:,} from the cache"), (0, seconds)], width)
        rest = [(1, seconds), (0, self.speed), (2, self.val)]
        text = line(self.title, [(3, self.count), *rest], width)
        counted = f"{lead(self.title)}{self.count}"
        n_bar = min(bar_end, width - len(text) + len(counted)) - len(counted) - 1
        if not self.step or n_bar < LEAST_BAR or not text.startswith(counted):
            return text
        return f"{counted} {'━' * n_bar}{text[len(counted) :]}"

    def running_line(self, now: float) -> str:
        return line(self.title, [(3, self.position), *self.status(now)])

    def status(self, now: float) -> list[tuple[int, str]]:
        """What changes while the stage runs, each with its importance."""
        left = self.pace.left(now) if self.is_counting else None
        wait = duration(max(now - self.began, 0.0)) if left is None else time_left(left)
        if self.position != self.count:  # a training says where it is: space is short
            wait = wait.removeprefix("about ")
        latest = self.validations.get(self.job or 0)
        val = _validation_text([] if latest is None else [latest])
        return [(2, wait), (0, "" if self.loss else self.speed), (0, self.loss), (1, val)]


def _validation_text(validations: list[tuple[float, float | None]]) -> str:
    """The mean validation score, and that of the linear probe on the same rows."""
    if not validations:
        return ""
    probes = [probe for _, probe in validations if probe is not None]
    text = f"val {100 * sum(val for val, _ in validations) / len(validations):.0f} %"
    if len(probes) < len(validations):
        return text
    return f"{text} (linear probe {100 * sum(probes) / len(probes):.0f} %)"


def _number(values: Mapping[str, float | int | str], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _figure(value: float) -> str:
    if abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


class Stages:
    """Turns the events of a job into the lines that stay on the screen.

    A finished line is filled with a bar up to column `bar_end` (0: none) and has at most `width`
    columns.
    """

    def __init__(self, bar_end: int = 0, width: int = WIDTH) -> None:
        self.bar_end = bar_end
        self.width = width
        self.stage: Stage | None = None
        # Reported once, when the trainings begin; other stages may come in between.
        self._unit = "images"
        self._folds: int | None = None

    def feed(self, event: Event) -> Iterator[str]:
        title = title_of(event, self.stage)
        stage = self.stage
        if stage is not None and (stage.name, stage.title) != (event.stage, title):
            if stage.name == event.stage and not (stage.step or stage.cached):
                self.stage = None  # only its title has changed
            else:
                stage.latest = max(stage.latest, event.t)
                yield from self.finish()
        self._unit = str(event.values.get("unit", self._unit))
        if event.kind == "begin" and "trainings" in event.values:
            folds = event.values.get("folds")
            self._folds = None if folds is None else int(folds)
        if self.stage is None:
            self.stage = Stage(event.stage, title, event.t, event.t, unit=self._unit)
            self.stage.folds = self._folds if event.stage == "fine_tune" else None
        self.stage.see(event)
        text = event.values.get("text")
        if event.kind in ("note", "guard") and text:
            self.stage.has_note = True
            yield column(str(event.values.get("title", self.stage.title)), str(text))

    def finish(self, is_broken: bool = False) -> Iterator[str]:
        """The line of the current stage; of a broken job only if it has counted something."""
        stage, self.stage = self.stage, None
        text = stage.line(self.bar_end, self.width) if stage else None
        if text and stage and (stage.step or not is_broken):
            yield text


# ---- Watchers: where the lines go.


MINUTE_S = 60.0  # between two lines of a running stage in a log
Display = Callable[..., Any]  # IPython.display.display
REFRESH_S = 0.25  # between two updates of a notebook cell; each is a message to the browser


class Watcher:
    """Shows the events of a job; a context manager that leaves the terminal clean.

    This one shows nothing.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, event: Event) -> None:
        """Show one event."""


class Lines(Watcher):
    """One line per stage without control characters, for files and logs.

    A stage that takes longer than a minute also writes its progress, at most once a minute.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.stages = Stages()
        self.written_at = 0.0  # by the clock of the events

    def __exit__(self, *error: object) -> None:
        self._write(self.stages.finish(is_broken=error[0] is not None))

    def show(self, event: Event) -> None:
        self._write(self.stages.feed(event))
        stage = self.stages.stage
        if stage is None or not stage.is_counting:
            return
        if event.t - max(stage.began, self.written_at) >= MINUTE_S:
            self.written_at = event.t
            self._write(iter([stage.running_line(event.t)]))

    def _write(self, lines: Iterator[str]) -> None:
        for text in lines:
            print(text, file=self.stream, flush=True)


class Cell(Watcher):
    """Finished stages and the current one in one output of a notebook, replaced in place."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._stages = Stages()
        self._lines: list[str] = []
        self._handle: Any = None
        self._written_at = 0.0  # by the clock of the events
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._warnings.__enter__()
        # A package imported meanwhile warns about progress bars that nobody draws here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return self

    def __exit__(self, *error: object) -> None:
        self._warnings.__exit__(None, None, None)
        self._lines += self._stages.finish(is_broken=error[0] is not None)
        self._write(self._lines)

    def show(self, event: Event) -> None:
        new = list(self._stages.feed(event))
        self._lines += new
        if new or event.t - self._written_at >= REFRESH_S:
            self._written_at = event.t
            stage = self._stages.stage
            if stage is not None and stage.is_counting:
                self._write([*self._lines, stage.running_line(event.t)])
            else:
                self._write(self._lines)

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "\n".join(lines)
        bundle = {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def cell_display() -> Display | None:
    """The function that writes into the running notebook cell; None outside a notebook."""
    ipython: Any = sys.modules.get("IPython")  # without it there is no notebook
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):  # IPython in a terminal has none
        return None
    display: Display = import_module("IPython.display").display
    return display


def watcher(stream: TextIO | None) -> Watcher:
    """Bars on a terminal, lines elsewhere, nothing without a stream."""
    if stream is None:
        return Watcher()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return Lines(stream)
    from warmstart.terminal.bars import Bars  # imports rich

    return Bars(stream)


def python_watcher(progress: bool | None) -> Watcher:
    """The watcher of a call from Python.

    None: the output of the cell in a notebook, nothing elsewhere. True: elsewhere also as on the
    command line. False: nothing.
    """
    if progress is False:
        return Watcher()
    display = cell_display()
    if display is not None:
        return Cell(display)
    return watcher(sys.stderr) if progress else Watcher()
