"""Parquet files and Arrow streams as tables, by way of pyarrow, which is optional.

Nothing here runs code that a file brings along: columns of plain kinds become texts, columns
of bytes become images, all others are passed over.
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
from warmstart.data.place import MAX_FILE_BYTES, special
from warmstart.errors import DataError, install_command
from warmstart.machine import check_room, reading_limit, size_of_cells

# ---- Files mapped into memory whose pages do not stay there.
#
# What has been read through a map counts as memory of the process, though the system could
# take it back at any time: a data set of 1 GB would make a run look 1 GB larger.


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


# ---- Images in a Parquet file, of which a few row groups are in memory at a time.
#
# A file of any size is read where it lies: nothing is unpacked beside it. What is read in order
# finds its group in memory nearly always; a single image somewhere costs its group.


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
    _models: list[int] = field(default_factory=list)
    _kept: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def scan(self) -> None:
        """Go through the column once: what each row says of its file, how large groups are."""
        unpacked = 0
        with self.opened() as file:
            for number in range(file.num_row_groups):
                self._models.append(len(self.inside))
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
        number = bisect_right(self._models, row) - 1
        with self._lock:
            try:
                cell = self._group(number)[row - self._models[number]]
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


# A column of images is called one of these, or is the only one of its kind.
IMAGE_NAMES = ("image", "img", "picture", "photo", "image_bytes", "bytes", "jpg", "png")
MAX_TOTAL_BYTES = 20 * 10**9
MAX_RATIO, RATIO_FROM_BYTES = 200, 64 * 2**20  # beyond, it is a bomb: see archive.py
_SLICE = 256  # rows of a column that become texts of Python at a time
Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """What either format gives: columns by name, and images that are cheap to get one by one."""

    schema: Any
    n_rows: int
    column: Callable[[str], Any]
    images: Callable[[str], TableImages]
    names: Names


def parse_parquet(data: str | os.PathLike[str] | bytes, source: str) -> Table:
    """A Parquet file by its path or its bytes; its images are read a row group at a time.

    Where a group is large, all are unpacked into a nameless file first.
    Raises: DataError if pyarrow is missing, the file is damaged, or it has no rows.
    """
    load_pyarrow(source)
    with _readable(source, "Parquet"):
        if not isinstance(data, bytes) and (why := special(os.stat(data).st_mode)):
            raise DataError(f"{source} is {why}, which is not opened; name a file")
        n_bytes = len(data) if isinstance(data, bytes) else os.path.getsize(data)
        with _opened(data) as file:
            schema, metadata = file.schema_arrow, file.metadata
        again = partial(_opened, data, metadata)
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = class_names(notes.get("info", {}).get("features", {}))

        def column(name: str) -> Any:
            """Texts come as a dictionary: a few values that stand in many rows stay few."""
            with again() as file:
                _check_columns(file, [name], n_bytes, source)
            with again(texts=[name] if _is_text(schema.field(name).type) else None) as file:
                return file.read(columns=[name]).column(0)

        contents = _Contents(
            schema=schema,
            n_rows=metadata.num_rows,
            column=column,
            images=lambda name: _in_groups(again, name, source, n_bytes),
            names=names,
        )
        return _table(contents, source, "Parquet")


@contextmanager
def _opened(
    data: str | os.PathLike[str] | bytes, metadata: Any = None, texts: list[str] | None = None
) -> Iterator[Any]:
    """A Parquet file for as long as it is read from: of a thousand pieces none stays open.

    `texts` names columns that come as dictionaries.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    held = pa.BufferReader(data) if isinstance(data, bytes) else pa.OSFile(str(data))
    with held:
        yield parquet.ParquetFile(held, metadata=metadata, read_dictionary=texts)


def _check_columns(file: Any, names: Sequence[str], n_packed: int, source: str) -> None:
    """Refuse columns whose pages would not fit, by what the file says of them."""
    n_bytes = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.split(".")[0] in names:
                n_bytes += chunk.total_uncompressed_size
    _check_plausible(n_bytes, n_packed, source)
    check_room(n_bytes, source)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def parse_streams(streams: Sequence[str | bytes], names: Names, source: str) -> Table:
    """Arrow IPC streams by path (mapped into memory, not read) or as bytes, one after the other.

    Raises: DataError if pyarrow is missing, a stream is damaged, or they have no rows.
    """
    pa, pages = load_pyarrow(source), Pages()
    batches: list[Any] = []
    with _readable(source, "Arrow stream"):
        for stream in streams:
            handle = pa.BufferReader(pa.py_buffer(_mapped(stream, pages)))
            n_bytes = 0
            for batch in pa.ipc.open_stream(handle):
                batch.validate(full=True)  # offsets that point outside would crash later
                batches.append(batch.replace_schema_metadata(None))
                n_bytes += batch.nbytes
                _check_plausible(n_bytes, handle.size(), source)
        table = pa.Table.from_batches(batches, None if batches else pa.schema([]))
        contents = _Contents(
            schema=table.schema,
            n_rows=table.num_rows,
            column=table.column,
            images=lambda name: _stored(table.column(name), pages),
            names=names,
        )
        return _table(contents, source, "Arrow stream")


def _mapped(data: str | bytes, pages: Pages) -> Any:
    if isinstance(data, bytes):
        return data
    with open(data, "rb") as file:
        return pages.map(file)


