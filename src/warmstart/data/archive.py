"""Zip and tar files, read in place: no member is ever written to disk under its name.

A tar.gz has no index, so it is unpacked once, as one stream, into a nameless temporary file.
"""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from warmstart.data.dataset import Load, unreadable
from warmstart.data.place import (
    MAX_FILE_BYTES,
    READ_SUFFIXES,
    TABLE_SUFFIXES,
    Place,
    escaped,
    is_hidden,
    parents,
    suffix,
)
from warmstart.errors import DataError
from warmstart.nouns import count

# A header may claim any length, and `tarfile` allocates as much memory.
TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, MemoryError, OverflowError)
LINK = "is a link: pack the file itself"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_TOTAL_BYTES = 20 * 10**9
# Photographs hardly shrink, drawings stored as BMP shrink 50-fold; 200-fold is a bomb.
MAX_RATIO, RATIO_FROM_BYTES = 200, 64 * 2**20
_CHUNK = 2**20
Info = TypeVar("Info", zipfile.ZipInfo, tarfile.TarInfo)


def open_zip(path: Path, source: str) -> Place:
    """List a zip file; members are read on demand.

    Raises: DataError if it is damaged, has a password, or a member is unsafe.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{source} cannot be opened as zip ({error}); copy it again") from error
    members: dict[str, zipfile.ZipInfo] = {}
    folders, reasons = set(), dict[str, str]()
    for info in archive.infolist():
        name = checked_member(info.filename, source)
        if stat.S_ISLNK(info.external_attr >> 16):
            reasons[name] = LINK
            continue
        if info.flag_bits & 1:
            raise DataError(f"{source} has a password; unpack it and name the folder")
        if info.is_dir():
            folders.add(name)
        elif not is_hidden(name):
            _add(members, name, info, source, reasons)
    sizes = {name: info.file_size for name, info in members.items()}
    check_sizes(sizes, path.stat().st_size, source)

    def load(name: str) -> bytes:
        try:
            return archive.read(members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(f"is damaged in the zip ({error})") from error
        except (NotImplementedError, RuntimeError) as error:
            raise DataError(f"cannot be unpacked ({error})") from error

    return descend(_place(path, source, members, folders, load, reasons))


def open_tar(path: Path, source: str) -> Place:
    """List a .tar, .tar.gz or .tgz file; members are read on demand.

    Raises: DataError if it is damaged, or a member is unsafe.
    """
    members: dict[str, tarfile.TarInfo] = {}
    folders, reasons = set(), dict[str, str]()
    try:
        file = _plain(path, source)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                name = checked_member(info.name, source)
                if info.isdir():
                    folders.add(name)
                elif why := why_not_read(info):
                    reasons[name] = why
                elif not is_hidden(name):
                    _add(members, name, info, source, reasons)
    except (*TAR_ERRORS, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        why = why_damaged(error)
        raise DataError(f"{source} cannot be opened as tar ({why}); copy it again") from error
    check_sizes({name: info.size for name, info in members.items()}, path.stat().st_size, source)
    lock = threading.Lock()  # another thread must not seek between seek and read

    def load(name: str) -> bytes:
        info = members[name]
        with lock:
            file.seek(info.offset_data)
            payload = file.read(info.size)
        if len(payload) != info.size:
            raise DataError("is cut off in the tar")
        return payload

    return descend(_place(path, source, members, folders, load, reasons))


def why_damaged(error: BaseException) -> str:
    """What is wrong with an archive, in a few words."""
    return "a header claims more than there is" if isinstance(error, MemoryError) else str(error)


def why_not_read(info: tarfile.TarInfo) -> str:
    """Why a member of a tar, not a folder, cannot be read in place; "" if it can."""
    if info.issym() or info.islnk():
        return LINK
    if info.issparse():
        return "is stored with holes: pack it again without --sparse"
    return "" if info.isreg() else "is a pipe or a device, which is not opened"


def checked_member(name: str, source: str) -> str:
    """A member's name with plain slashes, refused if it could point outside the archive.

    Bytes that are not UTF-8 are escaped.
    Raises: DataError for absolute paths, drive letters and `..`.

    >>> checked_member("photos\\\\cat\\\\1.jpg", "photos.zip")
    'photos/cat/1.jpg'
    """
    plain = name.replace("\\", "/")
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise DataError(
            f"{source} holds a member that points outside it ({escaped(name)}); pack it again"
        )
    return escaped("/".join(name for name in plain.split("/") if name not in ("", ".")))


def check_sizes(sizes: dict[str, int], packed: int, source: str) -> None:
    """Refuse archives that unpack to implausible sizes; only members that would be read count.

    Raises: DataError for over 20 GB in all, or 200-fold compression.
    """
    total = sum(size for name, size in sizes.items() if suffix(name) in READ_SUFFIXES)
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{source} unpacks to more than 20 GB; unpack it and name the folder")
    if total > RATIO_FROM_BYTES and total > MAX_RATIO * packed:
        raise DataError(
            f"{source} unpacks to {total // max(packed, 1):,} times its size, which is not "
            "plausible for images; unpack it and name the folder if you trust it"
        )


def descend(place: Place) -> Place:
    """Step into a single top folder, as archives of a folder have one.

    `train/` alone, and a folder that holds images only, are not stepped into.
    """
    while True:
        tops = {path.split("/")[0] for path in (*place.files, *place.folders)}
        top = next(iter(tops)) if len(tops) == 1 else ""
        inner = [path for path in place.files if path.startswith(top + "/")]
        nested = any(p.count("/") > 1 or suffix(p) in TABLE_SUFFIXES | {".arrow"} for p in inner)
        if not top or not nested or top.casefold() == "train":
            return place
        prefix, load = f"{top}/", place.load
        place = replace(
            place,
            files=tuple(file.removeprefix(prefix) for file in place.files),
            folders=tuple(f.removeprefix(prefix) for f in place.folders if f != top),
            load=partial(_load_below, load, prefix),
        )


def _load_below(load: Load, prefix: str, name: str) -> bytes:
    return load(prefix + name)


def _add(
    members: dict[str, Info], name: str, info: Info, source: str, reasons: dict[str, str]
) -> None:
    size = info.file_size if isinstance(info, zipfile.ZipInfo) else info.size
    if size > MAX_FILE_BYTES and suffix(name) in READ_SUFFIXES:
        reasons[name] = "unpacks to more than 512 MB"
        return
    if name in members:
        raise DataError(f"{source} holds {name} twice; pack it again")
    members[name] = info


def _place(
    path: Path,
    source: str,
    members: Iterable[str],
    folders: Iterable[str],
    load: Load,
    reasons: Mapping[str, str],
) -> Place:
    files = tuple(sorted(members))
    visible = {f for f in folders if f and not is_hidden(f)} | parents(files)
    name = re.sub(r"\.(zip|tar|tgz|tar\.gz)$", "", path.name, flags=re.IGNORECASE)
    left_out = {name: why for name, why in sorted(reasons.items()) if not is_hidden(name)}
    return Place(
        name=name,
        source=source,
        files=files,
        folders=tuple(sorted(visible)),
        load=load,
        problems=unreadable(left_out, f"{count(len(left_out), 'file')} in {source} left out."),
    )


def _plain(path: Path, source: str) -> IO[bytes]:
    """The uncompressed tar as a seekable file."""
    if suffix(path.name) == ".tar":
        return open(path, "rb")
    limit = max(MAX_RATIO * path.stat().st_size, RATIO_FROM_BYTES)
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with gzip.open(path, "rb") as packed:
        while chunk := packed.read(_CHUNK):
            file.write(chunk)
            if file.tell() > min(limit, MAX_TOTAL_BYTES):
                raise DataError(
                    f"{source} unpacks to more than is plausible; unpack it and name the folder"
                )
    file.seek(0)
    return file
