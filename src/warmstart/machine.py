"""How much memory there is, and how much of it reading data may take."""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import platformdirs

from warmstart.errors import DataError
from warmstart.formatting import size

SHARE = 0.5  # of what is free: the network, its features and other programs need the rest
_UNKNOWN = 4 * 2**30  # where the system does not say what is free
_CELL_BYTES = 64  # a short text of Python, and its place in a list


def default_root() -> Path:
    """The folder of the feature cache: $WARMSTART_CACHE, else the user's own cache folder."""
    return Path(os.environ.get("WARMSTART_CACHE") or platformdirs.user_cache_dir("warmstart"))


def free_memory() -> int | None:
    """Bytes that this process may still take, within a container's limits; None: not known."""
    group, free = Path("/sys/fs/cgroup"), []
    for limit, used in (  # of either version of control groups
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # the other version, or no limit
            left = int((group / limit).read_text()) - int((group / used).read_text())
            free.append(max(left, 1))
    limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit_bytes != resource.RLIM_INFINITY:
        free.append(max(limit_bytes - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 1))
    table = Path("/proc/meminfo")
    if table.exists() and (row := re.search(r"MemAvailable:\s+(\d+) kB", table.read_text())):
        free.append(int(row[1]) * 1024)
    return min(free, default=None)


def reading_limit() -> int:
    """Bytes that one reader may take."""
    free = free_memory()
    return int(SHARE * (_UNKNOWN if free is None else free))


def check_memory(n_bytes: int, shown: str, cure: str = "leave out rows or columns") -> None:
    """Refuse what would not fit into memory once it is read.

    Raises: DataError naming the file, what it takes and what there is.
    """
    limit = reading_limit()
    if n_bytes > limit:
        raise DataError(
            f"{shown} takes about {size(n_bytes)} of memory when it is read, and "
            f"{size(limit)} may be used (half of what is free); {cure}, or read it where "
            "more is free"
        )


def cell_bytes(n_cells: int, n_letters: int = 0) -> int:
    """Bytes of so many cells as texts of Python."""
    return _CELL_BYTES * n_cells + n_letters


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
