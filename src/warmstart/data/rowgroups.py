"""Images in a Parquet file, of which a few row groups are in memory at a time.

A file of any size is read where it lies: nothing is unpacked beside it. What is read in order
finds its group in memory nearly always; a single image somewhere costs its group.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from warmstart.data.place import MAX_FILE_BYTES
from warmstart.errors import DataError

KEPT_BYTES = 32_000_000  # of groups in memory; the last two stay whatever they are
MOST_BYTES = 32_000_000  # of one group, beyond which it is better unpacked to disk
BATCH = 32  # images of a group that are unpacked at a time
Opened = Callable[[], AbstractContextManager[Any]]  # to a pyarrow.parquet.ParquetFile


def cells_of(column: Any) -> tuple[Any, Any]:
    """The payloads of a column of bytes, or of structs {bytes, path}, and the paths or None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return column, None
    has_paths = column.type.get_field_index("path") >= 0
    paths = pc.struct_field(column, "path").cast(pa.string()) if has_paths else None
    return pc.struct_field(column, "bytes"), paths


def payload_of(cell: Any) -> bytes:
    """The bytes of an image. Raises: DataError where it has none, or too many."""
    if not cell.is_valid:
        raise DataError("holds no image")
    if cell.as_buffer().size > MAX_FILE_BYTES:
        raise DataError("is larger than 512 MB")
    return bytes(cell.as_py())


def rows_at_once(file: Any, number: int, column: str) -> int:
    """So few rows of a group that they take little, even if all are as large as its pages."""
    group = file.metadata.row_group(number)
    chunks = (group.column(place) for place in range(group.num_columns))
    n_bytes: int = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] == column
    )
    return max(1, min(BATCH, BATCH * MOST_BYTES // max(n_bytes, 1)))


@dataclass(kw_only=True)
class RowGroups:
    """The image column of a Parquet file. May be asked by several threads.

    `check` is called with the bytes unpacked so far, and refuses what is not plausible.
    """

    opened: Opened
    column: str
    check: Callable[[int], None]
    paths: list[str | None] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)  # whether the bytes are there
    largest: int = 0  # bytes of a group, unpacked
    unpacked: int = 0  # groups that were unpacked to be read from
    _starts: list[int] = field(default_factory=list)
    _kept: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def scan(self) -> None:
        """Go through the column once: what each row says of its file, how large groups are."""
        unpacked = 0
        with self.opened() as file:
            for number in range(file.num_row_groups):
                self._starts.append(len(self.inside))
                before = unpacked
                for batch in self._batches(file, number):
                    payloads, paths = cells_of(batch.column(0))
                    self.inside += payloads.is_valid().to_pylist()
                    self.paths += [None] * len(batch) if paths is None else paths.to_pylist()
                    unpacked += batch.nbytes
                    self.check(unpacked)
                self.largest = max(self.largest, unpacked - before)

    def load(self, row: int) -> bytes:
        """The bytes of a row's image. Raises: DataError saying in short why there are none."""
        number = bisect_right(self._starts, row) - 1
        with self._lock:
            try:
                cell = self._group(number)[row - self._starts[number]]
            except Exception as error:  # pyarrow lets a dozen types through on damaged bytes
                reason = str(error).split("\n")[0] or type(error).__name__
                raise DataError(f"cannot be read from its table any more ({reason})") from error
        return payload_of(cell)

    def _group(self, number: int) -> Any:
        """The payloads of a group; the least recently used ones go."""
        import pyarrow as pa

        if number not in self._kept:
            with self.opened() as file:
                batches = self._batches(file, number)
                chunks = [cells_of(batch.column(0))[0] for batch in batches]
            self._kept[number] = pa.chunked_array(chunks)
            self.unpacked += 1
        self._kept.move_to_end(number)
        while len(self._kept) > 2 and sum(g.nbytes for g in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _batches(self, file: Any, number: int) -> Any:
        n = rows_at_once(file, number, self.column)
        return file.iter_batches(
            batch_size=n, row_groups=[number], columns=[self.column], use_threads=False
        )
