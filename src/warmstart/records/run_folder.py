"""The run folder and its files: records written as JSON and read back.

Everything is written beside its final name, forced to disk, then renamed: neither a crash nor a
full disk leaves half a file.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import fcntl
import functools
import io
import json
import os
import shlex
import shutil
import tempfile
import time
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

from warmstart.errors import ProcessError, RunFolderError, TrainingError, WarmstartError
from warmstart.events import Event, Steps, tapped
from warmstart.machine import default_root

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


# ---- The log of a run: its events, seconds by stage, and the marker at its end.


Result = TypeVar("Result")
STAGES = ("read", "features", "checks", "plan", "head", "fine_tune", "evaluate", "deliver")
FULL = (errno.ENOSPC, errno.EDQUOT)
LOG = "progress.jsonl"


@dataclass
class Clock:
    """Seconds by stage; one stage runs at a time."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    before: float = 0.0  # seconds of earlier processes of the same run
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def add(self, earlier: Mapping[str, float]) -> None:
        """Add the seconds by stage of earlier processes."""
        for stage, seconds in earlier.items():
            self.seconds[stage] += seconds
            self.before += seconds

    def table(self) -> dict[str, float]:
        """Seconds by stage and in total, to the millisecond."""
        total = self.before + time.perf_counter() - self.began
        return {k: round(v, 3) for k, v in {**self.seconds, "total": total}.items()}


def seconds_alive() -> float:
    """Seconds since this process began; its processor time where the system has no /proc."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


def open_log(folder: RunFolder) -> TextIO:
    """progress.jsonl for appending, locked until it is closed or the process killed.

    Half a line, left by a kill, is cut off. Raises: RunFolderError if another process has the lock.
    """
    log = open(folder.path / LOG, "a", encoding="utf-8")  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        raise RunFolderError(
            f"another process works on {folder.path}; wait until it ends, or stop it first."
        ) from None
    except OSError:  # the disk has no locks
        pass
    content = (folder.path / LOG).read_bytes()
    log.truncate(content.rfind(b"\n") + 1)
    return log


def earlier_events(path: Path) -> list[Event]:
    """The events of a log, oldest first; other lines are skipped."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events


def seconds_worked(path: Path) -> dict[str, float]:
    """Seconds by stage in a log, without idle time.

    The first event of each process (`opening`) holds the seconds before the folder existed; those
    after its last event are unknown.
    """
    seconds = dict.fromkeys(STAGES, 0.0)
    last: float | None = None
    for event in earlier_events(path):
        if "folder" in event.values:
            for stage in STAGES:
                seconds[stage] += float(event.values.get(stage, 0.0))
        elif last is not None and event.stage in seconds:
            seconds[event.stage] += max(event.t - last, 0.0)
        last = event.t
    return seconds


def opening(folder: RunFolder, clock: Clock, text: str = "") -> Event:
    """The first event of a process: the folder, and seconds by stage so far; `text` for people."""
    seconds = {stage: round(s, 3) for stage, s in clock.seconds.items() if s}
    values: dict[str, float | int | str] = {"folder": str(folder.path), **seconds}
    if text:
        values |= {"title": "Resumed", "text": text}
    return Event(stage="read", kind="note", values=values)


def recorded(steps: Steps[Result], folder: RunFolder, log: TextIO | None = None) -> Steps[Result]:
    """Run steps, append each event to progress.jsonl, and mark how they ended.

    `log` is that of `open_log`, if already open. Checkpoints are removed at the end.
    Raises: TrainingError where disk or memory is full, or another process of the job has ended
    (INTERRUPTED: nothing is lost); errors of the steps, after marking FAILED or INTERRUPTED.
    """
    try:
        with log or open_log(folder) as file:
            result = yield from _logged(steps, file)
    except (KeyboardInterrupt, GeneratorExit):
        folder.mark("INTERRUPTED", "stopped by the user; what was computed is kept")
        raise
    except Exception as error:
        shortage = _shortage(error, folder)
        if shortage is not None:
            what, cure = shortage
            folder.mark("INTERRUPTED", what)
            raise TrainingError(
                f"{what}; what was computed is kept. {cure}, then run {folder.resume_command} to "
                "continue."
            ) from error
        folder.mark("FAILED", str(error) if isinstance(error, WarmstartError) else repr(error))
        raise
    folder.mark("DONE")
    clear_checkpoints(folder)
    return result


def clear_checkpoints(folder: RunFolder) -> None:
    """Remove the checkpoints of a finished run."""
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)


def _shortage(error: BaseException | None, folder: RunFolder) -> tuple[str, str] | None:
    """What the computer ran out of, if that caused the error, and the cure."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            places = [folder.path, default_root(), Path(tempfile.gettempdir())]
            places = [place for place in places if place.exists()]
            where = error.filename or min(places, key=lambda place: shutil.disk_usage(place).free)
            return f"the disk is full ({where})", "Make room"
        if isinstance(error, MemoryError):
            return "there is not enough memory", "Close other programs"
        if isinstance(error, ProcessError):
            return str(error), "Start the processes again"
        error = error.__cause__
    return None


def _logged(steps: Steps[Result], log: TextIO) -> Steps[Result]:
    def write(event: Event) -> None:
        log.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")
        log.flush()

    return tapped(steps, write)
