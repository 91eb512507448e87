"""Which row of a file holds which content: some 50 bytes for each, however many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32  # of a sha256
NOWHERE = -1
_LOOSE = 4096  # newest rows, or an eighth of all, that a dict finds until they are sorted in
_BLANK, _GONE, _UNREAD, _SOUND = 0, 1, 2, 3  # blank: a row that never had a content

Rows = NDArray[np.int64]


class Places:
    """Row numbers by content, each row's crc, and whether the row has been compared with it.

    Of several rows of one content the newest counts.

    >>> places = Places()
    >>> places.add(["0a" * 32, "0b" * 32], [7, 9], is_sound=False)
    >>> places.find(["0b" * 32, "0c" * 32]).tolist()
    [1, -1]
    """

    def __init__(self) -> None:
        self._n = 0
        self._keys = np.empty((0, KEY_BYTES), np.uint8)
        self._crcs = np.empty(0, np.uint32)
        self._states = np.empty(0, np.uint8)
        # Rows that were sorted in, by the first eight bytes of their content.
        self._heads = np.empty(0, np.uint64)
        self._order = np.empty(0, np.int64)
        self._loose: dict[str, int] = {}  # the rows after those

    def __len__(self) -> int:
        """How many rows the file has, those that count no more among them."""
        return self._n

    def add(self, contents: Sequence[str | None], crcs: Sequence[int], *, is_sound: bool) -> None:
        """The next rows of the file; None for one whose entry is damaged."""
        self._grow(len(contents))
        for content, crc in zip(contents, crcs, strict=True):
            if content is not None:
                self._keys[self._n] = np.frombuffer(bytes.fromhex(content), np.uint8)
                self._crcs[self._n] = crc
                self._states[self._n] = _SOUND if is_sound else _UNREAD
                self._loose[content] = self._n
            self._n += 1
            if len(self._loose) > max(_LOOSE, len(self._order) // 8):
                self._sort()

    def find(self, contents: Sequence[str]) -> Rows:
        """The row of each content, `NOWHERE` for one that has none. Shapes: (len(contents),)."""
        found = np.full(len(contents), NOWHERE, np.int64)
        if len(self._order) and contents:
            keys = np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, KEY_BYTES)
            last = np.searchsorted(self._heads, _heads(keys), side="right") - 1
            rows = self._order[np.maximum(last, 0)]
            is_same = (last >= 0) & (self._keys[rows] == keys).all(axis=1)
            found[is_same] = rows[is_same]
            # Two contents of one beginning: once in 10^13 pairs, and then looked at one by one.
            near = (last >= 0) & ~is_same & (self._heads[np.maximum(last, 0)] == _heads(keys))
            for place in np.flatnonzero(near).tolist():
                found[place] = self._among_like(keys[place], int(last[place]))
        if self._loose:
            for place, content in enumerate(contents):
                found[place] = self._loose.get(content, found[place])
        gone = found >= 0
        gone[gone] = self._states[found[gone]] <= _GONE
        found[gone] = NOWHERE
        return found

    def crcs(self, rows: Rows) -> NDArray[np.uint32]:
        """What was noted of each row when it was written."""
        return self._crcs[rows]

    def are_sound(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each row has been compared with its crc."""
        sound: NDArray[np.bool_] = self._states[rows] == _SOUND
        return sound

    def mark(self, rows: Rows, are_sound: NDArray[np.bool_]) -> None:
        """What comparing said of each row; one that is damaged counts no more."""
        self._states[rows] = np.where(are_sound, _SOUND, _GONE)

    def doubt(self, rows: Rows | None = None) -> None:
        """Sound rows (all without `rows`) are to be compared with their crcs again."""
        chosen = self._states[: self._n] if rows is None else self._states[rows]
        doubted = np.where(chosen == _SOUND, _UNREAD, chosen)
        self._states[slice(self._n) if rows is None else rows] = doubted

    def _grow(self, more: int) -> None:
        room = max(self._n + more, 2 * self._n, 1024)
        if self._n + more > len(self._crcs):
            self._keys = _longer(self._keys, room)
            self._crcs = _longer(self._crcs, room)
            self._states = _longer(self._states, room)

    def _sort(self) -> None:
        """Take the loose rows in: stable, so that the newest of one content comes last."""
        rows = np.flatnonzero(self._states[: self._n] != _BLANK)
        heads = _heads(self._keys[rows])
        by_head = np.argsort(heads, kind="stable")
        self._order, self._heads = rows[by_head], heads[by_head]
        self._loose.clear()

    def _among_like(self, key: NDArray[np.uint8], last: int) -> int:
        head, at = self._heads[last], last
        while at >= 0 and self._heads[at] == head:
            if (self._keys[self._order[at]] == key).all():
                return int(self._order[at])
            at -= 1
        return NOWHERE


def _heads(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    heads: NDArray[np.uint64] = np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]
    return heads


def _longer(values: NDArray, room: int) -> NDArray:  # type: ignore[type-arg]
    longer = np.zeros((room, *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer
