"""Ctrl-C: the first stops the work where it can be resumed, the second stops it at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from warmstart.events import Event

See = Callable[[Event], None]
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = "Stopping after this step; press Ctrl-C again to stop at once."
INTERRUPTED_NOTE = "Interrupted; what was computed is kept."


class Interrupts:
    """What SIGINT does in a process that runs one command.

    The first raises KeyboardInterrupt, so that open files are closed. Any further one ends the
    process: raised while the first propagates, it would end in a traceback. So does the first
    where a KeyboardInterrupt would be lost: while a module is being imported (C libraries drop it
    there), and where Python lets no error out, such as in a `__del__`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._is_raised = False
        self._is_listening = False
        self._is_reported = False
        self.folder = ""  # of the current run

    def listen(self) -> None:
        """Handle SIGINT for as long as the process lasts."""
        self._is_listening = True
        signal.signal(signal.SIGINT, self.interrupt)
        unraisable = sys.unraisablehook

        def hook(lost: Any) -> None:
            if issubclass(lost.exc_type, KeyboardInterrupt):
                self.leave()
            unraisable(lost)

        sys.unraisablehook = hook

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT. Raises: KeyboardInterrupt at the first one."""
        if self._is_raised or _is_importing(frame):
            self.leave()
        self._is_raised = True
        raise KeyboardInterrupt

    def report(self, folder: str) -> None:
        """Print how to continue; `folder` is the current run, or ""."""
        if self._is_listening:  # the process is about to end: nothing may come in between
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._is_reported = True
        print(interrupted(self._words, folder), file=sys.stderr)

    def leave(self) -> NoReturn:
        """Report the interruption if that has not been done, and end the process."""
        if not self._is_reported:
            say(interrupted(self._words, self.folder))
        with suppress(OSError, ValueError, AttributeError):
            if os.isatty(sys.stderr.fileno()):
                os.write(sys.stderr.fileno(), b"\x1b[?25h")  # a progress bar hides the cursor
        os._exit(INTERRUPTED)


def interrupted(words: Sequence[str], folder: str) -> str:
    """How to continue an interrupted command; `folder` is the current run, or ""."""
    verb = next((word for word in words if not word.startswith("-")), "")
    run = shlex.quote(folder)
    if verb == "fit" and folder:
        return f"{INTERRUPTED_NOTE} Continue with: warmstart resume {run}"
    if verb == "compare" and folder:
        return (
            "Interrupted; finished runs are kept. Continue with: "
            f"warmstart resume {run}, then: warmstart compare RUN RUN ..."
        )
    if verb in ("fit", "resume", "rank"):
        return f"{INTERRUPTED_NOTE} Run the same command again to continue."
    return "Interrupted."


def say(line: str) -> None:
    """Print a line on stderr from within a signal handler.

    Not through the stream: the signal may have come in the middle of a write to it.
    """
    with suppress(OSError, ValueError, AttributeError):
        stream = sys.stderr.fileno()
        echo = "\n" if os.isatty(stream) else ""  # behind the ^C that the terminal shows
        os.write(stream, f"{echo}{line}\n".encode(errors="replace"))


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported at any depth of the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def stoppable(see: See) -> Iterator[See]:
    """Pass events to `see`; after a first signal, end the work at the next event.

    The KeyboardInterrupt that ends it carries the run folder, where an event named one. The
    earlier signal handlers are restored at the end.
    """
    folder, is_stopping, before = "", False, dict[int, Any]()
    interrupt: Callable[[int, FrameType | None], Any] = signal.default_int_handler

    def show(event: Event) -> None:
        nonlocal folder
        folder = str(event.values.get("folder", folder))
        owner = getattr(interrupt, "__self__", None)
        if isinstance(owner, Interrupts):
            owner.folder = folder
        see(event)
        if is_stopping:
            raise KeyboardInterrupt

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:  # the second one interrupts the work wherever it is
            interrupt(number, frame)
        is_stopping = True
        say(STOPPING)

    if threading.current_thread() is threading.main_thread():
        handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        if callable(handlers[signal.SIGINT]):
            interrupt = handlers[signal.SIGINT]
        before = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, stop)
    try:
        yield show
    except KeyboardInterrupt as error:
        error.args = (folder,) if folder else ()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
