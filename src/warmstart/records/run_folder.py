"""The run folder and its files: records written as JSON and read back.

Everything is written beside its final name, forced to disk, then renamed: neither a crash nor a
full disk leaves half a file.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import os
import shlex
import shutil
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from warmstart.errors import RunFolderError

R = TypeVar("R")
MARKERS = ("DONE", "FAILED", "INTERRUPTED")
RECORDS = (
    "plan.toml",
    "network.json",
    "data.json",
    "inspection.json",
    "weights_ledger.json",
    "predictions.jsonl",
    "progress.jsonl",
    "summary.json",
    "README.md",
    "env.json",
    "clean.csv",
    "label_issues.csv",
    "off_topic.csv",
    "request.json",
    "report.html",
)
FOLDERS = ("model", "checkpoints", "track")
PIECES = 2048  # of text that are written at once
ABSENT = {"absent": True}  # metadata of a field that is left out where it has its default
_SCALARS = (float, int, str, bool)
_hints = functools.cache(typing.get_type_hints)  # slower than all the rest of reading a record


def to_plain(value: Any) -> Any:
    """Turn a record into dicts, lists and scalars; defaults of `ABSENT` fields are left out.

    >>> from warmstart.records.network import FeatureLayer
    >>> to_plain(FeatureLayer(block=3, pool="avg"))
    {'block': 3, 'pool': 'avg', 'of': ''}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(item) for name, item in fields_of(value).items()}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a record that its file holds. Raises: TypeError for what is no record."""
    pairs = ((field, getattr(record, field.name)) for field in dataclasses.fields(record))
    return {
        field.name: item
        for field, item in pairs
        if item != field.default or not field.metadata.get("absent")
    }


def from_plain(kind: type[R], value: Any) -> R:
    """Build a record of type `kind` from the result of `to_plain`; unknown keys are ignored.

    Raises: KeyError for a missing key, TypeError or ValueError for a value of another type.

    >>> from warmstart.records.network import FeatureLayer
    >>> from_plain(FeatureLayer, {"block": 3, "pool": "avg"})
    FeatureLayer(block=3, pool='avg', of='')
    """
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        fields = [f for f in dataclasses.fields(kind) if f.name in value or _is_required(f)]
        return kind(**{f.name: from_plain(hints[f.name], value[f.name]) for f in fields})
    if members := getattr(kind, "members", None):  # a base class of records
        return _from_union(tuple(members.values()), value)  # type: ignore[no-any-return]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _from_union(inner, value)  # type: ignore[no-any-return]
    if origin is tuple:
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_plain(k, v) for k, v in zip(each, value, strict=True))  # type: ignore[return-value]
    if origin is dict:
        return {k: from_plain(inner[1], v) for k, v in value.items()}  # type: ignore[return-value]
    if origin is typing.Literal and value not in inner:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, inner))}")
    if kind is float and type(value) is int:
        return float(value)  # type: ignore[return-value]
    if kind in _SCALARS and type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value  # type: ignore[no-any-return]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _lacks(kind: Any, value: Any) -> bool:
    """Whether a value lacks a field of this record, so that it may be one of another kind."""
    if not (dataclasses.is_dataclass(kind) and isinstance(value, dict)):
        return False
    return any(f.name not in value for f in dataclasses.fields(kind) if _is_required(f))


def _from_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        return None
    wants_tuple = isinstance(value, list)
    for kind in kinds:
        is_plain = kind in _SCALARS
        if is_plain and not wants_tuple and type(value) is kind:
            return value
        if not is_plain and kind is not type(None):
            is_tuple = typing.get_origin(kind) is tuple
            if is_tuple == wants_tuple and not _lacks(kind, value):
                return from_plain(kind, value)
    if float in kinds and type(value) is int:
        return float(value)
    raise TypeError(f"{value!r} is none of {', '.join(getattr(k, '__name__', '?') for k in kinds)}")


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all: beside, fsync, rename."""
    write_chunks(path, (payload,))


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """`write_bytes` in pieces, which are never in memory together."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to disk, where the system can open folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a record, or anything that `to_plain` accepts, as indented UTF-8 JSON, in pieces."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False, default=fields_of)
    write_chunks(path, _encoded(chain(encoder.iterencode(value), ("\n",))))


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one compact JSON document a line."""
    lines = (json.dumps(to_plain(v), ensure_ascii=False, allow_nan=False) for v in values)
    write_chunks(path, _encoded(line + "\n" for line in lines))


