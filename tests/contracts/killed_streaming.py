"""A run in a process of its own that is killed in a part of a streamed network."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import warmstart


def fall(cache: str, out: Path, asked: dict[str, Any] | None, place: tuple[str, int]) -> None:
    """Begin a run, or go on with it, until it is at work on `place`: a stage, a part.

    Exit code 0 if it never is.
    """
    os.environ["WARMSTART_CACHE"] = cache

    def watch(event: Any) -> None:
        if (event.stage, event.values.get("block")) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    if asked is None:
        warmstart.resume(out, on_event=watch)
    else:
        warmstart.fit(**asked, out=out, on_event=watch)
