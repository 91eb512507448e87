"""How soon a training was nearly as good as at its end, read from the events of its run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from warmstart.events import BESIDE, Event

NEAR = 0.95  # of the accuracy at the end
RESTARTS = ("stuck", "diverged")  # guards after which a training begins anew


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on rows held out, mean over the trainings that held rows out.

    `updates` are those of one training; `seconds` passed from the beginning of the run until
    the first of them was there, time in which nobody worked not counted.
    """

    updates: int
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Course:
    """The updates made in all trainings, and what was seen on the way, in order."""

    updates: int
    points: tuple[Point, ...]

    def near_end(self) -> Point | None:
        """The first point at 95 % of the value of the last; None where nothing was seen.

        >>> course = Course(40, (Point(0, 0.2, 5.0), Point(10, 0.78, 7.0), Point(20, 0.8, 9.0)))
        >>> course.near_end().updates
        10
        """
        if not self.points:
            return None
        enough = NEAR * self.points[-1].value
        return next(point for point in self.points if point.value >= enough)


def course_of(events: Iterable[Event], fitted: float | None) -> Course:
    """What the events of a run tell of its trainings.

    `fitted`: seconds until the output was fitted that training began from; None where it began
    from nothing, and so knew nothing before its first update.
    """
    log = _Log()
    for event in events:
        log.see(event)
    points = list(_mean(list(log.looks.values())))
    before = [look.head for looks in log.looks.values() for look in list(looks.values())[:1]]
    known = [head for head in before if head is not None]
    if points and known and fitted is not None:
        points.insert(0, Point(0, sum(known) / len(known), fitted))
    return Course(len(log.made), tuple(points))


@dataclass(frozen=True, slots=True)
class _Look:
    value: float
    head: float | None  # before the first update
    seconds: float


@dataclass(slots=True)
class _Log:
    """Events taken in one by one."""

    begins: dict[int, int] = field(default_factory=dict)  # updates before a training's first
    looks: dict[int, dict[int, _Look]] = field(default_factory=dict)  # by training, by updates
    made: set[tuple[int, int, int]] = field(default_factory=set)  # training, attempt, update
    _seconds: float = 0.0
    _last: float | None = None
    _at: tuple[int, int] = (0, 0)  # training and update
    _attempt: int = 0
    _is_alarmed: bool = False
    _is_beside: bool = False  # what is made to compare with is no part of the course

    def see(self, event: Event) -> None:
        """Take in an event; the log of a resumed run tells some updates twice."""
        self._tick(event)
        if event.stage != "tune":
            return
        if event.kind == "begin":
            self._is_beside = BESIDE in event.values
        if self._is_beside:
            return
        if event.kind == "guard":
            self._is_alarmed |= event.values.get("guard") in RESTARTS
        elif event.kind == "step" and "lesson" in event.values:
            self._step(event, int(event.values["lesson"]))

    def _tick(self, event: Event) -> None:
        if "folder" in event.values:  # a process begins: what it had worked before stands there
            own = event.values.items()
            self._seconds += sum(v for k, v in own if k != "folder" and isinstance(v, float))
        elif self._last is not None:
            self._seconds += max(event.t - self._last, 0.0)
        self._last = event.t

    def _step(self, event: Event, training: int) -> None:
        # Those that hold rows out make fewer updates than the last: a training tells its own begin.
        updates = event.step - self.begins.setdefault(training, event.step - 1)
        if self._is_alarmed and (training, updates) <= self._at:
            self._attempt += 1
            self.looks.pop(training, None)
        self._is_alarmed, self._at = False, (training, updates)
        self.made.add((training, self._attempt, updates))
        value, head = event.values.get("val"), event.values.get("head")
        if isinstance(value, (int, float)):
            look = _Look(value, float(head) if head is not None else None, self._seconds)
            self.looks.setdefault(training, {}).setdefault(updates, look)


def _mean(trainings: Sequence[dict[int, _Look]]) -> Iterable[Point]:
    """One point for each number of updates at which every training was looked at."""
    if not trainings:
        return
    for updates in sorted(set.intersection(*map(set, trainings))):
        looks = [training[updates] for training in trainings]
        value = sum(look.value for look in looks) / len(looks)
        yield Point(updates, value, min(look.seconds for look in looks))
