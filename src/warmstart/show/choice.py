"""Which watcher fits a stream: bars need a terminal, and rich only then."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from warmstart.show.notebook import Cell, cell_display
from warmstart.show.progress import Lines, Silent, Watcher


def watcher(stream: TextIO | None) -> Watcher:
    """Bars on a terminal, lines elsewhere, nothing where there is no stderr."""
    if stream is None:
        return Silent()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return Lines(stream)
    from warmstart.show.bars import Bars

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
