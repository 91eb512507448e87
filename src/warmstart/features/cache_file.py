"""Rows on disk, one an example: append-only, content-addressed, checked when read.

Three files, named by the digest of the look's key:

    <digest>.json    the key, readable, and the width of each tap
    <digest>.rows    one row of the key's dtype per example: all taps side by side
    <digest>.index   one entry per row: sha256 of the example, crc of the row, crc of the entry

One file per *look* and not one per tap: a pass gives all taps of an image at once, so one
row makes an example present with all its taps or not at all, an append costs two fsyncs
instead of sixty, and reading one tap takes a few bytes of every row. The list of taps is
therefore a member of the key.

A crash may tear any file at any byte, and a disk may damage it later. Rows are on disk before
their entries are written; an entry counts only if its own crc and its row's crc hold; a torn
tail is cut before the next append. What is damaged counts as missing, is computed again and
appended; a file that is gone, or is no file, is made anew beside those that are sound.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from warmstart.features.cache_key import CacheFileKey
from warmstart.records.run_folder import remove

# ---- File locks: one writer at a time in a cache folder, and a sign that a file is in use.


if sys.platform == "win32":
    import msvcrt

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, alone among all threads and processes."""
        with open(path, "ab", buffering=0) as file:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    def mark_in_use(file: FileIO) -> None:
        """Nothing to do: Windows does not remove a file that is open."""

    def is_in_use(path: Path) -> bool:
        """Whether another holder has this file open."""
        try:
            path.rename(path)
        except PermissionError:
            return True
        return False

else:
    import fcntl

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, alone among all threads and processes.

        The file is made where it is missing, and stays: removing a lock file would let
        two holders lock two different files of one name.
        """
        with open(path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file gives the lock back, a killed process too

    def mark_in_use(file: FileIO) -> None:
        """Mark an open file as in use until it is closed; several may do so at once."""
        fcntl.flock(file, fcntl.LOCK_SH)

    def is_in_use(path: Path) -> bool:
        """Whether anyone, this process included, has marked the file as in use."""
        with open(path, "rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


# ---- Which row of a file holds which content: some 50 bytes for each, however many there are.


KEY_BYTES = 32  # of a sha256
NOWHERE = -1
_LOOSE = 4096  # newest rows, or an eighth of all, that a dict finds until they are sorted in
_BLANK, _GONE, _UNREAD, _SOUND = 0, 1, 2, 3  # blank: a row that never had a content

Rows = NDArray[np.int64]


class RowIndex:
    """Row numbers by content, each row's crc, and whether the row has been compared with it.

    Of several rows of one content the newest counts.

    >>> places = RowIndex()
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


# ---- Rows of a file: read into arrays of one's own at any place, and put together for writing.
#
# Reading may be done by several threads at once. It is not done through a memory map: the
# pages that a map has touched count as memory of the process, and the system brings in the
# pages around each. Measured on rows of 62 KB, one tap of 300 to 10,000 of them: as fast as a
# map, and nothing stays in memory but what was asked for.


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


Values = NDArray[Any]  # of the key's dtype
ENTRY_BYTES = 40  # 32 of sha256, 4 of row crc, 4 of entry crc
SUFFIXES = (".json", ".rows", ".index")
Files = tuple[FileIO, FileIO]  # rows, index


