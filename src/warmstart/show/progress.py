"""Events as lines on stderr: one line a stage, and the notes of the stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TextIO

from warmstart.events import Event
from warmstart.show.text import TITLE, column, duration

TITLES = {"head": "Train"}  # the other stages are called by their own names
BAR = "━" * 34


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


@dataclass(slots=True)
class Stage:
    """The stage at work, as far as its events have told."""

    name: str
    began: float  # seconds since the epoch, of its first and its latest event
    latest: float
    step: int = 0
    of: int | None = None
    per_second: float | None = None
    kept: int = 0  # images whose features stood in the cache, where all did
    has_spoken: bool = False

    @property
    def title(self) -> str:
        """The word at the left of its line."""
        return TITLES.get(self.name, self.name.capitalize())

    @property
    def count(self) -> str:
        """`64/300`, `64`, or nothing where the stage does not count."""
        if not self.step:
            return ""
        return f"{self.step:,}/{self.of:,}" if self.of else f"{self.step:,}"

    @property
    def speed(self) -> str:
        """`73/s` where the stage knows."""
        if self.per_second is None:
            return ""
        return (
            f"{self.per_second:,.0f}/s" if self.per_second >= 9.95 else f"{self.per_second:.1f}/s"
        )

    def see(self, event: Event) -> None:
        """Take in an event of this stage."""
        self.latest = max(self.latest, event.t)
        if event.kind == "step" or event.of:
            self.step, self.of = event.step, event.of or self.of
        if event.values.get("missing") == 0:
            self.kept = int(event.values.get("total", 0))
        speed = event.values.get("per_second")
        if isinstance(speed, (int, float)):
            self.per_second = float(speed)

    def line(self, bar: str = "") -> str | None:
        """Its line once it is over; None where its note has said what there is to say."""
        if self.has_spoken and self.per_second is None:
            return None
        took = duration(self.latest - self.began)
        if self.kept and not self.step:
            return f"{self.title:<{TITLE}}{self.kept:,} kept from an earlier look  {took}"
        counted = [self.count, bar] if self.step else []
        facts = [text for text in (*counted, took, self.speed) if text]
        return f"{self.title:<{TITLE}}" + "  ".join(facts)


class Track:
    """Follows the events of a job; turns them into the lines that stay on the screen."""

    def __init__(self, bar: str = "") -> None:
        self.bar = bar
        self.stage: Stage | None = None

    def feed(self, event: Event) -> Iterator[str]:
        """The lines that an event adds."""
        if self.stage is not None and self.stage.name != event.stage:
            self.stage.latest = max(self.stage.latest, event.t)
            yield from self.finish()
        if self.stage is None:
            self.stage = Stage(event.stage, began=event.t, latest=event.t)
        self.stage.see(event)
        text = event.values.get("text")
        if event.kind in ("note", "guard") and text:
            self.stage.has_spoken = True
            yield column(str(event.values.get("title", self.stage.title)), str(text))

    def finish(self, is_broken: bool = False) -> Iterator[str]:
        """The line of the stage at work; if the job broke, only where something was counted."""
        stage, self.stage = self.stage, None
        line = stage.line(self.bar) if stage else None
        if line and stage and (stage.step or not is_broken):
            yield line


class Lines:
    """One line a stage, no control characters: for files and logs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.track = Track()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write(self.track.finish(is_broken=error is not None))

    def show(self, event: Event) -> None:
        """Write what the event adds."""
        self._write(self.track.feed(event))

    def _write(self, lines: Iterator[str]) -> None:
        for line in lines:
            print(line, file=self.stream, flush=True)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Nothing."""
