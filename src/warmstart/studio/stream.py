"""Server-sent events: what changes is told to every page that is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from warmstart.studio.project import Delta
from warmstart.studio.work import Working

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