def load_pyarrow(source: str) -> Any:
    """The pyarrow package, with its ipc and parquet parts.

    Raises: DataError saying what to install.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{source} is read with pyarrow, which is not installed; run `{install_command('data')}`"
        ) from None
    return pyarrow


def class_names(features: Any) -> dict[str, tuple[str, ...]]:
    """The class names of each column that is a ClassLabel among Hugging Face features.

    Raises: ValueError if that is not what `datasets` writes.

    >>> class_names({"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "image": {}})
    {'label': ('cat', 'dog')}
    """
    if not isinstance(features, dict):
        raise ValueError("its features are no mapping")
    found = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ValueError(f'the class names of "{column}" are missing')
            found[column] = tuple(names)
    return found


@contextmanager
def _readable(source: str, kind: str) -> Any:
    """Turn what pyarrow and json raise on damaged bytes into one line of ours."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pyarrow lets a dozen types through on damaged bytes
        reason = str(error).split("\n")[0].rstrip(". ") or type(error).__name__
        raise DataError(f"{source} cannot be read as {kind} ({reason}); copy it again") from error


def _table(contents: _Contents, source: str, kind: str) -> Table:
    if not contents.n_rows:
        raise DataError(f"{source} has no rows; save the data set again with all of them")
    check_room(size_of_cells(contents.n_rows), source)
    image = _image_column(contents.schema, source)

    def texts(name: str) -> list[str | None]:
        with _readable(source, kind):
            cells = _cells(_whole(contents, contents.column(name)), source)
        names = contents.names.get(name)
        return cells if names is None else _named(cells, names, name, source)

    def pictures() -> TableImages:
        with _readable(source, kind):
            stored = contents.images(str(image))
            _whole(contents, stored.inside)
            return stored

    return Table(
        columns=tuple(contents.schema.names),
        lines=range(contents.n_rows),
        texts=texts,
        unit="row",
        pictures=Pictures(image, pictures) if image else None,
    )


def _cells(column: Any, source: str) -> list[str | None]:
    """A column as texts; equal values of a dictionary are one text.

    Raises: DataError where they would not fit into memory as texts of their own.
    """
    import pyarrow.types as types

    found: list[str | None] = []
    n_letters, limit = 0, reading_limit()
    for chunk in column.chunks:
        if types.is_nested(chunk.type):  # no texts, and of any size: only told from missing ones
            found += [None if valid else "" for valid in chunk.is_valid().to_pylist()]
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
            found += cells
            n_letters += sum(map(len, filter(None, cells)))
            if n_letters > limit:
                check_room(
                    size_of_cells(len(column), n_letters * len(column) // len(found)), source
                )
    return found


def _whole(contents: _Contents, column: Any) -> Any:
    if len(column) != contents.n_rows:
        raise ValueError("its columns are of different lengths")
    return column


def _image_column(schema: Any, source: str) -> str | None:
    """The column that holds encoded images, if there is one."""
    found = [str(field.name) for field in schema if _is_image(field.type)]
    for name in IMAGE_NAMES:
        near = [column for column in found if column.casefold() == name]
        if near:
            return near[0]
    if len(found) > 1:
        raise DataError(
            f"{source} has {len(found)} columns of bytes ({', '.join(found)}); call the one with "
            'the images "image"'
        )
    return found[0] if found else None


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        parts = {field.name: field.type for field in kind}
        return "bytes" in parts and _is_image(parts["bytes"])
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _named(
    cells: Sequence[str | None], names: Sequence[str], column: str, source: str
) -> list[str | None]:
    """Class numbers as class names."""
    known = {str(index): name for index, name in enumerate(names)}
    named: list[str | None] = []
    for row, cell in enumerate(cells):
        if cell and cell not in known:
            what = "is -1, which means without a label" if cell == "-1" else f"is {cell}"
            raise DataError(
                f'{source} row {row}: "{column}" {what}, but it names {len(names)} classes, '
                "counted from 0; correct the row or leave it out"
            )
        named.append(known[cell] if cell else cell)
    return named


def _stored(column: Any, pages: Pages) -> TableImages:
    """The images of a column of bytes, or of structs {bytes, path}, as they lie in `pages`."""
    payloads, paths = cells_of(column)

    def load(row: int) -> bytes:
        payload = payload_of(payloads[row])
        pages.have_read(len(payload))
        return payload

    named = [None] * len(column) if paths is None else paths.to_pylist()
    return TableImages(paths=named, inside=payloads.is_valid().to_pylist(), load=load)


def _in_groups(opened: Opened, name: str, source: str, n_bytes: int) -> TableImages:
    """The images of a Parquet file where they lie; unpacked to disk where groups are large."""
    groups = RowGroups(
        opened=opened,
        column=name,
        check=lambda unpacked: _check_plausible(unpacked, n_bytes, source),
    )
    with opened() as file:
        _check_columns(file, [name], n_bytes, source)
    groups.scan()
    if groups.largest > MOST_BYTES:
        pages = Pages()
        with opened() as file:
            return _stored(_spool(file, name, source, n_bytes, pages), pages)
    return TableImages(paths=groups.paths, inside=groups.inside, load=groups.load)


def _check_plausible(n_unpacked: int, n_packed: int, source: str) -> None:
    """Refuse bombs. What is not compressed, and so mapped into memory, may be of any size."""
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
