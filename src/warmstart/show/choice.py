"""Which watcher fits a stream: bars need a terminal, and rich only then."""

from __future__ import annotations

import os
from typing import TextIO

from warmstart.show.progress import Lines, Silent, Watcher


def watcher(stream: TextIO | None) -> Watcher:
    """Bars on a terminal, lines elsewhere, nothing where there is no stderr."""
    if stream is None:
        return Silent()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return Lines(stream)
    from warmstart.show.bars import Bars

    return Bars(stream)
