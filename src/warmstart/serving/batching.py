"""Images of many requests pass the network together; beyond a bound none is let in."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from warmstart.serving.http import retry
from warmstart.serving.model import ServerLimits

Item = TypeVar("Item")
Result = TypeVar("Result")
Job = TypeVar("Job")


class Batcher(Generic[Item, Result]):
    """Collects items for some milliseconds and gives them to `work`, in one thread of its own.

    `work` takes up to `limits.batch` items and returns as many results. `seen` is told the size
    and the seconds of each pass. While a pass is on, what comes is collected for the next.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        limits: ServerLimits,
        seen: Callable[[int, float], None],
    ) -> None:
        self._work = work
        self._limits = limits
        self._seen = seen
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()
        self._inside = 0
        self._pace = 0.02  # seconds an image, as of late
        self._explaining = 0
        self._busy_since: float | None = None

    @property
    def inside(self) -> int:
        """Images that have been let in and are not answered yet."""
        return self._inside

    @property
    def is_stuck(self) -> bool:
        """Whether one pass has taken longer than any answer may."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._limits.answer_s

    @property
    def is_full(self) -> bool:
        """Whether not even one more image is let in."""
        return self._inside >= self._limits.queue

    @contextmanager
    def room(self, n: int) -> Iterator[None]:
        """Let n images in, for as long as the context lasts.

        Raises: Problem 503 with Retry-After where there is no room for them.
        """
        if self._inside + n > self._limits.queue:
            raise retry("too many wait already; try again", self._seconds_to_wait())
        self._inside += n
        try:
            yield
        finally:
            self._inside -= n

    async def ask(self, items: Sequence[Item]) -> list[Result]:
        """Results in the order of the items. Raises: Problem 503 where they take too long."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return list(await asyncio.gather(*futures))
        except TimeoutError:
            raise retry("no answer came in time; try again", self._seconds_to_wait()) from None
        finally:
            for future in futures:  # who has gone needs no answer
                future.cancel()

    async def alone(self, job: Callable[[], Job]) -> Job:
        """Do one job between two passes, in their thread.

        Raises: Problem 503 where several wait already, or it takes too long.
        """
        if self._explaining >= self._limits.explaining:
            raise retry("several explanations are being made; try again", 2)
        self._explaining += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return await loop.run_in_executor(self._thread, job)
        except TimeoutError:
            raise retry("no answer came in time; try again", self._seconds_to_wait()) from None
        finally:
            self._explaining -= 1

    async def run(self) -> None:
        """Pass what comes, for ever; cancel it to stop."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._limits.batch:
                await asyncio.sleep(self._limits.gather_s)
            batch = self._take()
            if batch:
                await self._pass(batch)

    def close(self) -> None:
        """Wait for the pass at work, then end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._limits.batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _pass(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        items = [item for item, _ in batch]
        began = self._busy_since = time.monotonic()
        try:
            results = await loop.run_in_executor(self._thread, self._work, items)
        except Exception as error:  # one bad pass must not end the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._busy_since = None
        seconds = time.monotonic() - began
        self._pace += 0.2 * (seconds / len(batch) - self._pace)
        self._seen(len(batch), seconds)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _seconds_to_wait(self) -> int:
        return min(max(math.ceil(self._inside * self._pace), 1), 60)
