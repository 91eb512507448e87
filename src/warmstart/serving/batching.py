"""Dynamic batching: inputs of many requests share a forward pass; the queue is bounded."""

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
    """Collects items for some milliseconds and runs `work` on them in its own thread.

    `work` takes up to `limits.batch` items and returns as many results. `on_batch` gets the size
    and the seconds of each batch. Items that arrive meanwhile form the next batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        limits: ServerLimits,
        on_batch: Callable[[int, float], None],
    ) -> None:
        self._work = work
        self._limits = limits
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()
        self.n_pending = 0  # admitted items without an answer
        self._pace = 0.02  # seconds an item, moving average
        self._explaining = 0
        self._busy_since: float | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether a batch has taken longer than an answer may."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._limits.answer_s

    @property
    def is_full(self) -> bool:
        return self.n_pending >= self._limits.queue

    @contextmanager
    def admit(self, n: int) -> Iterator[None]:
        """Admit n items while the context lasts.

        Raises: Problem 503 with Retry-After where the queue is full.
        """
        if self.n_pending + n > self._limits.queue:
            raise retry("too many are waiting; try again", self._seconds_to_wait())
        self.n_pending += n
        try:
            yield
        finally:
            self.n_pending -= n

    async def submit(self, items: Sequence[Item]) -> list[Result]:
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
            for future in futures:  # of a client that has gone
                future.cancel()

    async def run_alone(self, job: Callable[[], Job]) -> Job:
        """Run one job between two batches, in their thread.

        Raises: Problem 503 where several are waiting, or it takes too long.
        """
        if self._explaining >= self._limits.explaining:
            raise retry("several explanations are running; try again", 2)
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
        """Run batches for ever; cancel it to stop."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._limits.batch:
                await asyncio.sleep(self._limits.gather_s)
            batch: list[tuple[Item, asyncio.Future[Result]]] = []
            while self._waiting and len(batch) < self._limits.batch:
                item, future = self._waiting.popleft()
                if not future.done():
                    batch.append((item, future))
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._run_batch(batch)

    def close(self) -> None:
        """Wait for the running batch, then end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run_batch(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        items = [item for item, _ in batch]
        began = self._busy_since = time.monotonic()
        try:
            results = await loop.run_in_executor(self._thread, self._work, items)
        except Exception as error:  # one bad batch must not end the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._busy_since = None
        seconds = time.monotonic() - began
        self._pace += 0.2 * (seconds / len(batch) - self._pace)
        self._on_batch(len(batch), seconds)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _seconds_to_wait(self) -> int:
        return min(max(math.ceil(self.n_pending * self._pace), 1), 60)
