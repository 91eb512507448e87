"""Files mapped into memory whose pages do not stay there.

What has been read through a map counts as memory of the process, though the system could
take it back at any time: a data set of 1 GB would make a run look 1 GB larger.
"""

from __future__ import annotations

import mmap
from typing import IO

LET_GO_BYTES = 16_000_000  # read through maps before their pages are let go


class Pages:
    """Some maps, and how much was read through them."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._read = 0

    def map(self, file: IO[bytes]) -> mmap.mmap:
        """Map a whole file for reading; it may be closed after that.

        Raises: ValueError if it is empty.
        """
        made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(made)
        return made

    def have_read(self, n_bytes: int) -> None:
        """Note what was read; the pages are let go every `LET_GO_BYTES`.

        Whoever reads them again, in another thread or now, gets them from the file.
        """
        self._read += n_bytes
        if self._read > LET_GO_BYTES:
            self._read = 0
            self.let_go()

    def let_go(self) -> None:
        """Give the pages back; a system that has no call for it keeps them."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for made in self._maps:
                made.madvise(mmap.MADV_DONTNEED)
