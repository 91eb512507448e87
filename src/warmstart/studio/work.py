"""What the studio's server is handed: the work as plain functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from warmstart.studio.project import Delta

State = Literal["idle", "working", "stopping", "stopped", "failed"]
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgressSeen:
    """A picture that can be read: its size, how a file of its kind ends, and a small JPEG."""

    width: int
    height: int
    suffix: str
    small: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One learning that was asked for: from which table, into which folder, and how."""

    number: int
    table: Path
    out: Path
    budget: str = "fast"
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCurve:
    """The score on the rows that one fold holds out, while the other rows are learnt from.

    `points`: (epoch, share) in order; `probe`: the score of the linear probe on the same rows.
    """

    fold: str
    points: tuple[tuple[float, float], ...]
    probe: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """What is going on, for people. `done` and `of` are those of the stage at work.

    `turn` counts the tellings, so that an older one is known by it.
    """

    turn: int = 0
    state: State = "idle"
    number: int | None = None
    budget: str | None = None
    stage: str = ""
    done: int = 0
    of: int | None = None
    seconds_left: float | None = None
    notes: tuple[Mapping[str, str], ...] = ()
    curves: tuple[FoldCurve, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The work behind the page. Whatever may take long is called from a thread.

    `see` decodes bytes, or says why it cannot. `fit` and `resume` begin a learning and return
    at once; `stop` ends it so that it can be gone on with. `result` tells of a finished run,
    `answer` of one picture; `take` makes a file to take home.
    """

    see: Callable[[bytes, str], ProgressSeen | str]
    small: Callable[[bytes, str], bytes]
    working: Callable[[], Working]
    fit: Callable[[Order], None]
    resume: Callable[[], None]
    stop: Callable[[], None]
    forecast: Callable[[Order], Told]
    result: Callable[[int], Told]
    answer: Callable[[int, bytes, str], Told]
    take: Callable[[int, str], Path]


# ---- Server-sent events: what changes is told to every page that is open.


WAITING = 200  # events that a page may be behind; then its stream ends, and it asks anew
ALIVE_S = 15.0  # between two signs of life, by which a page sees that the server is there


class Hub:
    """Hands events from any thread to the streams of all pages."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell_board(self, delta: Delta) -> None:
        """Tell of a change of the board."""
        self._tell("board", asdict(delta))

    def tell_working(self, working: Working) -> None:
        """Tell how far a learning is."""
        self._tell("work", asdict(working))

    def tell_result(self, number: int) -> None:
        """Tell that a run is done."""
        self._tell("result", {"number": number})

    async def stream(self) -> AsyncIterator[str]:
        """The events of one page from now on, as text/event-stream."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        self._streams.add(queue)
        try:
            yield "retry: 1000\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._streams.discard(queue)

    def close(self) -> None:
        """End all streams."""
        self._later(None)

    def _tell(self, name: str, values: dict[str, Any]) -> None:
        self._later(f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n")

    def _later(self, text: str | None) -> None:
        loop = self._loop  # None before the first page: nobody is there to be told
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._put, text)

    def _put(self, text: str | None) -> None:
        for queue in list(self._streams):
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                text = None
            queue.put_nowait(text)
