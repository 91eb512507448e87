"""Parquet files and Arrow streams as tables, by pyarrow, which is optional.

No code inside a file is run: columns of plain types become texts, columns of bytes become
images, all others are ignored.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from warmstart.data.parsing import Pictures, Table, TableImages, text_of
from warmstart.data.place import (
    MAX_FILE_BYTES,
    MAX_RATIO,
    MAX_TOTAL_BYTES,
    RATIO_FROM_BYTES,
    special,
)
from warmstart.errors import DataError, install_command
from warmstart.machine import cell_bytes, check_memory, reading_limit

# ---- Files mapped into memory whose pages are released after reading.
#
# Pages read through a map count as memory of the process.

RELEASE_BYTES = 16_000_000  # read through maps before their pages are released


class Pages:
    """Memory maps, and how many bytes were read through them."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._n_read = 0

    def map(self, file: IO[bytes]) -> mmap.mmap:
        """Map a whole file, which may then be closed. Raises: ValueError if it is empty."""
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(pages)
        return pages

    def count(self, n_bytes: int) -> None:
        """Count bytes read; the pages are released every `RELEASE_BYTES`."""
        self._n_read += n_bytes
        if self._n_read > RELEASE_BYTES:
            self._n_read = 0
            self.release()

    def release(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)


# ---- Images in a Parquet file, of which a few row groups are in memory at a time.
#
# Reading in order nearly always finds the group in memory; a single image costs its group.

MEMORY_BYTES = 32_000_000  # of groups in memory; the last two always stay
MAX_GROUP_BYTES = 32_000_000  # a larger group is better unpacked to disk
BATCH = 32  # images of a group that are unpacked at a time
OpenFile = Callable[[], AbstractContextManager[Any]]  # to a pyarrow.parquet.ParquetFile


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
    if not cell.is_valid:
        raise DataError("holds no image")
    if cell.as_buffer().size > MAX_FILE_BYTES:
        raise DataError("is larger than 512 MB")
    return bytes(cell.as_py())


def rows_at_once(file: Any, number: int, column: str) -> int:
    """How many rows of a group to read, so that they fit even if each fills its pages."""
    n_bytes = _column_bytes(file.metadata.row_group(number), (column,))
    return max(1, min(BATCH, BATCH * MAX_GROUP_BYTES // max(n_bytes, 1)))


def _column_bytes(group: Any, columns: Sequence[str]) -> int:
    """Uncompressed bytes of some columns of a row group, as its file states them."""
    chunks = (group.column(index) for index in range(group.num_columns))
    n_bytes: int = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in columns
    )
    return n_bytes


@dataclass(kw_only=True)
class RowGroups:
    """The image column of a Parquet file; thread-safe. `check` raises on implausible sizes."""

    open: OpenFile
    column: str
    check: Callable[[int], None]
    paths: list[str | None] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)  # whether the row has the bytes
    largest: int = 0  # bytes of a group, unpacked
    _first_rows: list[int] = field(default_factory=list)
    _groups: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def scan(self) -> None:
        """Read the column once: the path in each row, and the size of each group."""
        unpacked = 0
        with self.open() as file:
            for number in range(file.num_row_groups):
                self._first_rows.append(len(self.inside))
                before = unpacked
                for batch in self._batches(file, number):
                    payloads, paths = cells_of(batch.column(0))
                    self.inside += payloads.is_valid().to_pylist()
                    self.paths += [None] * len(batch) if paths is None else paths.to_pylist()
                    unpacked += batch.nbytes
                    self.check(unpacked)
                self.largest = max(self.largest, unpacked - before)

    def load(self, row: int) -> bytes:
        number = bisect_right(self._first_rows, row) - 1
        with self._lock:
            try:
                cell = self._group(number)[row - self._first_rows[number]]
            except Exception as error:  # pyarrow raises a dozen types on damaged bytes
                reason = str(error).split("\n")[0] or type(error).__name__
                raise DataError(f"cannot be read from its table any more ({reason})") from error
        return payload_of(cell)

    def _group(self, number: int) -> Any:
        """The payloads of a group; the least recently used groups are dropped."""
        import pyarrow as pa

        if number not in self._groups:
            with self.open() as file:
                batches = self._batches(file, number)
                chunks = [cells_of(batch.column(0))[0] for batch in batches]
            self._groups[number] = pa.chunked_array(chunks)
        self._groups.move_to_end(number)
        while len(self._groups) > 2 and sum(g.nbytes for g in self._groups.values()) > MEMORY_BYTES:
            self._groups.popitem(last=False)
        return self._groups[number]

    def _batches(self, file: Any, number: int) -> Any:
        n = rows_at_once(file, number, self.column)
        return file.iter_batches(
            batch_size=n, row_groups=[number], columns=[self.column], use_threads=False
        )


# Names of a column of images, unless there is only one column of bytes.
IMAGE_NAMES = ("image", "img", "picture", "photo", "image_bytes", "bytes", "jpg", "png")
_SLICE = 256  # rows of a column that become Python texts at a time
Names = Mapping[str, tuple[str, ...]]


