"""Rows of a file: read into arrays of one's own at any place, and put together for writing.

Reading may be done by several threads at once. It is not done through a memory map: the
pages that a map has touched count as memory of the process, and the system brings in the
pages around each. Measured on rows of 62 KB, one tap of 300 to 10,000 of them: as fast as a
map, and nothing stays in memory but what was asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 4 << 20  # of rows laid side by side at a time, before they are written
_HAS_PREADV = hasattr(os, "preadv")  # not on Windows, nor on macOS before 11
_moving = threading.Lock()  # without preadv a file has one position, which reading moves


def read_rows(file: FileIO, offsets: Iterable[int], out: NDArray[Any]) -> list[int]:
    """Fill each row of `out` with the bytes from its offset on.

    Shapes: offsets n, out (n, …) contiguous. Returns the places of rows that reach beyond the
    end of the file, or that the disk does not give; what stands in those is not defined.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryFile(buffering=0) as file:
    ...     done, out = file.write(b"abcdef"), np.empty((3, 2), "S1")
    ...     read_rows(file, [4, 0, 5], out), out[:2].tolist()
    ([2], [[b'e', b'f'], [b'a', b'b']])
    """
    if not out.size:
        return []
    view, size, short = out.data.cast("B"), out[0].nbytes, []
    read, at = _reader(file), 0
    for place, offset in enumerate(offsets):
        into = view[at : at + size]
        at += size
        n = read(into, offset)
        while 0 < n < len(into):
            offset, into = offset + n, into[n:]
            n = read(into, offset)
        if n < len(into):
            short.append(place)
    return short


def _reader(file: FileIO) -> Callable[[memoryview, int], int]:
    """What reads some bytes from an offset on; 0 at the end of the file."""
    if _HAS_PREADV:
        number = file.fileno()

        def positioned(into: memoryview, offset: int) -> int:
            try:
                return os.preadv(number, (into,), offset)
            except OSError:  # a sector that cannot be read any more: as if it were cut off
                return 0

        return positioned

    def moving(into: memoryview, offset: int) -> int:
        with _moving, suppress(OSError):
            file.seek(offset)
            return file.readinto(into) or 0
        return 0

    return moving


def side_by_side(
    rows: Sequence[int], columns: Sequence[NDArray[Any]], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Chosen rows of all columns as rows of a file, about `CHUNK_BYTES` at a time.

    >>> two = [np.array([[1, 2], [3, 4]]), np.array([[5], [6]])]
    >>> [block.tolist() for block in side_by_side([1, 0], two, np.dtype(np.int64))]
    [[[3, 4, 6], [1, 2, 5]]]
    """
    row_bytes = dtype.itemsize * sum(column.shape[1] for column in columns)
    count = max(CHUNK_BYTES // max(row_bytes, 1), 1)
    for at in range(0, len(rows), count):
        chosen = [column[rows[at : at + count]] for column in columns]
        yield np.concatenate(chosen, axis=1, dtype=dtype, casting="unsafe")
