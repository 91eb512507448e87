"""Freed memory kept for the next pass or step, instead of given back and asked for again."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
