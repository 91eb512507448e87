"""Events in the output of a notebook cell: one place that is written anew, never a growing log."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from warmstart.events import Event
from warmstart.show.progress import Stages

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
