"""The work behind the studio's server as plain functions, and its events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from warmstart.studio.project import Delta

State = Literal["idle", "working", "stopping", "stopped", "failed"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A readable picture: its size in px, file suffix, and a small JPEG."""

    width: int
    height: int
    suffix: str
    small: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A requested run: its table, folder, budget and settings."""

    number: int
    table: Path
    out: Path
    budget: str = "fast"
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCurve:
    """The validation score of one fold during training.

    `points`: (epoch, share) in order; `probe`: the score of the linear probe on the same rows.
    """

    fold: str
    points: tuple[tuple[float, float], ...]
    probe: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """The progress of a run. `done` and `of` belong to the present stage.

    `turn` counts the updates, so that an older one is recognised.
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
    """The work behind the page. Slow functions are called from a thread.

    `decode` returns a picture, or why it cannot be read. `fit` and `resume` begin a run and return
    at once; `stop` ends it so that it can be resumed. `result` describes a finished run, `answer`
    one picture; `download` writes a file to download.
    """

    decode: Callable[[bytes, str], DecodedPicture | str]
    thumbnail: Callable[[bytes, str], bytes]
    working: Callable[[], Working]
    fit: Callable[[Order], None]
    resume: Callable[[], None]
    stop: Callable[[], None]
    forecast: Callable[[Order], Json]
    result: Callable[[int], Json]
    answer: Callable[[int, bytes, str], Json]
    download: Callable[[int, str], Path]


# ---- Server-sent events to every open page.


QUEUE = 200  # events that a page may be behind; then its stream ends, and it reloads
ALIVE_S = 15.0  # between two keep-alive comments


class Hub:
    """Sends events from any thread to the streams of all pages."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def send_board(self, delta: Delta) -> None:
        """Send a change of the board."""
        self._send("board", asdict(delta))

    def send_working(self, working: Working) -> None:
        """Send the progress of a run."""
        self._send("work", asdict(working))

    def send_result(self, number: int) -> None:
        """Send that a run is finished."""
        self._send("result", {"number": number})

    async def stream(self) -> AsyncIterator[str]:
        """The events of one page from now on, as text/event-stream."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE)
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
        self._put_soon(None)

    def _send(self, name: str, values: dict[str, Any]) -> None:
        self._put_soon(f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n")

    def _put_soon(self, text: str | None) -> None:
        loop = self._loop  # None before the first page
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._put, text)

    def _put(self, text: str | None) -> None:
        for queue in list(self._streams):
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                text = None
            queue.put_nowait(text)