def parse_parquet(data: str | os.PathLike[str] | bytes, source: str) -> Table:
    """A Parquet file by its path or its bytes; its images are read a row group at a time.

    If a group is large, all are unpacked into a nameless file first.
    Raises: DataError if pyarrow is missing, the file is damaged, or it has no rows.
    """
    load_pyarrow(source)
    with _readable(source, "Parquet"):
        if not isinstance(data, bytes) and (why := special(os.stat(data).st_mode)):
            raise DataError(f"{source} is {why}, which is not opened; name a file")
        n_bytes = len(data) if isinstance(data, bytes) else os.path.getsize(data)
        with _open_parquet(data) as file:
            schema, metadata = file.schema_arrow, file.metadata
        reopen = partial(_open_parquet, data, metadata)
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = class_names(notes.get("info", {}).get("features", {}))

        def column(name: str) -> Any:
            # Texts come as a dictionary: a few values in many rows stay few.
            with reopen() as file:
                _check_columns(file, [name], n_bytes, source)
            with reopen(texts=[name] if _is_text(schema.field(name).type) else None) as file:
                return file.read(columns=[name]).column(0)

        def images(name: str) -> TableImages:
            return _in_groups(reopen, name, source, n_bytes)

        return _table(schema, metadata.num_rows, column, images, names, source, "Parquet")


@contextmanager
def _open_parquet(
    data: str | os.PathLike[str] | bytes, metadata: Any = None, texts: list[str] | None = None
) -> Iterator[Any]:
    """A Parquet file; `texts` names columns that come as dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = pa.BufferReader(data) if isinstance(data, bytes) else pa.OSFile(str(data))
    with file:
        yield parquet.ParquetFile(file, metadata=metadata, read_dictionary=texts)


def _check_columns(file: Any, names: Sequence[str], n_packed: int, source: str) -> None:
    """Refuse columns that would not fit into memory, by the sizes that the file states."""
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    n_bytes = sum(_column_bytes(group, names) for group in groups)
    _check_plausible(n_bytes, n_packed, source)
    check_memory(n_bytes, source)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def parse_streams(streams: Sequence[str | bytes], names: Names, source: str) -> Table:
    """Arrow IPC streams, by path (mapped into memory) or as bytes, one after the other."""
    pa, pages = load_pyarrow(source), Pages()
    batches: list[Any] = []
    with _readable(source, "Arrow stream"):
        for stream in streams:
            buffer: Any = stream
            if isinstance(stream, str):
                with open(stream, "rb") as file:
                    buffer = pages.map(file)
            handle = pa.BufferReader(pa.py_buffer(buffer))
            n_bytes = 0
            for batch in pa.ipc.open_stream(handle):
                batch.validate(full=True)  # offsets that point outside would crash later
                batches.append(batch.replace_schema_metadata(None))
                n_bytes += batch.nbytes
                _check_plausible(n_bytes, handle.size(), source)
        table = pa.Table.from_batches(batches, None if batches else pa.schema([]))

        def images(name: str) -> TableImages:
            return _in_pages(table.column(name), pages)

        n_rows = table.num_rows
        return _table(table.schema, n_rows, table.column, images, names, source, "Arrow stream")


def load_pyarrow(source: str) -> Any:
    """The pyarrow package. Raises: DataError with the command that installs it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{source} is read with pyarrow, which is not installed; run "
            f"`{install_command('data')}`"
        ) from None
    return pyarrow


def class_names(features: Any) -> dict[str, tuple[str, ...]]:
    """The class names of each column that is a ClassLabel among Hugging Face features.

    Raises: ValueError for anything that `datasets` does not write.
    """
    if not isinstance(features, dict):
        raise ValueError("its features are not a mapping")
    classes = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ValueError(f'the class names of "{column}" are missing')
            classes[column] = tuple(names)
    return classes


