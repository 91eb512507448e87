"""Events as a bar on a terminal (rich; imported only there)."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from warmstart.events import Event
from warmstart.show.progress import BAR, Stage, Track
from warmstart.show.text import TITLE, WIDTH, duration

REFRESHES = 5  # a second: a moving bar costs time that the work could use


class _Elapsed(ProgressColumn):
    """Time since the stage began; it moves on between events."""

    def render(self, task: Task) -> Text:
        """The time as text."""
        return Text(duration(task.elapsed or 0.0))


class Bars:
    """The stage at work as a bar with speed and time left; a finished stage leaves its line."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream)  # honours NO_COLOR by itself
        self.console = Console(file=stream, width=min(WIDTH, console.width))
        self.progress = Progress(
            TextColumn(f"{{task.description:<{TITLE - 1}}}", markup=False),
            TextColumn("{task.fields[count]}", markup=False),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="cyan"),
            _Elapsed(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES,
        )
        self.track = Track(BAR)
        self.task: tuple[str, TaskID] | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop()
        self.progress.stop()
        self._write(self.track.finish(is_broken=error is not None))
        if error is None:
            self.console.print()  # the result follows on the same screen

    def show(self, event: Event) -> None:
        """Move the bar; write above it what the event adds."""
        self._write(self.track.feed(event))
        stage = self.track.stage
        if stage is None:
            return
        if self.task is None or self.task[0] != stage.name:
            self._drop()
            task = self.progress.add_task(stage.title, total=None, count="", rest="")
            self.task = (stage.name, task)
        self.progress.update(
            self.task[1],
            total=stage.of,
            completed=stage.step,
            count=stage.count,
            rest=time_left(stage),
        )

    def _drop(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task[1])
            self.task = None

    def _write(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def time_left(stage: Stage) -> str:
    """`73/s, about 12 s left`; what is not known is left out.

    >>> time_left(Stage("look", began=0.0, latest=2.0, step=100, of=300, per_second=50.0))
    '50/s, about 4.0 s left'
    """
    facts = [stage.speed] if stage.speed else []
    spent = stage.latest - stage.began
    if stage.of and 0 < stage.step < stage.of and spent > 1:
        speed = stage.per_second or stage.step / spent
        facts.append(f"about {duration((stage.of - stage.step) / speed)} left")
    return ", ".join(facts)
