"""Events as lines on stderr: one line a stage, and the notes of the stages."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from warmstart.events import Event
from warmstart.formatting import duration
from warmstart.terminal.text import WIDTH, column, lead, line, time_left

# ---- How fast a job counts, and how long it will still take: smoothed, so that it does not jump.


RECENT_S = 15.0  # seconds after which what was seen counts a third
CALM_S = 5.0  # the same for a change of mind about the end
SOONEST_S = 1.0  # seconds of counting before the end is guessed


@dataclass(slots=True)
class ProgressRate:
    """The recent speed of something that counts, and the time at which it will be done.

    Speed is steps over seconds, both fading with age; the end that follows from it is
    approached, not jumped to. Times are seconds since the epoch.
    """

    at: float  # when `step` was reached
    step: int = 0
    done: float = 0.0  # steps and seconds, the older the less they count
    spent: float = 0.0
    counted: float = 0.0  # seconds in all
    end: float | None = None

    def skip(self, at: float, step: int) -> None:
        """Go on from here: what lies between says nothing about the speed."""
        self.at, self.step = at, step

    def see(self, at: float, step: int, of: int | None) -> None:
        """Take in that `step` of `of` was reached."""
        passed, made = at - self.at, step - self.step
        self.skip(at, step)
        if passed < 0 or made < 0:  # a clock that was set back, a job that began anew
            return
        fading = math.exp(-passed / RECENT_S)
        self.done, self.spent = fading * self.done + made, fading * self.spent + passed
        self.counted += passed
        if of is None or self.counted < SOONEST_S or not self.done:
            return
        guess = at + max(of - step, 0) * self.spent / self.done
        kept = 0.0 if self.end is None else math.exp(-passed / CALM_S)
        self.end = guess + kept * ((self.end or guess) - guess)

    def left(self, now: float) -> float | None:
        """Seconds until it is done; None as long as that cannot be told.

        >>> pace = ProgressRate(at=0.0)
        >>> pace.see(2.0, step=100, of=300)
        >>> pace.left(2.0), pace.left(3.5)
        (4.0, 2.5)
        """
        return None if self.end is None else max(self.end - now, 0.0)


# ---- One stage of a job as its events have told it, and its line.


TITLES = {"head": "Train"}  # the other stages are called by their own names
SMOOTH = 0.9  # what the losses before count for, after each update
LEAST_BAR = 4  # columns


def title_of(event: Event, at_work: Stage | None) -> str:
    """The word at the left of the line that an event belongs to.

    A stage may do something first that has a title of its own.

    >>> title_of(Event(stage="features", kind="begin", values={"title": "Views"}), None)
    'Views'
    """
    usual = TITLES.get(event.stage, event.stage.capitalize())
    is_there = at_work is not None and at_work.name == event.stage
    if event.kind in ("note", "guard"):  # their titles are those of paragraphs
        return at_work.title if at_work is not None and is_there else usual
    if "title" in event.values:
        return str(event.values["title"])
    is_new = event.kind == "begin" or "job" in event.values
    return usual if is_new or at_work is None or not is_there else at_work.title


@dataclass(slots=True)
class Stage:
    """The stage at work, as far as its events have told."""

    name: str
    title: str
    began: float  # seconds since the epoch, of its first and its latest event
    latest: float
    step: int = 0
    of: int | None = None
    per_second: float | None = None
    unit: str = "images"  # what a training passes
    kept: int = 0  # images whose features stood in the cache, where all did
    has_spoken: bool = False
    job: int | None = None  # which of several trainings is at work
    folds: int | None = None  # of the trainings, the first ones, that hold rows out
    epoch: float | None = None  # of the training at work
    looks: dict[int, tuple[float, float | None]] = field(default_factory=dict)  # by training
    pace: ProgressRate = field(init=False)
    _losses: float = 0.0  # the older the less they count, and the sum of what they count
    _weight: float = 0.0
    _pauses: float = 0.0  # seconds an image at each update, and how many updates told them
    _n_pauses: int = 0

    def __post_init__(self) -> None:
        self.pace = ProgressRate(self.began)

    @property
    def key(self) -> tuple[str, str]:
        """What makes it another stage than the one before."""
        return self.name, self.title

    @property
    def is_counting(self) -> bool:
        """Whether it has begun to count and is not yet through."""
        return self.step > 0 and (self.of is None or self.step < self.of)

    @property
    def count(self) -> str:
        """`64/300`, `64`, or nothing where the stage does not count."""
        if not self.step:
            return ""
        return f"{self.step:,}/{self.of:,}" if self.of else f"{self.step:,}"

    @property
    def fold(self) -> str:
        """`fold 2/3`, or `all images` for a training that holds none out."""
        if self.job is None or self.folds is None:
            return ""
        is_last = self.job > self.folds
        return f"all {self.unit}" if is_last else f"fold {self.job}/{self.folds}"

    @property
    def place(self) -> str:
        """Where the work is: `fold 2/3 epoch 4.2` of a training, else its count."""
        if not self.fold or self.epoch is None:
            return self.count
        return f"{self.fold} epoch {self.epoch:.1f}"

    @property
    def speed(self) -> str:
        """`73/s` where the stage knows; what it counts in is named where it is not images."""
        if self.per_second is None:
            return ""
        unit = "/s" if self.job is None else f" {self.unit}/s"
        few = self.per_second < 9.95
        return f"{self.per_second:.1f}{unit}" if few else f"{self.per_second:,.0f}{unit}"

    @property
    def loss(self) -> str:
        """`loss 0.31`, smoothed over the latest updates of the training at work."""
        return f"loss {_figure(self._losses / self._weight)}" if self._weight else ""

    @property
    def val(self) -> str:
        """`val 86 % (linear probe 83 %)`: the score on the held-out rows of all folds, their mean.

        Each fold counts with its latest score; the linear probe is measured on the same rows.
        """
        return _compared([*self.looks.values()])

    @property
    def val_now(self) -> str:
        """The same of the training at work alone."""
        latest = self.looks.get(self.job or 0)
        return _compared([latest] if latest is not None else [])

    def see(self, event: Event) -> None:
        """Take in an event of this stage."""
        self.latest = max(self.latest, event.t)
        folds = _number(event.values, "folds")
        self.folds = int(folds) if folds is not None else self.folds
        if event.values.get("missing") == 0:
            self.kept = int(_number(event.values, "total") or 0)
        if event.kind in ("note", "guard"):
            return
        if event.kind == "step" or event.of:
            self._count(event)
        self._hurry(_number(event.values, "per_second"))
        self._learn(event.values)

    def _count(self, event: Event) -> None:
        self.of = event.of or self.of
        job = _number(event.values, "job")
        if job is None or job == self.job:
            self.pace.see(event.t, event.step, self.of)
        else:  # what lies between two trainings is no update, and some end early
            self.pace.skip(event.t, event.step)
            self.job = int(job)
            self._losses = self._weight = 0.0
        if event.step < self.step:  # it began anew
            self._losses = self._weight = 0.0
        self.step = event.step

    def _hurry(self, speed: float | None) -> None:
        """Take in a speed: a look tells its mean so far, a training that of the moment."""
        if speed is None or speed <= 0:
            return
        self.per_second = speed
        if self.job is not None:
            self._pauses += 1 / speed
            self._n_pauses += 1
            self.per_second = self._n_pauses / self._pauses

    def _learn(self, values: Mapping[str, float | int | str]) -> None:
        loss, val = _number(values, "loss"), _number(values, "val")
        epoch = _number(values, "epoch")
        self.epoch = epoch if epoch is not None else self.epoch
        if loss is not None:
            self._losses = SMOOTH * self._losses + loss
            self._weight = SMOOTH * self._weight + 1
        if val is not None:
            self.looks[self.job or 0] = (val, _number(values, "head"))

    def line(self, bar_end: int = 0, width: int = WIDTH) -> str | None:
        """Its line once it is over; None where its note has said what there is to say.

        Between the count and the rest a bar reaches up to column `bar_end`, where there is room.
        """
        if self.has_spoken and self.per_second is None and not self._weight:
            return None
        took = duration(self.latest - self.began)
        if self.kept and not self.step:
            facts = [(1, f"{self.kept:,} kept from an earlier look"), (0, took)]
            return line(self.title, facts, width)
        rest = [(1, took), (0, self.speed), (2, self.val)]
        text = line(self.title, [(3, self.count), *rest], width)
        counted = f"{lead(self.title)}{self.count}"
        n_bar = min(bar_end, width - len(text) + len(counted)) - len(counted) - 1
        if not self.step or n_bar < LEAST_BAR or not text.startswith(counted):
            return text
        return f"{counted} {'━' * n_bar}{text[len(counted) :]}"

    def sign_of_life(self, now: float) -> str:
        """Its line while it is at work."""
        return line(self.title, [(3, self.place), *self.news(now)])

    def news(self, now: float) -> list[tuple[int, str]]:
        """What changes while it is at work, each with its importance."""
        left = self.pace.left(now) if self.is_counting else None
        waits = duration(max(now - self.began, 0.0)) if left is None else time_left(left)
        if self.place != self.count:  # a training says where it is: room is short
            waits = waits.removeprefix("about ")
        speed = "" if self.loss else self.speed
        return [(2, waits), (0, speed), (0, self.loss), (1, self.val_now)]


def _compared(looks: Sequence[tuple[float, float | None]]) -> str:
    """The mean of scores, beside that of the linear probes they are compared with.

    >>> _compared([(0.9, 0.75), (0.8, 0.85)]), _compared([(0.9, None)])
    ('val 85 % (linear probe 80 %)', 'val 90 %')
    """
    if not looks:
        return ""
    probes = [probe for _, probe in looks if probe is not None]
    text = f"val {100 * sum(val for val, _ in looks) / len(looks):.0f} %"
    if len(probes) < len(looks):
        return text
    return f"{text} (linear probe {100 * sum(probes) / len(probes):.0f} %)"


def _number(values: Mapping[str, float | int | str], name: str) -> float | None:
    """A value that is a finite number, if there is one of this name."""
    value = values.get(name)
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if is_number and value is not None else None


def _figure(value: float) -> str:
    """A loss or a share, short.

    >>> _figure(0.314), _figure(2.0), _figure(1234.5), _figure(5e9)
    ('0.31', '2.00', '1,234', '5.0e+09')
    """
    if abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


MINUTE_S = 60.0  # between two signs of life in a log


class Watcher(Protocol):
    """Shows events while a verb works; a context manager that leaves the terminal clean."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def show(self, event: Event) -> None:
        """Show one event."""


