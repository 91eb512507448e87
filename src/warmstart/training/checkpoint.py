"""Keeping a training, so that it can go on from there after it was stopped or killed.

A folder of safetensors files: `last` and `previous` of the piece of work at hand, and one
file for each piece that is finished. Each is written beside its name, forced to disk and
renamed; each carries the digest of all that is in it, so that a damaged one is noticed and
the one before it taken. Where processes share the weights, folders that they write together
(`training.checkpoint`) stand in place of the first two.
"""

from __future__ import annotations

import hashlib
import json
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

from warmstart.distributed import exchanging, here
from warmstart.errors import RunFolderError
from warmstart.records.run_folder import remove, sync_folder, write_chunks, write_json

# ---- A checkpoint that several processes write together, each what it keeps.
#
# By torch.distributed.checkpoint (https://docs.pytorch.org/docs/stable/distributed.checkpoint.html)
# in its safetensors form, for its own form is a pickle: one file for each process, whose header
# says which rows of which tensor are in it. A table of contents beside them, `index.json`, is
# written
# last, with the digest of each file: a folder without one, or with other files, is none. Nobody
# holds more than its own share while writing; any number of processes can read it.


INDEX = "index.json"
PIECE = 1 << 24  # bytes read at once


@exchanging()
def write_joint_checkpoint(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write a folder whole or not at all: beside its name, forced to disk, then renamed.

    Every process has to ask, with the tensors that it keeps; a DTensor says which rows of it.
    `told` stands in the table of contents. `path` is the first process's word.
    Raises: ProcessError where a process is gone; RunFolderError where what another one wrote is
    not seen by the first; OSError, a full disk among them, which the others meet as a process
    that is gone.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    world = here()
    partial = path.with_name(path.name + ".partial")
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.same(None)  # the folder is there now
    try:
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save(dense, storage_writer=writer, no_dist=world.size == 1)
    except CheckpointException as error:  # holds what each process raised
        raise next(iter(error.failures.values()))[0] from error
    own = sorted(partial.glob(f"shard-{world.rank + 1:05d}-*{SUFFIX}"))
    files = world.gathered({file.name: _digest(file) for file in own})
    if not world.is_first:
        return
    found = {name: digest for one in files for name, digest in one.items()}
    if missing := [name for name in found if not (partial / name).exists()]:
        raise RunFolderError(
            f"{partial / missing[0]} was written by another process and is not seen by the first; "
            "put the run folder (--out) on a disk that all processes share."
        )
    table = {**told, "files": found}
    write_json(partial / INDEX, {**table, "digest": _digest_of(table)})
    partial.replace(path)
    sync_folder(path.parent)


def read_index(path: Path) -> dict[str, Any]:
    """What the table of contents of a folder tells; nothing where there is no sound one."""
    try:
        found: dict[str, Any] = dict(json.loads((path / INDEX).read_text("utf-8")))
        is_sound = found.pop("digest", "") == _digest_of(found)
    except (OSError, ValueError, TypeError):
        return {}
    return found if is_sound else {}


class JointCheckpoint(Mapping[str, Tensor]):
    """The tensors of such a folder, each put together when it is asked for.

    Raises: OSError, SafetensorError, KeyError or ValueError where a file is missing or is not
    what it was when it was written.
    """

    def __init__(self, path: Path) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        files: Mapping[str, str] = read_index(path)["files"]
        for name, digest in files.items():
            if _digest(path / name) != digest:
                raise ValueError(f"{path / name} is damaged")
        self._path = path
        read = HuggingFaceStorageReader(str(path)).read_metadata()
        self._kinds: dict[str, Any] = dict(read.state_dict_metadata)
        self._places: dict[str, list[tuple[Any, Path]]] = {}
        for index, place in (read.storage_data or {}).items():
            self._places.setdefault(index.fqn, []).append((index.offset, Path(place.relative_path)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, name: str) -> Tensor:
        kind = self._kinds[name]
        whole = torch.empty(kind.size, dtype=kind.properties.dtype)
        for offsets, file in self._places[name]:
            with safe_open(self._path / file.name, framework="pt") as opened:
                rows: Tensor = opened.get_tensor(name)
            target = whole
            for side, (begin, length) in enumerate(zip(offsets, rows.shape, strict=True)):
                target = target.narrow(side, begin, length)
            target.copy_(rows)
        return whole


def _digest_of(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


# ---- Tensors in one safetensors file, written piece by piece, and the digest of all it tells.


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
    """The same values on the processor, in row-major order."""
    return tensor.detach().cpu().contiguous()


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's own bytes, seen as such."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _outline(tensors: Mapping[str, Tensor]) -> list[tuple[str, str, list[int]]]:
    """Name, kind and shape of each tensor; the widest numbers first, so that all lie aligned.

    Raises: TypeError for a kind of numbers that is not kept.
    """
    strange = [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if strange:
        raise TypeError(f"{strange[0]} holds {tensors[strange[0]].dtype}, which is not kept")
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    return [(name, _DTYPES[tensors[name].dtype], list(tensors[name].shape)) for name in names]


def digest(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    """SHA-256 over all that a file tells: what it says of itself, names, shapes, numbers."""
    outline = _outline(tensors)
    digest = hashlib.sha256(json.dumps([sorted(told.items()), outline]).encode())
    for name, _, _ in outline:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def chunks(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file, tensor by tensor.

    The library's own writer copies all of them into memory first, and hides the number of an
    error of the system, by which a full disk is told from others.
    """
    header: dict[str, Any] = {"__metadata__": dict(told)}
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


FIRST = 3.0  # seconds of work before the first checkpoint
EVERY = 10.0  # seconds from one to the next, at least
SHARE = 0.03  # of the time that writing may take
FORMAT = "warmstart checkpoint 2"
SUFFIX = ".safetensors"
JOINT = "joint-*"  # folders that several processes wrote, by number
LATEST = 2  # of them that are left: the last and the previous
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of some work: tensors with their exact values, and plain facts beside them."""

    tensors: Mapping[str, Tensor]
    facts: dict[str, Any]  # as JSON holds them: lists for tuples, texts as keys


class Checkpoints:
    """The checkpoints of one run, in a folder that the first write makes.

    `key` is the digest of all that the training depends on: files written under another key
    are not seen, and the first write removes them.

    >>> import tempfile
    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(Path(folder) / "checkpoints", key="of plan and data")
    ...     checkpoints.save(Snapshot({"weight": torch.ones(2)}, {"step": 7}))
    ...     found = checkpoints.load()
    >>> found.facts, found.tensors["weight"]
    ({'step': 7}, tensor([1., 1.]))
    """

    def __init__(self, path: Path, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.key = path, key
        self._clock = clock
        self._since: float | None = None  # when there first was something to save, or it was saved
        self._wait = FIRST
        self._serial: int | None = None  # of the newest file; None before the first write
        self._damaged: set[Path] = set()

    def save(self, saved: Snapshot) -> None:
        """Keep this as the last state; the one before it stays as the previous.

        Raises: OSError, a full disk among them; all that was kept before is whole then.
        TypeError for a tensor of a kind that is not kept (complex numbers).
        """
        self._begin()
        following, last = self._file("next"), self._file("last")
        self._write(following, saved)
        if last.exists():
            last.replace(self._file("previous"))
        following.replace(last)
        sync_folder(self.path)

    def save_jointly(self, saved: Snapshot) -> None:
        """The same by all processes at once, each with the tensors that it keeps.

        They stand in the folder of the first process, and can be read by any number of them.
        Raises: as `write_joint_checkpoint`; all that was kept before is whole then.
        """
        world = here()
        if world.is_first:
            self._begin()
        began, serial = self._clock(), world.same((self._serial or 0) + 1)
        path = world.same(self.path / JOINT.replace("*", str(serial)))
        write_joint_checkpoint(path, saved.tensors, self._told(serial, saved.facts))
        self._was_written(serial, began)
        if world.is_first:
            for old in self._by_age(self.path.glob(JOINT))[LATEST:]:
                remove(old)

    def load(self) -> Snapshot | None:
        """The newest sound state, or None: the last, else the previous.

        One from before the latest finished piece of work counts no more.
        """
        done = max((self._serial_of(path) for path in self.path.glob(f"kept-*{SUFFIX}")), default=0)
        for path in self._by_age(self._on_the_way()):
            if self._serial_of(path) > done and (found := self._read(path)) is not None:
                return found
        return None

    def keep(self, name: str, saved: Snapshot) -> None:
        """Keep a finished piece of work; the states on the way to it are removed.

        Raises: ValueError for a name that is no plain word; else as `save`.
        """
        path = self._kept(name)
        self._begin()
        self._write(path, saved)
        for left in self._on_the_way():
            remove(left)

    def kept(self, name: str) -> Snapshot | None:
        """A finished piece of work, if it was kept and is sound.

        Raises: ValueError for a name that is no plain word.
        """
        return self._read(self._kept(name))

    @property
    def is_due(self) -> bool:
        """Whether to save now.

        The first time after some seconds of work; then every ten seconds, or so much less
        often as writing takes long. Ask after each step: the first question starts the clock.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
        return now - self._since >= self._wait

    def clear(self) -> None:
        """Remove all checkpoints, and the folder if it holds nothing else: the work is done."""
        for pattern in (f"*{SUFFIX}", f"*{SUFFIX}.partial", JOINT):
            for path in self.path.glob(pattern):
                remove(path)
        with suppress(OSError):
            self.path.rmdir()

    def _begin(self) -> None:
        """Before a write: a folder that holds sound files of this key alone."""
        if self._serial is None:
            self.path.mkdir(parents=True, exist_ok=True)
            found = (*self.path.glob(f"*{SUFFIX}"), *self.path.glob(JOINT))
            files = {path: self._serial_of(path) for path in found}
            self._damaged |= {path for path, serial in files.items() if not serial}
            self._damaged |= set(self.path.glob(f"*{SUFFIX}.partial"))
            self._serial = max(files.values(), default=0)
        while self._damaged:
            remove(self._damaged.pop())

    def _write(self, path: Path, saved: Snapshot) -> None:
        began, serial = self._clock(), (self._serial or 0) + 1
        tensors = {name: plain(tensor) for name, tensor in saved.tensors.items()}
        told = self._told(serial, saved.facts)
        write_chunks(path, chunks(tensors, {**told, "digest": digest(tensors, told)}))
        self._was_written(serial, began)

    def _told(self, serial: int, facts: Mapping[str, Any]) -> dict[str, str]:
        return {
            "format": FORMAT,
            "key": self.key,
            "serial": str(serial),
            "facts": json.dumps(facts, ensure_ascii=False),
        }

    def _was_written(self, serial: int, began: float) -> None:
        self._serial, self._since = serial, self._clock()
        self._wait = max(EVERY, (self._since - began) / SHARE)

    def _on_the_way(self) -> list[Path]:
        """States of the piece of work at hand, sound or not."""
        own = [path for name in ("next", "last", "previous") if (path := self._file(name)).exists()]
        return [*own, *self.path.glob(JOINT)]

    def _by_age(self, paths: Iterable[Path]) -> list[Path]:
        """The newest first."""
        return sorted(paths, key=self._serial_of, reverse=True)

    def _read(self, path: Path) -> Snapshot | None:
        """What a file holds; None where there is none, it is of another key, or it is damaged."""
        if not self._serial_of(path):
            return None
        try:
            if path.is_dir():
                return Snapshot(JointCheckpoint(path), json.loads(read_index(path)["facts"]))
            with safe_open(path, framework="pt") as file:
                told = dict(file.metadata())
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if told.pop("digest") == digest(tensors, told):
                    # Copies: these lie in the file itself, mapped into memory.
                    own = {name: tensor.clone() for name, tensor in tensors.items()}
                    return Snapshot(own, json.loads(told["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        self._damaged.add(path)
        return None

    def _serial_of(self, path: Path) -> int:
        """Which write made a file, from 1; 0 where it is missing, of another key or no file."""
        try:
            told: Mapping[str, Any] = read_index(path)
            if not path.is_dir():
                with safe_open(path, framework="pt") as file:
                    told = file.metadata() or {}
            return int(told["serial"]) if (told["format"], told["key"]) == (FORMAT, self.key) else 0
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{SUFFIX}"

    def _kept(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a piece of work; write it as fold-1")
        return self._file(f"kept-{name}")


class NoCheckpoints(Checkpoints):
    """Keeps nothing and asks for nothing: for forecasts, and where there is no run folder."""

    def __init__(self) -> None:
        super().__init__(Path(), "")

    def save(self, saved: Snapshot) -> None:
        """Nothing is written."""

    def save_jointly(self, saved: Snapshot) -> None:
        """Nothing is written."""

    def load(self) -> Snapshot | None:
        """Nothing was kept."""
        return None

    def keep(self, name: str, saved: Snapshot) -> None:
        """Nothing is written."""

    def kept(self, name: str) -> Snapshot | None:
        """Nothing was kept."""
        return None

    @property
    def is_due(self) -> bool:
        """Never."""
        return False

    def clear(self) -> None:
        """There is nothing to remove."""
