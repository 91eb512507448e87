"""How many processors there are for this process, and for a run that goes on."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from warmstart.distributed import here
from warmstart.records.network import NetworkRecord

# ---- Freed memory kept for the next pass or step, instead of given back and asked for again.


# glibc's <malloc.h>. Tensors above the threshold are mapped one by one: the kernel clears each
# page of them at every step, which took 30 % of one (EfficientNet-Lite0 at 224 px, 32 images).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30  # bytes: every tensor of a step
_KEPT = (1 << 31) - 1  # bytes at the end of the heap that are not given back
_USUAL_MAPPED, _USUAL_KEPT = 32 << 20, 64 << 20  # where glibc's own adjustment ends
_inside = 0  # contexts that are open, one in another
_lock = threading.Lock()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Large blocks are taken from the heap for a while; then the free ones go back.

    Nothing happens where the C library is not glibc.

    >>> with freed_memory_kept():
    ...     len(bytearray(1 << 25))
    33554432
    """
    _open(1)
    try:
        yield
    finally:
        _open(-1)


def _open(change: int) -> None:
    """Count a context that begins (1) or ends (-1); the first sets the limits, the last resets."""
    global _inside
    libc = _glibc()
    with _lock:
        _inside += change
        if libc is None or _inside != max(change, 0):
            return
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST if _inside else _USUAL_MAPPED)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT if _inside else _USUAL_KEPT)
        if not _inside:
            libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library that this process runs on, if it has glibc's knobs."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


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
    takes_rows = len(network.blocks[0].shape_in) == 1
    is_small = sum(block.macs for block in network.blocks) < SMALL
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
