"""Threads and memory of this process."""

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

# ---- Freed memory is kept for the next step instead of returned to the system.

# glibc's <malloc.h>. Tensors above the threshold are mapped one by one: the kernel clears each
# page of them at every step, which took 30 % of one (EfficientNet-Lite0 at 224 px, 32 images).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30  # bytes: every tensor of a step
_MAX_TRIM = (1 << 31) - 1  # bytes at the end of the heap that are not returned
_DEFAULT_MAP, _DEFAULT_TRIM = 32 << 20, 64 << 20  # where glibc's own adjustment ends
_depth = 0  # nested contexts
_lock = threading.Lock()


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Allocate large tensors on the heap within the context, then return the free ones.

    Does nothing unless the C library is glibc.
    """
    _open(1)
    try:
        yield
    finally:
        _open(-1)


def _open(change: int) -> None:
    """Count a context that begins (1) or ends (-1); the first sets the limits, the last resets."""
    global _depth
    libc = _glibc()
    with _lock:
        _depth += change
        if libc is None or _depth != max(change, 0):
            return
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST if _depth else _DEFAULT_MAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _MAX_TRIM if _depth else _DEFAULT_TRIM)
        if not _depth:
            libc.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


SMALL = 1_000_000  # multiply-adds a row, below which threads wait more than they work

_fixed_threads: ContextVar[int] = ContextVar("threads", default=0)


def n_threads() -> int:
    """Processors this process may use; several processes of one job share them.

    At most OMP_NUM_THREADS if the process is alone: torchrun sets that for each of several.
    """
    n = max(n_processors() // here().local, 1)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if here().size == 1 and limit.isdecimal() and int(limit):
        n = min(n, int(limit))
    return _fixed_threads.get() or n


def threads_for(network: NetworkRecord) -> int:
    """Threads that speed a network up: one if it takes rows of numbers and is small.

    Two threads that synchronise after every layer are much slower than one beside other programs.
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
def fix_threads(count: int) -> Iterator[None]:
    """Use as many threads as a run began with, whatever the number of processes is now."""
    before = _fixed_threads.get()
    _fixed_threads.set(count)
    try:
        yield
    finally:
        _fixed_threads.set(before)
