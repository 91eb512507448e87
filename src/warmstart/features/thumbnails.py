"""Glances at some examples, read from the store when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.data.thumbnails import Files, Glances, joined
from warmstart.features.extraction import Look
from warmstart.records.data import Example

KEPT = 2000  # examples, at most, whose glances are kept in memory; a glance takes 5 KB
_ROWS = 500  # read at a time


class Album:
    """What `Glances` holds, of examples that may be too many for memory.

    `grey` and `colour` are asked for some rows at a time: `album.grey[rows]`.
    """

    def __init__(self, look: Look, examples: Sequence[Example]) -> None:
        self._look, self._examples = look, examples
        self._all = look.glances(examples) if len(examples) <= KEPT else None
        self.grey, self.colour = _Column(self, "grey"), _Column(self, "colour")

    def __len__(self) -> int:
        return len(self._examples)

    def of(self, rows: NDArray[np.intp]) -> Glances:
        """The glances of some rows, in memory."""
        if self._all is not None:
            return self._all.of(rows)
        return self._look.glances([self._examples[row] for row in rows])

    @cached_property
    def files(self) -> Files:
        """The figures of all files."""
        if self._all is not None:
            return self._all.files()
        starts = range(0, len(self), _ROWS)
        return joined([self.of(np.arange(len(self))[s : s + _ROWS]).files() for s in starts])


@dataclass(frozen=True, slots=True)
class _Column:
    """One array of the glances, by rows."""

    album: Album
    name: str

    def __len__(self) -> int:
        return len(self.album)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = getattr(self.album.of(np.arange(len(self))[rows]), self.name)
        return found
