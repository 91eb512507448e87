"""Ctrl-C: the first ends the work where it can go on from, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from warmstart.events import Event

See = Callable[[Event], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = "Stopping after this step; press Ctrl-C again to stop at once.\n"


@contextmanager
def stoppable(see: See) -> Iterator[See]:
    """Show events to `see`; after a first signal, end the work at the next event.

    A KeyboardInterrupt that ends it carries the run folder, where events told of one. What
    the signals did before is put back.
    """
    stop = _Stop(see)
    before = _listen(stop) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield stop.show
    except KeyboardInterrupt as error:
        error.args = (stop.folder,) if stop.folder else ()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(stop: _Stop) -> dict[int, Any]:
    return {number: signal.signal(number, stop.ask) for number in SIGNALS}


class _Stop:
    """Whether the work is to stop, and where it is."""

    def __init__(self, see: See) -> None:
        self._see = see
        self._is_asked = False
        self.folder = ""

    def show(self, event: Event) -> None:
        """Show an event, then stop if that was asked for."""
        self.folder = str(event.values.get("folder", self.folder))
        self._see(event)
        if self._is_asked:
            raise KeyboardInterrupt

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second is an interruption wherever the work is."""
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        # Not through the stream: a signal may come in the middle of a write to it.
        with suppress(OSError, ValueError, AttributeError):
            stream = sys.stderr.fileno()
            echo = "\n" if os.isatty(stream) else ""  # behind the ^C that the terminal shows
            os.write(stream, (echo + SAID).encode())
