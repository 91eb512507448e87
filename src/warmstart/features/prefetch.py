"""Results made ahead of need: the next batch is prepared while the network works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int = 2
) -> Iterator[Result]:
    """What `make` gives for each item, in order; up to `depth` are made beyond the one at work.

    `workers` threads make them, each of which runs torch on one thread; 0: they are made here,
    when they are asked for. Items are taken here, one by one. What goes wrong is raised in its
    place, after the results before it; a consumer that stops waits for those being made.

    >>> list(ahead(str, range(3), workers=1))
    ['0', '1', '2']
    """
    if workers == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, "ahead", initializer=partial(torch.set_num_threads, 1))
    waiting = _submitted(pool, make, items)
    flying: deque[Future[Result]] = deque()
    try:
        while True:
            while len(flying) <= depth and (future := next(waiting, None)):
                flying.append(future)
            if not flying:
                return
            yield flying.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The workers' number is also what threads begin with that are born later.
        torch.set_num_threads(torch.get_num_threads())


def _submitted(
    pool: ThreadPoolExecutor, make: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """A future for each item; the last one fails where the items do."""
    try:
        for item in items:
            yield pool.submit(make, item)
    except Exception as error:
        lost: Future[Result] = Future()
        lost.set_exception(error)
        yield lost