@contextmanager
def _readable(source: str, kind: str) -> Any:
    """Turn what pyarrow and json raise on damaged bytes into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pyarrow raises a dozen types on damaged bytes
        reason = str(error).split("\n")[0].rstrip(". ") or type(error).__name__
        raise DataError(f"{source} cannot be read as {kind} ({reason}); copy it again") from error


def _table(
    schema: Any,
    n_rows: int,
    column_of: Callable[[str], Any],
    images_of: Callable[[str], TableImages],
    class_names_of: Names,
    source: str,
    kind: str,
) -> Table:
    if not n_rows:
        raise DataError(f"{source} has no rows; save the data set again with all of them")
    check_memory(cell_bytes(n_rows), source)
    image = _image_column(schema, source)

    def texts(name: str) -> list[str | None]:
        with _readable(source, kind):
            column = column_of(name)
            _check_length(column, n_rows)
            cells = _cells(column, source)
        names = class_names_of.get(name)
        return cells if names is None else _class_names_of(cells, names, name, source)

    def pictures() -> TableImages:
        with _readable(source, kind):
            images = images_of(str(image))
            _check_length(images.inside, n_rows)
            return images

    return Table(
        columns=tuple(schema.names),
        lines=range(n_rows),
        texts=texts,
        unit="row",
        pictures=Pictures(image, pictures) if image else None,
    )


def _cells(column: Any, source: str) -> list[str | None]:
    """A column as texts; raises DataError if they would not fit into memory."""
    import pyarrow.types as types

    texts: list[str | None] = []
    n_letters, limit = 0, reading_limit()
    for chunk in column.chunks:
        if types.is_nested(chunk.type):  # no texts, and of any size: only present or missing
            texts += [None if valid else "" for valid in chunk.is_valid().to_pylist()]
            continue
        values = None
        if types.is_dictionary(chunk.type):
            values = [text_of(item) for item in chunk.dictionary.to_pylist()]
            chunk = chunk.indices
        for at in range(0, len(chunk), _SLICE):
            items = chunk.slice(at, _SLICE).to_pylist()
            if values is None:
                cells = [text_of(item) for item in items]
            else:
                cells = ["" if item is None else values[item] for item in items]
            texts += cells
            n_letters += sum(map(len, filter(None, cells)))
            if n_letters > limit:
                size = cell_bytes(len(column), n_letters * len(column) // len(texts))
                check_memory(size, source)
    return texts


def _check_length(column: Any, n_rows: int) -> None:
    if len(column) != n_rows:
        raise ValueError("its columns are of different lengths")


def _image_column(schema: Any, source: str) -> str | None:
    columns = [str(field.name) for field in schema if _is_image(field.type)]
    for name in IMAGE_NAMES:
        if matches := [column for column in columns if column.casefold() == name]:
            return matches[0]
    if len(columns) > 1:
        raise DataError(
            f"{source} has {len(columns)} columns of bytes ({', '.join(columns)}); call the one "
            'with the images "image"'
        )
    return columns[0] if columns else None


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return "bytes" in fields and _is_image(fields["bytes"])
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _class_names_of(
    cells: Sequence[str | None], names: Sequence[str], column: str, source: str
) -> list[str | None]:
    by_number = {str(index): name for index, name in enumerate(names)}
    classes: list[str | None] = []
    for row, cell in enumerate(cells):
        if cell and cell not in by_number:
            what = "is -1, which means without a label" if cell == "-1" else f"is {cell}"
            raise DataError(
                f'{source} row {row}: "{column}" {what}, but it names {len(names)} classes, '
                "counted from 0; correct the row or leave it out"
            )
        classes.append(by_number[cell] if cell else cell)
    return classes


def _in_pages(column: Any, pages: Pages) -> TableImages:
    payloads, paths = cells_of(column)

    def load(row: int) -> bytes:
        payload = payload_of(payloads[row])
        pages.count(len(payload))
        return payload

    names = [None] * len(column) if paths is None else paths.to_pylist()
    return TableImages(paths=names, inside=payloads.is_valid().to_pylist(), load=load)


def _in_groups(open_file: OpenFile, name: str, source: str, n_bytes: int) -> TableImages:
    """The images of a Parquet file, read in place, or unpacked to disk if groups are large."""
    groups = RowGroups(
        open=open_file,
        column=name,
        check=lambda unpacked: _check_plausible(unpacked, n_bytes, source),
    )
    with open_file() as file:
        _check_columns(file, [name], n_bytes, source)
    groups.scan()
    if groups.largest > MAX_GROUP_BYTES:
        pages = Pages()
        with open_file() as file:
            return _in_pages(_spool(file, name, source, n_bytes, pages), pages)
    return TableImages(paths=groups.paths, inside=groups.inside, load=groups.load)


def _check_plausible(n_unpacked: int, n_packed: int, source: str) -> None:
    """Refuse decompression bombs. Uncompressed data, which is mapped, may be of any size."""
    limit = min(MAX_TOTAL_BYTES, max(MAX_RATIO * n_packed, RATIO_FROM_BYTES))
    if n_unpacked > max(limit, n_packed):
        raise DataError(f"{source} unpacks to more than is plausible; save its images as files")


def _spool(file: Any, name: str, source: str, n_bytes: int, pages: Pages) -> Any:
    """A column of a Parquet file, unpacked batch by batch to disk and mapped into memory."""
    import pyarrow as pa

    spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
    schema = pa.schema([file.schema_arrow.field(name)])
    with pa.ipc.new_stream(spool, schema) as writer:
        n = min(rows_at_once(file, number, name) for number in range(file.num_row_groups))
        for batch in file.iter_batches(batch_size=n, columns=[name]):
            writer.write_batch(batch)
            _check_plausible(spool.tell(), n_bytes, source)
    spool.flush()
    return pa.ipc.open_stream(pa.py_buffer(pages.map(spool))).read_all().column(0)
