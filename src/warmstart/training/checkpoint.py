"""Checkpoints of a training, to resume it after it was stopped or killed.

A folder of safetensors files: `last`, `previous`, and one for each finished training, each with the
digest of its content. Where processes share the weights, the first two are folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from warmstart.distributed import here, process_errors
from warmstart.errors import RunFolderError
from warmstart.records.run_folder import remove, sync_folder, write_chunks, write_json

FIRST = 3.0  # seconds of work before the first checkpoint
EVERY = 10.0  # seconds between checkpoints, at least
SHARE = 0.03  # of the time, at most, for writing
FORMAT = "warmstart checkpoint 2"
SUFFIX = ".safetensors"
INDEX = "index.json"  # of a folder that several processes wrote
JOINT = "joint-*"  # such folders, numbered
LATEST = 2  # of them are kept: the last and the previous
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@process_errors()
def write_joint_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a folder whole or not at all: beside its name, flushed to disk, then renamed.

    By torch.distributed.checkpoint (docs.pytorch.org/docs/stable/distributed.checkpoint.html) in
    its safetensors form, as its own form is a pickle: one file per process, whose header says which
    rows of which tensor are in it. The index, with `metadata` and the digest of each file, is
    written last. Every process must call it, with the tensors that it keeps.
    Raises: ProcessError where a process has died; RunFolderError where the first process does not
    see the files of another one; OSError, such as a full disk.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    world = here()
    partial = path.with_name(path.name + ".partial")
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.same(None)  # wait for the folder
    try:
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save(dense, storage_writer=writer, no_dist=world.size == 1)
    except CheckpointException as error:  # holds what each process raised
        raise next(iter(error.failures.values()))[0] from error
    files = sorted(partial.glob(f"shard-{world.rank + 1:05d}-*{SUFFIX}"))
    by_process = world.gather({file.name: _file_digest(file) for file in files})
    if not world.is_first:
        return
    digests = {name: digest for files in by_process for name, digest in files.items()}
    if missing := [name for name in digests if not (partial / name).exists()]:
        raise RunFolderError(
            f"{partial / missing[0]} was written by another process and is not seen by the first; "
            "put the run folder (--out) on a disk that all processes share."
        )
    index = {**metadata, "files": digests}
    write_json(partial / INDEX, {**index, "digest": _json_digest(index)})
    partial.replace(path)
    sync_folder(path.parent)


def read_index(path: Path) -> dict[str, Any]:
    """The index of a folder; empty where it is missing or damaged."""
    try:
        index: dict[str, Any] = dict(json.loads((path / INDEX).read_text("utf-8")))
        is_sound = index.pop("digest", "") == _json_digest(index)
    except (OSError, ValueError, TypeError):
        return {}
    return index if is_sound else {}


class JointCheckpoint(Mapping[str, Tensor]):
    """The tensors of such a folder, each assembled on access.

    Raises: OSError, SafetensorError, KeyError or ValueError where a file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        files: Mapping[str, str] = read_index(path)["files"]
        for name, digest in files.items():
            if _file_digest(path / name) != digest:
                raise ValueError(f"{path / name} is damaged")
        self._path = path
        metadata = HuggingFaceStorageReader(str(path)).read_metadata()
        self._kinds: dict[str, Any] = dict(metadata.state_dict_metadata)
        self._chunks: dict[str, list[tuple[Any, Path]]] = {}
        for index, place in (metadata.storage_data or {}).items():
            self._chunks.setdefault(index.fqn, []).append((index.offset, Path(place.relative_path)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, name: str) -> Tensor:
        kind = self._kinds[name]
        whole = torch.empty(kind.size, dtype=kind.properties.dtype)
        for offsets, path in self._chunks[name]:
            with safe_open(self._path / path.name, framework="pt") as file:
                rows: Tensor = file.get_tensor(name)
            target = whole
            for side, (begin, length) in enumerate(zip(offsets, rows.shape, strict=True)):
                target = target.narrow(side, begin, length)
            target.copy_(rows)
        return whole


def _json_digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def plain(tensor: Tensor) -> Tensor:
    """The same values on the CPU, in row-major order."""
    return tensor.detach().cpu().contiguous()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _outline(tensors: Mapping[str, Tensor]) -> list[tuple[str, str, list[int]]]:
    """Name, dtype, shape; widest dtypes first, for alignment. Raises: TypeError for others."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} holds {tensor.dtype}, which cannot be saved")
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    return [(name, _DTYPES[tensors[name].dtype], list(tensors[name].shape)) for name in names]


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the content of a file: metadata, names, dtypes, shapes, values."""
    outline = _outline(tensors)
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), outline]).encode())
    for name, _, _ in outline:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def chunks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """A safetensors file, by tensor: the library copies all and hides the errno of a full disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset, outline = 0, _outline(tensors)
    for name, kind, shape in outline:
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name, _, _ in outline:
        yield _bytes(tensors[name])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a training: tensors with their exact values, and plain facts beside them."""

    tensors: Mapping[str, Tensor]
    facts: dict[str, Any]  # as JSON holds them: lists for tuples, strings as keys


