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
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from warmstart.data.dataset import unreadable
from warmstart.data.place import (
    MAX_FILE_BYTES,
    READ_SUFFIXES,
    Place,
    escaped,
    is_hidden,
    parents,
    suffix,
)
from warmstart.errors import DataError
from warmstart.modalities.table import TABLE
from warmstart.nouns import count

# A header may claim any length, and `tarfile` allocates as much memory.
TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, MemoryError, OverflowError)
LINK = "is a link: pack the file itself"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_TOTAL_BYTES = 20 * 10**9
# Photographs hardly shrink, drawings stored as BMP shrink 50-fold; 200-fold is a bomb.
MAX_RATIO, RATIO_FROM_BYTES = 200, 64 * 2**20
_CHUNK = 2**20

_Entry = tuple[Any, str, int, bool, str]  # member, name, bytes, is a folder, why it is not read


def open_zip(path: Path, source: str) -> Place:
    """List a zip file; raises DataError if it is damaged, has a password or an unsafe member."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{source} cannot be opened as zip ({error}); copy it again") from error
    entries: list[_Entry] = []
    for info in archive.infolist():
        reason = LINK if stat.S_ISLNK(info.external_attr >> 16) else ""
        if info.flag_bits & 1 and not reason:
            raise DataError(f"{source} has a password; unpack it and name the folder")
        entries.append((info, info.filename, info.file_size, info.is_dir(), reason))

    def load(info: zipfile.ZipInfo) -> bytes:
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(f"is damaged in the zip ({error})") from error
        except (NotImplementedError, RuntimeError) as error:
            raise DataError(f"cannot be unpacked ({error})") from error

    return _place(path, source, entries, load)


def open_tar(path: Path, source: str) -> Place:
    """List a .tar, .tar.gz or .tgz file; raises DataError if it is damaged or a member unsafe."""
    try:
        file = _plain(path, source)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            infos = archive.getmembers()
    except DataError:
        raise
    except (*TAR_ERRORS, zlib.error) as error:
        raise tar_error(error, source) from error
    lock = threading.Lock()  # another thread must not seek between seek and read

    def load(info: tarfile.TarInfo) -> bytes:
        with lock:
            file.seek(info.offset_data)
            payload = file.read(info.size)
        if len(payload) != info.size:
            raise DataError("is cut off in the tar")
        return payload

    entries = [(i, i.name, i.size, i.isdir(), "" if i.isdir() else why_not_read(i)) for i in infos]
    return _place(path, source, entries, load)


def tar_error(error: BaseException, source: str) -> DataError:
    """The error for a tar that cannot be listed."""
    is_large = isinstance(error, MemoryError)
    why = "a header claims more than there is" if is_large else str(error)
    return DataError(f"{source} cannot be opened as tar ({why}); copy it again")


def why_not_read(info: tarfile.TarInfo) -> str:
    """Why a member of a tar, not a folder, cannot be read in place; "" if it can."""
    if info.issym() or info.islnk():
        return LINK
    if info.issparse():
        return "is stored with holes: pack it again without --sparse"
    return "" if info.isreg() else "is a pipe or a device, which is not opened"


def checked_member(name: str, source: str) -> str:
    """A member's name with plain slashes, escaped; raises DataError if it points outside."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise DataError(
            f"{source} holds a member that points outside it ({escaped(name)}); pack it again"
        )
    return escaped("/".join(name for name in plain.split("/") if name not in ("", ".")))


def check_sizes(sizes: dict[str, int], packed: int, source: str) -> None:
    """Raise a DataError if the members that would be read unpack to over 20 GB, or 200-fold."""
    total = sum(size for name, size in sizes.items() if suffix(name) in READ_SUFFIXES)
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{source} unpacks to more than 20 GB; unpack it and name the folder")
    if total > RATIO_FROM_BYTES and total > MAX_RATIO * packed:
        raise DataError(
            f"{source} unpacks to {total // max(packed, 1):,} times its size, which is not "
            "plausible for images; unpack it and name the folder if you trust it"
        )


def _place(
    path: Path, source: str, entries: Iterable[_Entry], load: Callable[[Any], bytes]
) -> Place:
    members, sizes = dict[str, Any](), dict[str, int]()
    folders, reasons = set[str](), dict[str, str]()
    for member, raw_name, size, is_folder, reason in entries:
        name = checked_member(raw_name, source)
        if reason:
            reasons[name] = reason
        elif is_folder:
            folders.add(name)
        elif is_hidden(name):
            continue
        elif size > MAX_FILE_BYTES and suffix(name) in READ_SUFFIXES:
            reasons[name] = "unpacks to more than 512 MB"
        elif name in members:
            raise DataError(f"{source} holds {name} twice; pack it again")
        else:
            members[name], sizes[name] = member, size
    check_sizes(sizes, path.stat().st_size, source)
    files = tuple(sorted(members))
    visible = {f for f in folders if f and not is_hidden(f)} | parents(files)
    left_out = {name: why for name, why in sorted(reasons.items()) if not is_hidden(name)}
    place = Place(
        name=re.sub(r"\.(zip|tar|tgz|tar\.gz)$", "", path.name, flags=re.IGNORECASE),
        source=source,
        files=files,
        folders=tuple(sorted(visible)),
        load=lambda name: load(members[name]),
        problems=unreadable(left_out, f"{count(len(left_out), 'file')} in {source} left out."),
    )
    return _descend(place)


def _descend(place: Place) -> Place:
    """Step into a single top folder, except `train/` and a folder that holds only images."""
    tops = {path.split("/")[0] for path in (*place.files, *place.folders)}
    top = next(iter(tops)) if len(tops) == 1 else ""
    prefix = f"{top}/"
    inner = [path for path in place.files if path.startswith(prefix)]
    nested = any(p.count("/") > 1 or suffix(p) in TABLE.suffixes | {".arrow"} for p in inner)
    if not top or not nested or top.casefold() == "train":
        return place
    below = replace(
        place,
        files=tuple(file.removeprefix(prefix) for file in place.files),
        folders=tuple(f.removeprefix(prefix) for f in place.folders if f != top),
        load=lambda name: place.load(prefix + name),
    )
    return _descend(below)


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