class Stages:
    """Follows the events of a job; turns them into the lines that stay on the screen.

    `bar_end`: the column up to which a finished line is filled with a bar, 0: none; `width`:
    the columns that a line may have.
    """

    def __init__(self, bar_end: int = 0, width: int = WIDTH) -> None:
        self.bar_end = bar_end
        self.width = width
        self.stage: Stage | None = None
        self._unit = "images"  # told once; views and other trainings come in between
        self._folds: int | None = None  # the same

    def feed(self, event: Event) -> Iterator[str]:
        """The lines that an event adds."""
        title = title_of(event, self.stage)
        if self.stage is not None and self.stage.key != (event.stage, title):
            yield from self._leave(event)
        self._unit = str(event.values.get("unit", self._unit))
        if event.kind == "begin" and "trainings" in event.values:
            folds = event.values.get("folds")
            self._folds = None if folds is None else int(folds)
        if self.stage is None:
            self.stage = Stage(
                event.stage,
                title,
                began=event.t,
                latest=event.t,
                unit=self._unit,
                folds=self._folds if event.stage == "fine_tune" else None,
            )
        self.stage.see(event)
        text = event.values.get("text")
        if event.kind in ("note", "guard") and text:
            self.stage.has_spoken = True
            yield column(str(event.values.get("title", self.stage.title)), str(text))

    def _leave(self, event: Event) -> Iterator[str]:
        """The line of the stage at work, where another begins."""
        stage = self.stage
        if stage is not None and stage.name == event.stage and not (stage.step or stage.kept):
            self.stage = None  # only its title has changed
            return
        if stage is not None:
            stage.latest = max(stage.latest, event.t)
        yield from self.finish()

    def finish(self, is_broken: bool = False) -> Iterator[str]:
        """The line of the stage at work; if the job broke, only where something was counted."""
        stage, self.stage = self.stage, None
        text = stage.line(self.bar_end, self.width) if stage else None
        if text and stage and (stage.step or not is_broken):
            yield text


