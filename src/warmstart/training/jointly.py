"""A checkpoint that several processes write together, each what it keeps.

By torch.distributed.checkpoint (https://docs.pytorch.org/docs/stable/distributed.checkpoint.html)
in its safetensors form, for its own form is a pickle: one file for each process, whose header says
which rows of which tensor are in it. A table of contents beside them, `index.json`, is written
last, with the digest of each file: a folder without one, or with other files, is none. Nobody
holds more than its own share while writing; any number of processes can read it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from warmstart.errors import RunFolderError
from warmstart.folder import sync_folder, write_json
from warmstart.world import exchanging, here

INDEX = "index.json"
SUFFIX = ".safetensors"
PIECE = 1 << 24  # bytes read at once


@exchanging()
def write_jointly(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write a folder whole or not at all: beside its name, forced to disk, then renamed.

    Every process has to ask, with the tensors that it keeps; a DTensor says which rows of it.
    `told` stands in the table of contents. `path` is the first process's word.
    Raises: WorldError where a process is gone; RunFolderError where what another one wrote is
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


def contents_of(path: Path) -> dict[str, Any]:
    """What the table of contents of a folder tells; nothing where there is no sound one."""
    try:
        found: dict[str, Any] = dict(json.loads((path / INDEX).read_text("utf-8")))
        is_sound = found.pop("digest", "") == _digest_of(found)
    except (OSError, ValueError, TypeError):
        return {}
    return found if is_sound else {}


class Jointly(Mapping[str, Tensor]):
    """The tensors of such a folder, each put together when it is asked for.

    Raises: OSError, SafetensorError, KeyError or ValueError where a file is missing or is not
    what it was when it was written.
    """

    def __init__(self, path: Path) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        files: Mapping[str, str] = contents_of(path)["files"]
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
