"""Glances in the store: a small fixed-size note of each image, made when it is decoded.

They depend on no network, so that one decoding serves every start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.features.key import GlanceKey
from warmstart.features.store import Store

Notes = NDArray[np.uint8]
_FLUSH = 512  # glances kept in memory before they are written


class GlanceBook:
    """Glances by content hash; `put` may be called from several threads.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     book = GlanceBook(Store(Path(folder)), GlanceKey(decoder="pillow", draft=8, version=1))
    ...     book.put("0a" * 32, np.arange(3, dtype=np.uint8))
    ...     book.read(["0a" * 32])
    array([[0, 1, 2]], dtype=uint8)
    """

    def __init__(self, store: Store, key: GlanceKey) -> None:
        """Open the shelf of this kind of glance."""
        self._shelf = store.shelf(key)
        self._lock = threading.Lock()
        self._fresh: dict[str, Notes] = {}

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """The examples without a glance, each once, in the order given."""
        with self._lock:
            return [h for h in self._shelf.missing(hashes) if h not in self._fresh]

    def put(self, sha256: str, glance: Notes) -> None:
        """Keep the glance (WIDTH,) at one example; it is on disk after a while, or `flush`."""
        with self._lock:
            self._fresh[sha256] = glance
            if len(self._fresh) >= _FLUSH:
                self._write()

    def flush(self) -> None:
        """Write what is still in memory. Raises: OSError where the disk is full."""
        with self._lock:
            self._write()

    def refresh(self) -> None:
        """Learn what other processes have glanced at since."""
        self._shelf.refresh()

    def read(self, hashes: Sequence[str]) -> Notes:
        """Glances in the asked order. Shapes: (len(hashes), WIDTH).

        Raises: KeyError for an example without one.
        """
        self.flush()
        rows: Notes = self._shelf.read(hashes, "glance")
        return rows

    def _write(self) -> None:
        ready, self._fresh = self._fresh, {}
        if ready:
            self._shelf.append([*ready], [np.stack([*ready.values()])])
