"""One stage of a job as its events have told it, and its line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmstart.events import Event
from warmstart.show.pace import Pace
from warmstart.show.text import WIDTH, duration, lead, line, time_left

TITLES = {"head": "Train"}  # the other stages are called by their own names
SMOOTH = 0.9  # what the losses before count for, after each update
LEAST_BAR = 4  # columns


def title_of(event: Event, at_work: Stage | None) -> str:
    """The word at the left of the line that an event belongs to.

    A stage may do something first that has a title of its own.

    >>> title_of(Event(stage="look", kind="begin", values={"title": "Views"}), None)
    'Views'
    """
    usual = TITLES.get(event.stage, event.stage.capitalize())
    is_there = at_work is not None and at_work.name == event.stage
    if event.kind in ("note", "guard"):  # their titles are those of paragraphs
        return at_work.title if at_work is not None and is_there else usual
    if "title" in event.values:
        return str(event.values["title"])
    is_new = event.kind == "begin" or "lesson" in event.values
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
    lesson: int | None = None  # which of several trainings is at work
    folds: int | None = None  # of the trainings, the first ones, that hold rows out
    epoch: float | None = None  # of the training at work
    looks: dict[int, tuple[float, float | None]] = field(default_factory=dict)  # by training
    pace: Pace = field(init=False)
    _losses: float = 0.0  # the older the less they count, and the sum of what they count
    _weight: float = 0.0
    _pauses: float = 0.0  # seconds an image at each update, and how many updates told them
    _n_pauses: int = 0

    def __post_init__(self) -> None:
        self.pace = Pace(self.began)

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
        if self.lesson is None or self.folds is None:
            return ""
        is_last = self.lesson > self.folds
        return f"all {self.unit}" if is_last else f"fold {self.lesson}/{self.folds}"

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
        unit = "/s" if self.lesson is None else f" {self.unit}/s"
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
        latest = self.looks.get(self.lesson or 0)
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
        lesson = _number(event.values, "lesson")
        if lesson is None or lesson == self.lesson:
            self.pace.see(event.t, event.step, self.of)
        else:  # what lies between two trainings is no update, and some end early
            self.pace.skip(event.t, event.step)
            self.lesson = int(lesson)
            self._losses = self._weight = 0.0
        if event.step < self.step:  # it began anew
            self._losses = self._weight = 0.0
        self.step = event.step

    def _hurry(self, speed: float | None) -> None:
        """Take in a speed: a look tells its mean so far, a training that of the moment."""
        if speed is None or speed <= 0:
            return
        self.per_second = speed
        if self.lesson is not None:
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
            self.looks[self.lesson or 0] = (val, _number(values, "head"))

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