class Lines:
    """One line a stage, no control characters: for files and logs.

    A stage that takes longer than a minute gives a sign of life, at most one a minute.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.stages = Stages()
        self.spoke = 0.0  # when the last line was written, by the clock of the events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write(self.stages.finish(is_broken=error is not None))

    def show(self, event: Event) -> None:
        """Write what the event adds."""
        self._write(self.stages.feed(event))
        stage = self.stages.stage
        if stage is None or not stage.is_counting:
            return
        if event.t - max(stage.began, self.spoke) >= MINUTE_S:
            self.spoke = event.t
            self._write(iter([stage.sign_of_life(event.t)]))

    def _write(self, lines: Iterator[str]) -> None:
        for text in lines:
            print(text, file=self.stream, flush=True)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Nothing."""


# ---- Events in the output of a notebook cell: one place that is written anew, never a growing log.


Display = Callable[..., Any]  # IPython.display.display
REFRESH_S = 0.25  # between two updates; each is a message to the browser


def cell_display() -> Display | None:
    """How to write into the cell that is running; None outside a notebook.

    IPython is not imported here: without it nobody is in a notebook. A terminal that runs
    IPython has no kernel, and is none either.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display: Display = import_module("IPython.display").display
    return display


class Cell:
    """Lines of finished stages and the one at work, in one output that is replaced in place."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._stages = Stages()
        self._lines: list[str] = []
        self._handle: Any = None
        self._shown_at = 0.0  # by the clock of the events
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._warnings.__enter__()
        # What a package that is imported meanwhile says of bars which nobody here draws.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._warnings.__exit__(kind, error, trace)
        self._lines += self._stages.finish(is_broken=error is not None)
        self._write(self._lines)

    def show(self, event: Event) -> None:
        """Take the event in, and write anew where something is to be seen."""
        new = list(self._stages.feed(event))
        self._lines += new
        if new or event.t - self._shown_at >= REFRESH_S:
            self._shown_at = event.t
            self._write([*self._lines, *self._at_work(event.t)])

    def _at_work(self, now: float) -> Iterator[str]:
        stage = self._stages.stage
        if stage is not None and stage.is_counting:
            yield stage.sign_of_life(now)

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "\n".join(lines)
        bundle = {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


# ---- Which watcher fits a stream: bars need a terminal, and rich only then.


def watcher(stream: TextIO | None) -> Watcher:
    """Bars on a terminal, lines elsewhere, nothing where there is no stderr."""
    if stream is None:
        return Silent()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return Lines(stream)
    from warmstart.terminal.bars import Bars

    return Bars(stream)


def asked_watcher(progress: bool | None) -> Watcher:
    """What shows the progress of a call from Python.

    None: in a notebook, in the output of the cell; nowhere else. True: as the command line
    does it, too. False: nothing.
    """
    if progress is False:
        return Silent()
    display = cell_display()
    if display is not None:
        return Cell(display)
    return watcher(sys.stderr) if progress else Silent()
