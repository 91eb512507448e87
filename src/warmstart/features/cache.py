"""The feature cache: files of rows in one folder, with a size limit.

    <digest>.json    the key, readable, and the width of each feature layer
    <digest>.rows    one row of the key's dtype per example: all feature layers side by side
    <digest>.index   one entry per row: sha256 of the example, crc of the row, crc of the entry

Files are append-only, content-addressed and checked when read. A crash may tear any of them at
any byte, and a disk may damage it later. Rows are on disk before their entries are written; an
entry counts only if its own crc and its row's crc are right; a torn end is cut before the next
append. Damaged rows count as missing and are appended again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import ModelError, UsageError
from warmstart.features.cache_key import CacheFileKey, FeatureKey
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.run_folder import remove

# ---- File locks: one writer at a time in a cache folder, and a mark that a file is in use.


if sys.platform == "win32":
    import msvcrt

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, excluding all other threads and processes."""
        with open(path, "ab", buffering=0) as file:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    def mark_in_use(file: FileIO) -> None:
        """Nothing to do: Windows does not remove open files."""

    def is_in_use(path: Path) -> bool:
        """Whether another process has this file open."""
        try:
            path.rename(path)
        except PermissionError:
            return True
        return False

else:
    import fcntl

    @contextmanager
    def exclusive(path: Path) -> Iterator[None]:
        """Hold the lock file `path`, excluding all other threads and processes.

        The file is created if missing, and stays: removing a lock file would let two holders
        lock two different files of one name.
        """
        with open(path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file releases the lock, even if the process is killed

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


# ---- The index in memory, from content to row: some 50 bytes for each row.

KEY_BYTES = 32  # of a sha256
NOWHERE = -1
_UNSORTED = 4096  # newest rows, or an eighth of all, found by a dict until they are sorted
_BLANK, _DAMAGED, _UNREAD, _INTACT = 0, 1, 2, 3  # blank: a row that never had a content

Rows = NDArray[np.int64]


class RowIndex:
    """Row numbers by content, and each row's crc and state; of one content the newest counts."""

    def __init__(self) -> None:
        self._n = 0
        self._keys = np.empty((0, KEY_BYTES), np.uint8)
        self._crcs = np.empty(0, np.uint32)
        self._states = np.empty(0, np.uint8)
        # Sorted rows, by the first eight bytes of their content.
        self._heads = np.empty(0, np.uint64)
        self._order = np.empty(0, np.int64)
        self._unsorted: dict[str, int] = {}  # the rows after those

    def __len__(self) -> int:
        return self._n

    def add(
        self, contents: Sequence[str | None], crcs: Sequence[int], *, is_verified: bool
    ) -> None:
        """Add the next rows of the file; None for one whose entry is damaged."""
        self._grow(len(contents))
        for content, crc in zip(contents, crcs, strict=True):
            if content is not None:
                self._keys[self._n] = np.frombuffer(bytes.fromhex(content), np.uint8)
                self._crcs[self._n] = crc
                self._states[self._n] = _INTACT if is_verified else _UNREAD
                self._unsorted[content] = self._n
            self._n += 1
            if len(self._unsorted) > max(_UNSORTED, len(self._order) // 8):
                self._sort()

    def find(self, contents: Sequence[str]) -> Rows:
        """The row of each content, `NOWHERE` if it has none. Shapes: (len(contents),)."""
        rows = np.full(len(contents), NOWHERE, np.int64)
        if len(self._order) and contents:
            keys = np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, KEY_BYTES)
            heads = _heads(keys)
            at = np.searchsorted(self._heads, heads, side="right") - 1
            # A second round if two contents have one head: once in 10^13 pairs.
            while (open := (rows == NOWHERE) & (at >= 0) & (self._heads[at] == heads)).any():
                is_same = open & (self._keys[self._order[at]] == keys).all(axis=1)
                rows[is_same] = self._order[at[is_same]]
                at[open] -= 1
        if self._unsorted:
            for number, content in enumerate(contents):
                rows[number] = self._unsorted.get(content, rows[number])
        present = np.flatnonzero(rows != NOWHERE)
        rows[present[self._states[rows[present]] <= _DAMAGED]] = NOWHERE
        return rows

    def crcs(self, rows: Rows) -> NDArray[np.uint32]:
        return self._crcs[rows]

    def are_verified(self, rows: Rows) -> NDArray[np.bool_]:
        verified: NDArray[np.bool_] = self._states[rows] == _INTACT
        return verified

    def mark(self, rows: Rows, are_verified: NDArray[np.bool_]) -> None:
        """Set the result of the comparison; damaged rows no longer count."""
        self._states[rows] = np.where(are_verified, _INTACT, _DAMAGED)

    def unverify(self, rows: Rows | None = None) -> None:
        """Have intact rows (None: all) compared with their crcs again."""
        index = slice(self._n) if rows is None else rows
        states = self._states[index]
        self._states[index] = np.where(states == _INTACT, _UNREAD, states)

    def _grow(self, more: int) -> None:
        if self._n + more > len(self._crcs):
            capacity = max(self._n + more, 2 * self._n, 1024)
            self._keys.resize((capacity, KEY_BYTES), refcheck=False)  # with zeros
            self._crcs.resize(capacity, refcheck=False)
            self._states.resize(capacity, refcheck=False)

    def _sort(self) -> None:
        """Sort all rows: stable, so that the newest of one content comes last."""
        rows = np.flatnonzero(self._states[: self._n] != _BLANK)
        heads = _heads(self._keys[rows])
        by_head = np.argsort(heads, kind="stable")
        self._order, self._heads = rows[by_head], heads[by_head]
        self._unsorted.clear()


def _heads(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    heads: NDArray[np.uint64] = np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]
    return heads


# ---- Rows of a file: read into arrays at any offset, and put together for writing.
#
# Several threads may read at once. Not through a memory map, which is no faster (measured on
# rows of 62 KB) and whose pages count as memory of the process.

WRITE_BYTES = 4 << 20  # of rows put side by side at a time, before they are written
_HAS_PREADV = hasattr(os, "preadv")  # not on Windows, nor on macOS before 11
_seek_lock = threading.Lock()  # without preadv a file has one position, which reading moves


def read_rows(file: FileIO, offsets: Iterable[int], out: NDArray[Any]) -> list[int]:
    """Fill each row of `out` from its offset on; returns the indices of unreadable rows."""
    if not out.size:
        return []
    view, size, short = out.data.cast("B"), out[0].nbytes, []
    at = 0
    for index, offset in enumerate(offsets):
        into = view[at : at + size]
        at += size
        n = _read_at(file, into, offset)
        while 0 < n < len(into):
            offset, into = offset + n, into[n:]
            n = _read_at(file, into, offset)
        if n < len(into):
            short.append(index)
    return short


def _read_at(file: FileIO, into: memoryview, offset: int) -> int:
    """Read bytes from an offset on; returns 0 at the end of the file or an unreadable sector."""
    try:
        if _HAS_PREADV:
            return os.preadv(file.fileno(), (into,), offset)
        with _seek_lock:
            file.seek(offset)
            return file.readinto(into) or 0
    except OSError:
        return 0


def side_by_side(
    rows: Sequence[int], columns: Sequence[NDArray[Any]], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Some rows of all columns as rows of a file, about `WRITE_BYTES` at a time."""
    row_bytes = dtype.itemsize * sum(column.shape[1] for column in columns)
    count = max(WRITE_BYTES // max(row_bytes, 1), 1)
    for at in range(0, len(rows), count):
        chunk = [column[rows[at : at + count]] for column in columns]
        yield np.concatenate(chunk, axis=1, dtype=dtype, casting="unsafe")


# ---- The file of one key.

Values = NDArray[Any]  # of the key's dtype
ENTRY_BYTES = 40  # 32 of sha256, 4 of row crc, 4 of entry crc
SUFFIXES = (".json", ".rows", ".index")
Files = tuple[FileIO, FileIO]  # rows, index


class CacheFile:
    """The rows of one key. Not for several threads at once; several processes are fine."""

    def __init__(self, folder: Path, key: CacheFileKey, evict: Callable[[int], None]) -> None:
        """Open the files; `evict(n_bytes)` is called, with the lock held, before they grow."""
        self.key = key
        self._dtype = np.dtype(key.dtype)
        self._base = folder / key.digest
        self._lock = folder / "lock"
        self._evict = evict
        self._files: Files | None = None
        self._reset()
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Read what other processes have appended."""
        with exclusive(self._lock):
            self._open()

    def close(self) -> None:
        """Close the files, which may then be evicted."""
        for file in self._files or ():
            file.close()
        self._files = None

    @property
    def widths(self) -> dict[str, int]:
        """Features of each layer, by name; empty until the first append."""
        return dict(self._widths)

    @property
    def columns(self) -> dict[str, slice]:
        """The slice of each layer in a row, by name; empty until the first append."""
        ends = np.cumsum([0, *self._widths.values()]).tolist()
        return {t: slice(*span) for t, span in zip(self._widths, pairwise(ends), strict=True)}

    def absent(self, hashes: Iterable[str]) -> list[str]:
        """The examples without a row, each once, in the given order; no row is read."""
        unique = list(dict.fromkeys(hashes))
        rows = self._index.find(unique)
        return [unique[number] for number in np.flatnonzero(rows == NOWHERE)]

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """The examples without an intact row, each once, in the given order.

        A row is compared with its crc the first time that it is requested.
        """
        unique = list(dict.fromkeys(hashes))
        self._check_changes()
        rows = self._index.find(unique)
        present = rows[rows != NOWHERE]
        values = np.empty((1, sum(self._widths.values())), self._dtype)
        for row in present[~self._index.are_verified(present)]:
            self._verify(row[None], values, self._fill(row[None], values))
        return self.absent(unique)

    def append(self, hashes: Sequence[str], feature_layers: Sequence[Values]) -> None:
        """Add rows; examples with an intact row by now (another process) are skipped.

        Shapes: one (len(hashes), width) array per feature layer of the key, in its order.
        Raises: ValueError if the shapes do not fit; OSError (disk full) after the files
        have been reset to their former length.
        """
        names = [layer.name for layer in self.key.feature_layers]
        widths = dict(zip(names, (a.shape[1] for a in feature_layers), strict=True))
        if any(len(array) != len(hashes) for array in feature_layers):
            n_rows = [len(array) for array in feature_layers]
            raise ValueError(f"{len(hashes)} examples, feature layers of {n_rows} rows")
        with exclusive(self._lock):
            self._open()
            files = self._files or self._create(widths)
            if widths != self._widths:
                raise ValueError(f"{self._base.name}: widths {widths}, stored {self._widths}")
            # These were computed because no intact row was found, perhaps by another `CacheFile`:
            # rows of this one are compared with their crcs again before new ones are dropped.
            present = self._index.find(hashes)
            self._index.unverify(present[present != NOWHERE])
            missing = set(self.missing(hashes))
            new = {h: i for i, h in enumerate(hashes) if h in missing}
            if new:
                self._evict((self._row_bytes + ENTRY_BYTES) * len(new))
                self._write(files, new, feature_layers)

    def read(self, hashes: Sequence[str], layer: str) -> Values:
        """The features of one layer in the given order. Shapes: (len(hashes), width of the layer).

        Raises: KeyError for an example without an intact row, or an unknown layer.
        """
        for example in self.missing(hashes):
            raise KeyError(example)
        columns = self.columns[layer]
        values = np.empty((len(hashes), columns.stop - columns.start), self._dtype)
        for number in self._fill(self._index.find(hashes), values, columns.start):
            raise KeyError(hashes[number])  # cut off since it was compared with its crc
        return values

    def fetch(self, hashes: Sequence[str]) -> Values:
        """Whole rows in the given order, each compared with its crc the first time.

        For rows of many KB, of which a few are read at a time; several threads may do so at
        once while nothing is appended. Shapes: returns (len(hashes), all widths): `columns`.
        Raises: KeyError naming an example whose row is absent or damaged, and then missing.
        """
        for example in self.absent(hashes):
            raise KeyError(example)
        self._check_changes()
        values = np.empty((len(hashes), sum(self._widths.values())), self._dtype)
        rows = self._index.find(hashes)
        self._verify(rows, values, self._fill(rows, values))
        for example in self.absent(hashes):
            raise KeyError(example)
        return values

    @property
    def _row_bytes(self) -> int:
        return self._dtype.itemsize * sum(self._widths.values())

    def _path(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)

    def _reset(self) -> None:
        self.close()
        self._widths: dict[str, int] = {}
        self._index = RowIndex()
        self._state: tuple[int, int] | None = None  # size and last change of the file of rows

    def _fill(self, rows: Rows, out: Values, column: int = 0) -> list[int]:
        """Read rows from a column on; returns the indices of rows that the file lacks.

        Shapes: out (len(rows), at most the rest of a row).
        """
        if self._files is None:
            return list(range(len(rows)))
        size, skip = self._row_bytes, column * self._dtype.itemsize
        return read_rows(self._files[0], (int(row) * size + skip for row in rows), out)

    def _check_changes(self) -> None:
        """Compare rows with their crcs again if anything else has changed the file."""
        if self._files is not None and (now := _state(self._files[0])) != self._state:
            self._state = now
            self._index.unverify()

    def _verify(self, rows: Rows, values: Values, short: Sequence[int]) -> None:
        """Compare rows that were read for the first time with their crcs."""
        intact, crcs = self._index.are_verified(rows), self._index.crcs(rows)
        for number in np.flatnonzero(~intact):
            intact[number] = zlib.crc32(values[number]) == crcs[number]
        intact[list(short)] = False
        self._index.mark(rows, intact)

    def _open(self) -> None:
        """Bring memory up to date with the disk; the lock is held."""
        if self._files is not None and not self._is_current(self._files):
            self._reset()
        if self._files is None:
            widths = self._read_widths()
            if widths is None or not all(self._path(suffix).is_file() for suffix in SUFFIXES):
                return
            self._widths = widths
            try:
                self._files = self._open_files()
            except OSError:  # no permission: `_create` replaces them
                self._reset()
                return
        self._read_index(*self._files)
        with suppress(OSError):  # removed meanwhile: the next append writes it again
            os.utime(self._path(".json"))  # eviction takes the least recently used

    def _is_current(self, files: Files) -> bool:
        paths = map(self._path, SUFFIXES[1:])
        return all(
            path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            for file, path in zip(files, paths, strict=True)
        )

    def _read_widths(self) -> dict[str, int] | None:
        """Widths of feature layers from the .json; None if it is absent or invalid."""
        try:
            description = json.loads(self._path(".json").read_bytes())
            widths = {
                str(layer): int(width) for layer, width in description["feature_layers"].items()
            }
            is_same_key = description["key"] == self.key.plain
            is_valid = is_same_key and description["crc"] == _crc_of(widths)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # torn or edited: `_create` replaces it
        names = [layer.name for layer in self.key.feature_layers]
        return widths if is_valid and list(widths) == names and min(widths.values()) > 0 else None

    def _create(self, widths: dict[str, int]) -> Files:
        """Create the files that are missing or unusable; the lock is held.

        Usable ones stay: a process that has them open goes on reading and appending.
        """
        self._reset()
        description = {"feature_layers": widths, "key": self.key.plain, "crc": _crc_of(widths)}
        if self._read_widths() != widths:
            _replace(self._path(".json"), json.dumps(description, indent=2).encode())
        for suffix in SUFFIXES[1:]:
            path = self._path(suffix)
            if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
                _replace(path, b"")
        self._widths = widths
        self._files = self._open_files()
        self._read_index(*self._files)
        return self._files

    def _open_files(self) -> Files:
        # Open until `close`, so no `with`.
        rows = open(self._path(".rows"), "r+b", buffering=0)  # noqa: SIM115
        try:
            index = open(self._path(".index"), "r+b", buffering=0)  # noqa: SIM115
        except OSError:
            rows.close()
            raise
        mark_in_use(index)
        self._state = _state(rows)
        return rows, index

    def _read_index(self, rows: FileIO, index: FileIO) -> None:
        """Read the entries that were added since the last time."""
        n_rows = os.fstat(rows.fileno()).st_size // self._row_bytes
        first = len(self._index)
        index.seek(first * ENTRY_BYTES)
        added = index.read()
        n_added = max(0, min(len(added) // ENTRY_BYTES, n_rows - first))
        for i in range(n_added):
            entry = added[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES]
            sha256, crc = entry[:32], int.from_bytes(entry[32:36], "little")
            is_intact = entry == _entry(first + i, sha256, crc)
            self._index.add([sha256.hex() if is_intact else None], [crc], is_verified=False)

    def _write(
        self, files: Files, new: Mapping[str, int], feature_layers: Sequence[Values]
    ) -> None:
        """Write rows first, flushed to disk; then their entries. The lock is held.

        `new` maps examples to their rows in `feature_layers`, which are put side by side a few MB
        at a time: many rows never lie in memory twice.
        """
        first, crcs = len(self._index), list[int]()
        sizes = (first * self._row_bytes, first * ENTRY_BYTES)
        try:
            for file, size in zip(files, sizes, strict=True):
                file.truncate(size)  # cuts the torn end of an earlier crash
                file.seek(size)
            for rows in side_by_side([*new.values()], feature_layers, self._dtype):
                crcs += [zlib.crc32(row) for row in rows]
                _write_all(files[0], rows.data.cast("B"))
            os.fsync(files[0].fileno())
            entries = [
                _entry(first + i, bytes.fromhex(h), crc)
                for i, (h, crc) in enumerate(zip(new, crcs, strict=True))
            ]
            _write_all(files[1], memoryview(b"".join(entries)))
            os.fsync(files[1].fileno())
        except BaseException:
            for file, size in zip(files, sizes, strict=True):
                file.truncate(size)
            raise
        self._index.add([*new], crcs, is_verified=True)


def _replace(path: Path, content: bytes) -> None:
    remove(path)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _state(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects among the lines of a file; others are torn or foreign."""
    objects = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, RecursionError):
                objects.append(json.loads(line))
    return [value for value in objects if isinstance(value, dict)]


def _crc_of(widths: Mapping[str, int]) -> int:
    """The crc of the widths in the description, to detect a changed digit."""
    return zlib.crc32(json.dumps(dict(widths)).encode())


def _entry(position: int, sha256: bytes, row_crc: int) -> bytes:
    body = sha256 + row_crc.to_bytes(4, "little")
    return body + zlib.crc32(position.to_bytes(8, "little") + body).to_bytes(4, "little")


def _write_all(file: FileIO, block: memoryview) -> None:
    while block:  # an unbuffered write may be partial
        block = block[file.write(block) :]


# ---- The folder. It also remembers which examples cannot be decoded, and which networks an engine
# cannot run. One lock file serves all of it: nothing is evicted while a process writes.

DEFAULT_LIMIT_BYTES = 4 << 30
_UNREADABLE = "unreadable.jsonl"
_REDIRECT = ".instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """The answer of `warmstart cache info`."""

    path: str
    feature_sets: int  # one for each key
    rows: int  # examples, summed over the feature sets
    bytes: int
    limit_bytes: int


class FeatureCache:
    """A folder of feature sets, at most `limit_bytes` large."""

    def __init__(self, root: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Open the cache, or create it. Raises: UsageError if the folder cannot be written."""
        self.root = root
        self.limit_bytes = limit_bytes
        try:
            root.mkdir(parents=True, exist_ok=True)
            if self._lock.is_dir():
                remove(self._lock)  # damaged: a folder cannot be locked
            with exclusive(self._lock):
                pass
        except OSError as error:
            raise UsageError(
                f"the feature cache {root} cannot be written ({error.strerror}); "
                "set WARMSTART_CACHE to a folder that can."
            ) from error

    def cache_file(self, key: CacheFileKey) -> CacheFile:
        """Open the rows of this key, empty if there are none; close it, or use `with`.

        While it is open it is not evicted.
        """
        return CacheFile(self.root, key, lambda n_bytes: self._evict(n_bytes, exempt=key.digest))

    def info(self) -> CacheInfo:
        """Count feature sets, rows and bytes."""
        with exclusive(self._lock):
            bases = self._bases()
            sizes = [_size(base.with_name(base.name + ".index")) for base in bases]
            return CacheInfo(
                path=str(self.root),
                feature_sets=len(bases),
                rows=sum(size // ENTRY_BYTES for size in sizes),
                bytes=sum(_size(path) for path in self.root.iterdir()),
                limit_bytes=self.limit_bytes,
            )

    def clear(self) -> int:
        """Remove everything that is not in use; returns the bytes freed."""
        with exclusive(self._lock):
            freed = sum(_remove(base) for base in self._bases() if not _is_open(base))
            for path in (*self.root.glob("*" + _REDIRECT), self.root / _UNREADABLE):
                freed += _size(path)
                remove(path)
        return freed

    def _evict(self, n_bytes: int, exempt: str) -> None:
        """Remove least recently used files until `n_bytes` more fit; the lock is held.

        Files in use stay, and may alone exceed the limit.
        """
        sizes = {base: _total_size(base) for base in self._bases()}
        excess = sum(sizes.values()) + n_bytes - self.limit_bytes
        if excess <= 0:
            return
        files = {base: base.with_name(base.name + ".json") for base in sizes}
        last_uses = {b: file.stat().st_mtime for b, file in files.items() if file.exists()}
        for base in sorted(sizes, key=lambda base: last_uses.get(base, 0.0)):
            if excess > 0 and base.name != exempt and not _is_open(base):
                _remove(base)
                excess -= sizes[base]

    def _bases(self) -> list[Path]:
        """The paths without suffix of all feature sets, also of incomplete ones."""
        stems = {p.stem for suffix in SUFFIXES for p in self.root.glob("*" + suffix)}
        return [self.root / stem for stem in sorted(stems)]

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    def quarantine(self, decoder: str, sha256: str, reason: str) -> None:
        """Remember that `decoder` (name and version) cannot decode these bytes."""
        line = json.dumps({"decoder": decoder, "sha256": sha256, "reason": reason})
        path = self.root / _UNREADABLE
        with exclusive(self._lock):
            if path.exists() and not path.is_file():
                remove(path)
            with open(path, "ab") as file:
                file.write(f"\n{line}\n".encode())  # \n first: after a torn last line

    def quarantined(self, decoder: str) -> dict[str, str]:
        """Examples that this decoder could not decode: sha256 → reason."""
        return {
            note["sha256"]: note["reason"]
            for note in read_lines(self.root / _UNREADABLE)
            if note.keys() >= {"decoder", "sha256", "reason"} and note["decoder"] == decoder
            if all(isinstance(value, str) for value in note.values())
        }

    def redirect(self, requested: FeatureKey, actual: FeatureKey) -> None:
        """Remember that this network was run by another engine than the requested one.

        Otherwise every later extraction would build the failing engine again.
        """
        note = {"engine": actual.engine, "engine_version": actual.engine_version}
        path = self.root / (requested.digest + _REDIRECT)
        if path.exists() and not path.is_file():
            remove(path)
        path.write_text(json.dumps(note), "utf-8")

    def resolve(self, requested: FeatureKey) -> FeatureKey:
        """The key under which the rows of the `requested` key are stored."""
        for note in read_lines(self.root / (requested.digest + _REDIRECT)):
            if note.get("engine") == "torch" and isinstance(note.get("engine_version"), str):
                return replace(requested, engine="torch", engine_version=note["engine_version"])
        return requested


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _total_size(base: Path) -> int:
    return sum(_size(base.with_name(base.name + suffix)) for suffix in SUFFIXES)


def _is_open(base: Path) -> bool:
    path = base.with_name(base.name + ".index")
    return path.is_file() and is_in_use(path)


def _remove(base: Path) -> int:
    freed = _total_size(base)
    for suffix in SUFFIXES:
        remove(base.with_name(base.name + suffix))
    return freed


# ---- Features of some examples, read from the cache: all at once, or a few at a time.

Floats = NDArray[np.float32]

CHUNK_BYTES = 16_000_000  # of rows in memory at a time
CHUNK_ROWS = 512  # at most: results computed from rows may be wider than they are
_WHOLE = 3  # to read more than a third of a row, reading it whole is faster


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """A function from a feature layer to the features of some examples; see `solve.kernels`.

    Raises: ModelError if a feature is not a finite number; KeyError for an example that is not
    in the cache.
    """

    cache_file: CacheFile
    examples: tuple[Example, ...]
    origin: tuple[Example, ...] = ()  # of which `examples` is a selection, for errors

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the rows: where they are stored, and of which examples."""
        return (self.cache_file.key.digest, *(example.sha256 for example in self.examples))

    def __call__(self, layer: FeatureLayer) -> Floats:
        """All features of one layer. Shapes: (n, d)."""
        values: Floats = self.cache_file.read([e.sha256 for e in self.examples], layer.name)
        self._check({layer: values})
        return values

    def some(self, rows: NDArray[np.intp]) -> StoredFeatures:
        """The features of some rows, in this order."""
        examples = tuple(self.examples[row] for row in rows)
        return replace(self, examples=examples, origin=self.origin or self.examples)

    def chunks(
        self, feature_layers: Sequence[FeatureLayer]
    ) -> Iterator[Mapping[FeatureLayer, Floats]]:
        """All rows, in order, a few MB at a time. Shapes: each layer (m, d), m may be 0."""
        widths = self.cache_file.widths
        width = sum(widths[layer.name] for layer in feature_layers)
        is_whole = _WHOLE * width > sum(widths.values())
        n_bytes = 4 * (sum(widths.values()) if is_whole else width)
        count = min(max(CHUNK_BYTES // max(n_bytes, 1), 1), CHUNK_ROWS)
        for at in range(0, max(len(self.examples), 1), count):
            hashes = [example.sha256 for example in self.examples[at : at + count]]
            if is_whole:
                row, columns = self.cache_file.fetch(hashes), self.cache_file.columns
                chunk = {layer: row[:, columns[layer.name]] for layer in feature_layers}
            else:
                chunk = {
                    layer: self.cache_file.read(hashes, layer.name) for layer in feature_layers
                }
            self._check(chunk)
            yield chunk

    def _check(self, features: Mapping[FeatureLayer, Floats]) -> None:
        for layer, values in features.items():
            if np.isfinite(values).all():
                continue
            examples = self.origin or self.examples
            bad = [
                example
                for example in examples
                if not np.isfinite(self.cache_file.read([example.sha256], layer.name)).all()
            ]
            raise ModelError(
                f"the base model gives values that are not numbers for {len(bad):,} of "
                f"{len(examples):,} images (first: {bad[0].id}, at block {layer.block}); check "
                "its preprocessing, or choose another base model."
            )
