"""Events as lines on stderr: one line a stage, and the notes of the stages."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, TextIO

from warmstart.events import Event
from warmstart.show.stage import Stage, title_of
from warmstart.show.text import WIDTH, column

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
                event.stage, title, began=event.t, latest=event.t, unit=self._unit,
                folds=self._folds if event.stage == "tune" else None,
            )  # fmt: skip
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