class Checkpoints:
    """The checkpoints of one run, in a folder that the first write creates.

    `key` is the digest of all that the training depends on: files with another key are ignored,
    and the first write removes them.

    >>> import tempfile
    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(Path(folder) / "checkpoints", key="of plan and data")
    ...     checkpoints.save(Snapshot({"weight": torch.ones(2)}, {"step": 7}))
    ...     snapshot = checkpoints.load()
    >>> snapshot.facts, snapshot.tensors["weight"]
    ({'step': 7}, tensor([1., 1.]))
    """

    def __init__(self, path: Path, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.key, self._clock = path, key, clock
        self._since: float | None = None  # time of the last write, or of the first `is_due`
        self._wait = FIRST
        self._serial: int | None = None  # of the newest file; None before the first write
        self._damaged: set[Path] = set()

    def save(self, snapshot: Snapshot) -> None:
        """Save the latest state; the one before it stays as the previous.

        Raises: OSError, such as a full disk; TypeError for a dtype that cannot be saved.
        """
        self._prepare()
        following, last = self._file("next"), self._file("last")
        self._write(following, snapshot)
        if last.exists():
            last.replace(self._file("previous"))
        following.replace(last)
        sync_folder(self.path)

    def save_jointly(self, snapshot: Snapshot) -> None:
        """Like `save`, by all processes, each with its tensors: `write_joint_checkpoint`."""
        world = here()
        if world.is_first:
            self._prepare()
        start, serial = self._clock(), world.same((self._serial or 0) + 1)
        path = world.same(self.path / JOINT.replace("*", str(serial)))
        write_joint_checkpoint(path, snapshot.tensors, self._metadata(serial, snapshot.facts))
        self._note_write(serial, start)
        if world.is_first:
            for old in self._by_age(self.path.glob(JOINT))[LATEST:]:
                remove(old)

    def load(self) -> Snapshot | None:
        """The newest sound state since the latest finished training, or None."""
        finished = self.path.glob(f"finished-*{SUFFIX}")
        latest = max((self._serial_of(path) for path in finished), default=0)
        for path in self._by_age(self._unfinished()):
            if self._serial_of(path) > latest and (snapshot := self._read(path)) is not None:
                return snapshot
        return None

    def save_finished(self, name: str, snapshot: Snapshot) -> None:
        """Save a finished training, remove its states. Raises: ValueError for a bad name."""
        path = self._finished(name)
        self._prepare()
        self._write(path, snapshot)
        for state in self._unfinished():
            remove(state)

    def load_finished(self, name: str) -> Snapshot | None:
        """A finished training, if it was saved and is sound. Raises: ValueError likewise."""
        return self._read(self._finished(name))

    @property
    def is_due(self) -> bool:
        """Whether to save now: every ten seconds, less often if writing is slow; ask each step."""
        now = self._clock()
        if self._since is None:
            self._since = now
        return now - self._since >= self._wait

    def clear(self) -> None:
        """Remove all checkpoints once the work is done, and the folder if nothing else is in it."""
        for pattern in (f"*{SUFFIX}", f"*{SUFFIX}.partial", JOINT):
            for path in self.path.glob(pattern):
                remove(path)
        with suppress(OSError):
            self.path.rmdir()

    def _prepare(self) -> None:
        """Before a write: create the folder, remove damaged files and those with another key."""
        if self._serial is None:
            self.path.mkdir(parents=True, exist_ok=True)
            paths = (*self.path.glob(f"*{SUFFIX}"), *self.path.glob(JOINT))
            files = {path: self._serial_of(path) for path in paths}
            self._damaged |= {path for path, serial in files.items() if not serial}
            self._damaged |= set(self.path.glob(f"*{SUFFIX}.partial"))
            self._serial = max(files.values(), default=0)
        while self._damaged:
            remove(self._damaged.pop())

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        start, serial = self._clock(), (self._serial or 0) + 1
        tensors = {name: plain(tensor) for name, tensor in snapshot.tensors.items()}
        metadata = self._metadata(serial, snapshot.facts)
        write_chunks(path, chunks(tensors, {**metadata, "digest": digest(tensors, metadata)}))
        self._note_write(serial, start)

    def _metadata(self, serial: int, facts: Mapping[str, Any]) -> dict[str, str]:
        return {
            "format": FORMAT,
            "key": self.key,
            "serial": str(serial),
            "facts": json.dumps(facts, ensure_ascii=False),
        }

    def _note_write(self, serial: int, start: float) -> None:
        self._serial, self._since = serial, self._clock()
        self._wait = max(EVERY, (self._since - start) / SHARE)

    def _unfinished(self) -> list[Path]:
        files = [self._file(name) for name in ("next", "last", "previous")]
        return [*(file for file in files if file.exists()), *self.path.glob(JOINT)]

    def _by_age(self, paths: Iterable[Path]) -> list[Path]:
        return sorted(paths, key=self._serial_of, reverse=True)

    def _read(self, path: Path) -> Snapshot | None:
        """The content of a file; None where it is missing, damaged or has another key."""
        if not self._serial_of(path):
            return None
        try:
            if path.is_dir():
                return Snapshot(JointCheckpoint(path), json.loads(read_index(path)["facts"]))
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata())
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if metadata.pop("digest") == digest(tensors, metadata):
                    # Copies: the originals are mapped from the file into memory.
                    copies = {name: tensor.clone() for name, tensor in tensors.items()}
                    return Snapshot(copies, json.loads(metadata["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        self._damaged.add(path)
        return None

    def _serial_of(self, path: Path) -> int:
        """The number of the write, from 1; 0 if missing, unsound or of another key."""
        try:
            metadata: Mapping[str, Any] = read_index(path)
            if not path.is_dir():
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata() or {}
            is_ours = (metadata["format"], metadata["key"]) == (FORMAT, self.key)
            return int(metadata["serial"]) if is_ours else 0
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{SUFFIX}"

    def _finished(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a finished training; write it as fold-1")
        return self._file(f"finished-{name}")


class NoCheckpoints(Checkpoints):
    """Saves nothing: for forecasts, and where there is no run folder."""

    is_due = False

    def __init__(self) -> None:
        super().__init__(Path(os.devnull, "checkpoints"), "")  # never exists

    def save(self, snapshot: Snapshot) -> None:
        pass

    def save_jointly(self, snapshot: Snapshot) -> None:
        pass

    def save_finished(self, name: str, snapshot: Snapshot) -> None:
        pass