class CacheFile:
    """The rows of one look. Not for several threads at once; several processes are fine."""

    def __init__(self, folder: Path, key: CacheFileKey, make_room: Callable[[int], None]) -> None:
        """Open a shelf; `make_room(n_bytes)` is called, with the lock held, before growth."""
        self.key = key
        self._dtype = np.dtype(key.dtype)
        self._base = folder / key.digest
        self._lock = folder / "lock"
        self._make_room = make_room
        self._files: Files | None = None
        self._forget()
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Learn what other processes have appended since."""
        with exclusive(self._lock):
            self._open()

    def close(self) -> None:
        """Let the files go; the shelf may be evicted from now on."""
        for file in self._files or ():
            file.close()
        self._files = None

    @property
    def widths(self) -> dict[str, int]:
        """Features per tap, by tap name; empty until the first append."""
        return dict(self._widths)

    @property
    def columns(self) -> dict[str, slice]:
        """Where each tap stands in a row, by tap name; empty until the first append."""
        ends = np.cumsum([0, *self._widths.values()]).tolist()
        return {t: slice(*span) for t, span in zip(self._widths, pairwise(ends), strict=True)}

    def absent(self, hashes: Iterable[str]) -> list[str]:
        """The examples that have no row, each once, in the order given; no row is read."""
        asked = list(dict.fromkeys(hashes))
        rows = self._places.find(asked)
        return [asked[place] for place in np.flatnonzero(rows == NOWHERE)]

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """The examples that have no sound row, each once, in the order given.

        A row is read and compared with its crc the first time that it is asked for.
        """
        asked = list(dict.fromkeys(hashes))
        self._doubt_changes()
        rows = self._places.find(asked)
        there = rows[rows != NOWHERE]
        values = np.empty((1, sum(self._widths.values())), self._dtype)
        for row in there[~self._places.are_sound(there)]:
            self._verify(row[None], values, self._fill(row[None], values))
        return self.absent(asked)

    def append(self, hashes: Sequence[str], feature_layers: Sequence[Values]) -> None:
        """Add rows; examples that have a sound row by now (another process) are left alone.

        Shapes: taps: one (len(hashes), width) array per tap of the key, in the key's order.
        Raises: ValueError if the shapes do not fit; OSError (disk full) after the files
        have been set back to what they held before.
        """
        widths = dict(
            zip(
                (t.name for t in self.key.feature_layers),
                (a.shape[1] for a in feature_layers),
                strict=True,
            )
        )
        if any(len(array) != len(hashes) for array in feature_layers):
            raise ValueError(
                f"{len(hashes)} examples, taps of {[len(a) for a in feature_layers]} rows"
            )
        with exclusive(self._lock):
            self._open()
            files = self._files or self._create(widths)
            if widths != self._widths:
                raise ValueError(f"{self._base.name}: widths {widths}, stored {self._widths}")
            # Whoever computed these found no sound row, maybe through another `CacheFile`: what
            # this one takes to be there is compared with its crc before the new row is dropped.
            there = self._places.find(hashes)
            self._places.doubt(there[there != NOWHERE])
            missing = set(self.missing(hashes))
            fresh = {h: i for i, h in enumerate(hashes) if h in missing}
            if fresh:
                self._make_room((self._row_bytes + ENTRY_BYTES) * len(fresh))
                self._write(files, fresh, feature_layers)

    def read(self, hashes: Sequence[str], layer: str) -> Values:
        """One tap's features in the asked order. Shapes: returns (len(hashes), width of the tap).

        Raises: KeyError for an example that has no sound row, or a tap that is not here.
        """
        for example in self.missing(hashes):
            raise KeyError(example)
        block = self.columns[layer]
        found = np.empty((len(hashes), block.stop - block.start), self._dtype)
        for place in self._fill(self._places.find(hashes), found, block.start):
            raise KeyError(hashes[place])  # cut off since it was compared with its crc
        return found

    def fetch(self, hashes: Sequence[str]) -> Values:
        """Whole rows in the asked order, each compared with its crc the first time.

        For rows of many KB, of which a few are read at a time; several threads may do so at
        once while nothing is appended. Shapes: returns (len(hashes), all widths): `columns`.
        Raises: KeyError naming an example whose row is absent or damaged; `missing` from now on.
        """
        for example in self.absent(hashes):
            raise KeyError(example)
        self._doubt_changes()
        found = np.empty((len(hashes), sum(self._widths.values())), self._dtype)
        rows = self._places.find(hashes)
        self._verify(rows, found, self._fill(rows, found))
        for example in self.absent(hashes):
            raise KeyError(example)
        return found

    # ---- files -------------------------------------------------------------------------

    @property
    def _row_bytes(self) -> int:
        return self._dtype.itemsize * sum(self._widths.values())

    def _path(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)

    def _forget(self) -> None:
        self.close()
        self._widths: dict[str, int] = {}
        self._places = RowIndex()
        self._seen: tuple[int, int] | None = None  # size of the rows' file, and its last change

    def _fill(self, rows: Rows, out: Values, column: int = 0) -> list[int]:
        """Read rows from a column on; returns the places that the file does not hold whole.

        Shapes: out (len(rows), at most the rest of a row).
        """
        if self._files is None:
            return list(range(len(rows)))
        size, skip = self._row_bytes, column * self._dtype.itemsize
        return read_rows(self._files[0], (int(row) * size + skip for row in rows), out)

    def _doubt_changes(self) -> None:
        """Rows of a file that something else changed since are compared with their crcs again."""
        if self._files is not None and (now := _state(self._files[0])) != self._seen:
            self._seen = now
            self._places.doubt()

    def _verify(self, rows: Rows, values: Values, short: Sequence[int]) -> None:
        """Compare rows that were read for the first time with their crcs; forget the damaged."""
        sound, crcs = self._places.are_sound(rows), self._places.crcs(rows)
        for place in np.flatnonzero(~sound):
            sound[place] = zlib.crc32(values[place]) == crcs[place]
        sound[list(short)] = False  # a flipped bit, or cut off: computed again
        self._places.mark(rows, sound)

    def _open(self) -> None:
        """Make memory agree with the disk; the lock is held."""
        if self._files is not None and not self._is_current(self._files):
            self._forget()
        if self._files is None:
            widths = self._described_widths()
            if widths is None or not all(self._path(suffix).is_file() for suffix in SUFFIXES):
                return
            self._widths = widths
            try:
                self._files = self._hold()
            except OSError:  # not ours to read: `_create` replaces them
                self._forget()
                return
        self._absorb(*self._files)
        with suppress(OSError):  # removed meanwhile: written again by the next one who appends
            os.utime(self._path(".json"))  # eviction takes the least recently used

    def _is_current(self, files: Files) -> bool:
        paths = map(self._path, SUFFIXES[1:])
        return all(
            path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            for file, path in zip(files, paths, strict=True)
        )

    def _described_widths(self) -> dict[str, int] | None:
        """Tap widths from the .json; None if it is absent or not to be trusted."""
        try:
            found = json.loads(self._path(".json").read_bytes())
            widths = {str(layer): int(width) for layer, width in found["feature_layers"].items()}
            is_ours = found["key"] == self.key.plain and found["crc"] == _crc_of(widths)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # torn or edited: `_create` replaces it
        names = [layer.name for layer in self.key.feature_layers]
        return widths if is_ours and list(widths) == names and min(widths.values()) > 0 else None

    def _create(self, widths: dict[str, int]) -> Files:
        """Make the files that are missing or cannot be used; the lock is held.

        Sound ones stay: a process that has them open goes on reading and appending.
        """
        self._forget()
        described = {"feature_layers": widths, "key": self.key.plain, "crc": _crc_of(widths)}
        if self._described_widths() != widths:
            _replace(self._path(".json"), json.dumps(described, indent=2).encode())
        for suffix in SUFFIXES[1:]:
            if not _is_usable(self._path(suffix)):
                _replace(self._path(suffix), b"")
        self._widths = widths
        self._files = self._hold()
        self._absorb(*self._files)
        return self._files

    def _hold(self) -> Files:
        # Held open until `close`, so no `with`.
        rows = open(self._path(".rows"), "r+b", buffering=0)  # noqa: SIM115
        try:
            index = open(self._path(".index"), "r+b", buffering=0)  # noqa: SIM115
        except OSError:
            rows.close()
            raise
        mark_in_use(index)
        self._seen = _state(rows)
        return rows, index

    def _absorb(self, rows: FileIO, index: FileIO) -> None:
        """Learn the entries that were added since the last time."""
        n_rows = os.fstat(rows.fileno()).st_size // self._row_bytes
        start = len(self._places)
        index.seek(start * ENTRY_BYTES)
        added = index.read()
        n_added = max(0, min(len(added) // ENTRY_BYTES, n_rows - start))
        for i in range(n_added):
            entry = added[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES]
            sha256, crc = entry[:32], int.from_bytes(entry[32:36], "little")
            is_whole = entry == _entry(start + i, sha256, crc)
            self._places.add([sha256.hex() if is_whole else None], [crc], is_sound=False)

    def _write(
        self, files: Files, fresh: Mapping[str, int], feature_layers: Sequence[Values]
    ) -> None:
        """Rows first, forced to disk; then their entries. The lock is held.

        `fresh` maps examples to their rows in `feature_layers`. A few MB are laid side by side at a time:
        the rows of many examples never lie in memory twice.
        """
        start, crcs = len(self._places), list[int]()
        sizes = (start * self._row_bytes, start * ENTRY_BYTES)
        try:
            for file, size in zip(files, sizes, strict=True):
                file.truncate(size)  # a torn tail of an earlier crash goes
                file.seek(size)
            for rows in side_by_side([*fresh.values()], feature_layers, self._dtype):
                crcs += [zlib.crc32(row) for row in rows]
                _write_all(files[0], rows.data.cast("B"))
            os.fsync(files[0].fileno())
            entries = [
                _entry(start + i, bytes.fromhex(h), crc)
                for i, (h, crc) in enumerate(zip(fresh, crcs, strict=True))
            ]
            _write_all(files[1], memoryview(b"".join(entries)))
            os.fsync(files[1].fileno())
        except BaseException:
            for file, size in zip(files, sizes, strict=True):
                file.truncate(size)
            raise
        self._places.add([*fresh], crcs, is_sound=True)


def _replace(path: Path, content: bytes) -> None:
    remove(path)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _is_usable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK | os.W_OK)


def _state(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _crc_of(widths: Mapping[str, int]) -> int:
    """Of the widths as the description holds them: a digit that changed must not pass."""
    return zlib.crc32(json.dumps(dict(widths)).encode())


def _entry(position: int, sha256: bytes, row_crc: int) -> bytes:
    body = sha256 + row_crc.to_bytes(4, "little")
    return body + zlib.crc32(position.to_bytes(8, "little") + body).to_bytes(4, "little")


def _write_all(file: FileIO, block: memoryview) -> None:
    while block:  # an unbuffered write may take less than it was given
        block = block[file.write(block) :]