def _encoded(pieces: Iterable[str]) -> Iterator[bytes]:
    pieces = iter(pieces)
    while some := [*islice(pieces, PIECES)]:
        yield "".join(some).encode()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table (RFC 4180, UTF-8) whole or not at all."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_json(path: Path, kind: type[R]) -> R:
    """Read a record back.

    Raises: RunFolderError if the file is missing, is not JSON, or lacks a key.
    """
    try:
        return from_plain(kind, json.loads(path.read_text("utf-8"), parse_constant=_no_number))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"{path.parent} has no {path.name}; {_why_not(path.parent)}") from None
    except RecursionError as error:
        raise RunFolderError(_unreadable(path, "it is nested too deep")) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunFolderError(_unreadable(path, str(error))) from error


def _unreadable(path: Path, why: str) -> str:
    return f"{path} cannot be read ({why[:200]}); restore it, or make the run again."


def _no_number(text: str) -> float:
    """Raises: ValueError: no file of ours holds NaN or infinity."""
    raise ValueError(f"it holds {text}")


def _why_not(run: Path) -> str:
    if (folder := RunFolder(run)).is_unfinished:
        return f"its run has not finished. To continue: {folder.resume_command}."
    return "it is not a finished run folder. Name a folder that `warmstart fit` wrote."


class RunFolder:
    """The files of one run; a folder with other files is never touched."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises: RunFolderError if the folder holds anything but a failed run."""
        try:
            is_free = not path.exists() or (path.is_dir() and _is_free(path))
            is_waiting = not is_free and RunFolder(path).is_resumable
        except OSError as error:
            raise _unwritable(path, error) from error
        if is_waiting:
            raise RunFolderError(
                f"{path} holds an unfinished run; nothing was changed. "
                f"Run {RunFolder(path).resume_command} to continue it, or choose another --out."
            )
        if not is_free:
            raise RunFolderError(
                f"{path} exists and is not empty; nothing was changed. "
                "Choose another --out, or leave out --out."
            )

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new run folder; the files of a failed run there are removed.

        Raises: RunFolderError if it exists and is not empty, or cannot be written.
        """
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for entry in path.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _unwritable(path, error) from error
        return cls(path)

    @classmethod
    def create_beside(cls, root: Path, name: str) -> RunFolder:
        """Make root/name, or the first free one of root/name-2, root/name-3, …"""
        path, n = root / name, 1
        while path.exists() and (not path.is_dir() or any(path.iterdir())):
            n += 1
            path = root / f"{name}-{n}"
        return cls.create(path)

    def mark(self, marker: str, text: str = "") -> None:
        """Leave exactly one of DONE, FAILED, INTERRUPTED."""
        for other in MARKERS:
            if other != marker:
                (self.path / other).unlink(missing_ok=True)
        try:
            write_bytes(self.path / marker, (text + "\n").encode() if text else b"")
        except OSError:
            # A full disk mostly still takes an empty file, whose name says what matters.
            with suppress(OSError):
                (self.path / marker).touch()

    def unmark(self) -> None:
        """Remove the markers: the run is working."""
        for marker in MARKERS:
            (self.path / marker).unlink(missing_ok=True)

    @property
    def is_resumable(self) -> bool:
        """Whether its run has begun and neither ended nor failed."""
        is_over = any((self.path / marker).exists() for marker in ("DONE", "FAILED"))
        return (self.path / "request.json").is_file() and not is_over

    @property
    def is_unfinished(self) -> bool:
        """Whether its run has begun and is not done, whatever its marker."""
        ends = ("FAILED", "INTERRUPTED")
        return self.is_resumable or any((self.path / end).exists() for end in ends)

    @property
    def resume_command(self) -> str:
        """The command that continues an unfinished run."""
        if self.is_resumable:
            return f"`warmstart resume {shlex.quote(str(self.path))}`"
        return "the same command again"

    def point_latest(self) -> None:
        """Link runs/latest here, unless that is no link or the disk has no links."""
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return
        partial = link.with_name(".latest.partial")
        with suppress(OSError):
            partial.unlink(missing_ok=True)
            partial.symlink_to(self.path.name)
            partial.replace(link)


def _is_free(path: Path) -> bool:
    """Whether the folder is empty, or holds nothing but a run that cannot be resumed."""
    names = {entry.name.removesuffix(".partial") for entry in path.iterdir()}
    if RunFolder(path).is_resumable:
        return False
    if names == {"progress.jsonl", "request.json"}:  # the latter was still being written
        return True
    is_over = not names.isdisjoint({"FAILED", "INTERRUPTED"})
    return not names or (is_over and names <= {*RECORDS, *MARKERS, *FOLDERS} - {"DONE"})


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be written ({error.strerror}); choose another folder with --out."
    )


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
