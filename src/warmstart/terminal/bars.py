"""Events as a bar on a terminal (rich; imported only there)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from warmstart.events import Event
from warmstart.terminal.progress import LEAST_BAR, Stage, Stages
from warmstart.terminal.text import WIDTH, fitting, lead

REFRESHES = 5  # a second: a moving bar costs time that the work could use
BAR_END = 51  # the column in which finished bars end
WIDEST = 34  # columns of a bar


class Bars:
    """The stage at work as a bar with what is left and how it goes; a finished one leaves a line.

    `clock` gives seconds since the epoch, as events do.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self.console = Console(file=stream)  # honours NO_COLOR by itself
        self.clock = clock
        self.stages = Stages(BAR_END)
        self.live = Live(
            get_renderable=lambda: _Moving(self.stages.stage, self.clock()),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES,
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = list(self.stages.finish(is_broken=error is not None))
        self.live.stop()
        self._write(iter(left))
        if error is None:
            self.console.print()  # the result follows on the same screen

    def show(self, event: Event) -> None:
        """Write what the event adds above the bar, which moves by itself."""
        self.stages.width = min(WIDTH, self.console.width)
        self._write(self.stages.feed(event))

    def _write(self, lines: Iterator[str]) -> None:
        for text in lines:
            self.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Moving:
    """The stage at work as it is at one moment, as wide as the terminal then is."""

    def __init__(self, stage: Stage | None, now: float) -> None:
        self.stage = stage
        self.now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.stage is None:
            return
        left, n_bar, right = moving(self.stage, self.now, min(WIDTH, options.max_width))
        bar = ProgressBar(
            total=self.stage.of,
            completed=self.stage.step,
            width=n_bar,
            pulse=not self.stage.of,
            complete_style="cyan",
            finished_style="cyan",
            animation_time=self.now,
        )
        cells: list[RenderableType] = [Text(left), *([bar] if n_bar else []), Text(right)]
        row = Table.grid()
        for _ in cells:
            row.add_column(no_wrap=True, overflow="crop")
        row.add_row(*cells)
        yield row


def moving(stage: Stage, now: float, width: int) -> tuple[str, int, str]:
    """What stands left of the bar, the columns of the bar, what stands right of it.

    Together they are at most `width` columns. What is least important gives way to the bar,
    and the bar to what is important.

    >>> moving(Stage("features", "Look", began=0.0, latest=9.0, step=64, of=300), 9.0, 40)
    ('Look     64/300 ', 17, '  9.0 s')
    """
    left = f"{lead(stage.title)}{stage.place} " if stage.place else lead(stage.title)
    news, space = stage.news(now), width - len(left)
    right = fitting(news, space - LEAST_BAR - 2)
    if not right:  # the most important of it before a bar
        return left[:width], 0, fitting(news, space)
    return left, min(WIDEST, space - 2 - len(right)), f"  {right}"
