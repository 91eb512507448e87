"""How many processors there are for this process, and for a run that goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from warmstart.records import NetworkRecord
from warmstart.world import here

SMALL = 1_000_000  # multiply-adds a row, below which threads wait more than they work

_kept_threads: ContextVar[int] = ContextVar("threads", default=0)


def n_threads() -> int:
    """Processors this process may use; several processes of one job share them.

    No more than OMP_NUM_THREADS, where a process is alone: torchrun sets it for each of several,
    whatever there is for them.

    >>> n_threads() >= 1
    True
    """
    own = max(n_processors() // here().local, 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if here().size == 1 and asked.isdecimal() and int(asked):
        own = min(own, int(asked))
    return _kept_threads.get() or own


def threads_for(network: NetworkRecord) -> int:
    """Threads that a network gains from: one where it takes rows of numbers and is small.

    Two threads that meet after every layer are much slower than one where other programs run.
    """
    takes_rows = len(network.parts[0].shape_in) == 1
    is_small = sum(part.macs for part in network.parts) < SMALL
    return 1 if takes_rows and is_small else n_threads()


def n_processors() -> int:
    """Processors that this process and others of its job on this machine may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads_kept(count: int) -> Iterator[None]:
    """As many threads as a run began with, whatever the number of processes is now."""
    before = _kept_threads.get()
    _kept_threads.set(count)
    try:
        yield
    finally:
        _kept_threads.set(before)
