"""Keeping a training, so that it can go on from there after it was stopped or killed.

A folder of safetensors files: `last` and `previous` of the piece of work at hand, and one
file for each piece that is finished. Each is written beside its name, forced to disk and
renamed; each carries the digest of all that is in it, so that a damaged one is noticed and
the one before it taken. Where processes share the weights, folders that they write together
(`training.jointly`) stand in place of the first two.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from warmstart.folder import sync_folder, write_chunks
from warmstart.training.jointly import Jointly, contents_of, write_jointly
from warmstart.training.onefile import chunks, digest, plain
from warmstart.world import here

FIRST = 3.0  # seconds of work before the first checkpoint
EVERY = 10.0  # seconds from one to the next, at least
SHARE = 0.03  # of the time that writing may take
FORMAT = "warmstart checkpoint 2"
SUFFIX = ".safetensors"
JOINT = "joint-*"  # folders that several processes wrote, by number
LATEST = 2  # of them that are left: the last and the previous
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Saved:
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
    ...     checkpoints.save(Saved({"weight": torch.ones(2)}, {"step": 7}))
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

    def save(self, saved: Saved) -> None:
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

    def save_jointly(self, saved: Saved) -> None:
        """The same by all processes at once, each with the tensors that it keeps.

        They stand in the folder of the first process, and can be read by any number of them.
        Raises: as `write_jointly`; all that was kept before is whole then.
        """
        world = here()
        if world.is_first:
            self._begin()
        began, serial = self._clock(), world.same((self._serial or 0) + 1)
        path = world.same(self.path / JOINT.replace("*", str(serial)))
        write_jointly(path, saved.tensors, self._told(serial, saved.facts))
        self._was_written(serial, began)
        if world.is_first:
            for old in self._by_age(self.path.glob(JOINT))[LATEST:]:
                _remove(old)

    def load(self) -> Saved | None:
        """The newest sound state, or None: the last, else the previous.

        One from before the latest finished piece of work counts no more.
        """
        done = max((self._serial_of(path) for path in self.path.glob(f"kept-*{SUFFIX}")), default=0)
        for path in self._by_age(self._on_the_way()):
            if self._serial_of(path) > done and (found := self._read(path)) is not None:
                return found
        return None

    def keep(self, name: str, saved: Saved) -> None:
        """Keep a finished piece of work; the states on the way to it are removed.

        Raises: ValueError for a name that is no plain word; else as `save`.
        """
        path = self._kept(name)
        self._begin()
        self._write(path, saved)
        for left in self._on_the_way():
            _remove(left)

    def kept(self, name: str) -> Saved | None:
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
                _remove(path)
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
            _remove(self._damaged.pop())

    def _write(self, path: Path, saved: Saved) -> None:
        began, serial = self._clock(), (self._serial or 0) + 1
        tensors = {name: plain(tensor) for name, tensor in saved.tensors.items()}
        told = self._told(serial, saved.facts)
        write_chunks(path, chunks(tensors, {**told, "digest": digest(tensors, told)}))
        self._was_written(serial, began)

    def _told(self, serial: int, facts: Mapping[str, Any]) -> dict[str, str]:
        return {
            "format": FORMAT, "key": self.key, "serial": str(serial),
            "facts": json.dumps(facts, ensure_ascii=False),
        }  # fmt: skip

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

    def _read(self, path: Path) -> Saved | None:
        """What a file holds; None where there is none, it is of another key, or it is damaged."""
        if not self._serial_of(path):
            return None
        try:
            if path.is_dir():
                return Saved(Jointly(path), json.loads(contents_of(path)["facts"]))
            with safe_open(path, framework="pt") as file:
                told = dict(file.metadata())
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if told.pop("digest") == digest(tensors, told):
                    # Copies: these lie in the file itself, mapped into memory.
                    own = {name: tensor.clone() for name, tensor in tensors.items()}
                    return Saved(own, json.loads(told["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        self._damaged.add(path)
        return None

    def _serial_of(self, path: Path) -> int:
        """Which write made a file, from 1; 0 where it is missing, of another key or no file."""
        try:
            told: Mapping[str, Any] = contents_of(path)
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

    def save(self, saved: Saved) -> None:
        """Nothing is written."""

    def save_jointly(self, saved: Saved) -> None:
        """Nothing is written."""

    def load(self) -> Saved | None:
        """Nothing was kept."""
        return None

    def keep(self, name: str, saved: Saved) -> None:
        """Nothing is written."""

    def kept(self, name: str) -> Saved | None:
        """Nothing was kept."""
        return None

    @property
    def is_due(self) -> bool:
        """Never."""
        return False

    def clear(self) -> None:
        """There is nothing to remove."""


def _remove(path: Path) -> None:
    """A file, a folder, or another process's view of one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
