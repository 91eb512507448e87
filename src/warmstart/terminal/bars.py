"""Progress bars on a terminal; the only module that imports rich."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from warmstart.events import Event
from warmstart.terminal.progress import LEAST_BAR, Stage, Stages, Watcher
from warmstart.terminal.text import MOST_WIDTH, fitting, lead

REFRESHES = 5  # per second; a moving bar takes time from the work
BAR_END = 52  # column in which finished bars end
WIDEST = 34  # columns of a bar


class Bars(Watcher):
    """The current stage as a moving bar with time left and scores; finished stages leave a line.

    `clock` gives seconds since the epoch, as events do.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self.console = Console(file=stream)  # honours NO_COLOR by itself
        self.clock = clock
        self.stages = Stages(BAR_END)
        self.live = Live(
            get_renderable=self._bar,
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES,
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        is_broken = error[0] is not None
        last = list(self.stages.finish(is_broken))
        self.live.stop()
        self._write(last)
        if not is_broken:
            self.console.print()  # the result follows on the same screen

    def show(self, event: Event) -> None:
        self.stages.width = min(MOST_WIDTH, self.console.width)
        self._write(self.stages.feed(event))

    def _bar(self) -> RenderableType:
        return running_bar(self.stages.stage, self.clock(), self.console.width)

    def _write(self, lines: Iterable[str]) -> None:
        for text in lines:
            self.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def running_bar(stage: Stage | None, now: float, width: int) -> RenderableType:
    """The line of a running stage, of at most `width` columns."""
    if stage is None:
        return Group()
    left, n_bar, right = running_parts(stage, now, min(MOST_WIDTH, width))
    bar = ProgressBar(
        total=stage.of,
        completed=stage.step,
        width=n_bar,
        pulse=not stage.of,
        complete_style="cyan",
        finished_style="cyan",
        animation_time=now,
    )
    cells: list[RenderableType] = [Text(left), *([bar] if n_bar else []), Text(right)]
    row = Table.grid()
    for _ in cells:
        row.add_column(no_wrap=True, overflow="crop")
    row.add_row(*cells)
    return row


def running_parts(stage: Stage, now: float, width: int) -> tuple[str, int, str]:
    """Text left of the bar, columns of the bar, text right of it: at most `width` columns.

    The bar gives way to the most important facts; the others give way to the bar.

    >>> stage = Stage("features", "Features", began=0.0, latest=9.0, step=64, of=300)
    >>> running_parts(stage, 9.0, 41)
    ('Features  64/300 ', 17, '  9.0 s')
    """
    left = f"{lead(stage.title)}{stage.position} " if stage.position else lead(stage.title)
    status, space = stage.status(now), width - len(left)
    right = fitting(status, space - LEAST_BAR - 2)
    if not right:  # no space for a bar beside the most important fact
        return left[:width], 0, fitting(status, space)
    return left, min(WIDEST, space - 2 - len(right)), f"  {right}"
