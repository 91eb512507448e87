"""Named files wherever they lie: a `Place` is a folder, a zip or a tar, listed the same way."""

from __future__ import annotations

import gzip
import os
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from warmstart.data.dataset import Listing, Load, Row, unreadable
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.modalities.modality import Modality, suffixes_of
from warmstart.modalities.registry import MODALITIES
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT
from warmstart.nouns import count
from warmstart.records.findings import Finding
from warmstart.records.inputs import KindOption

# What may be opened in a place beside media: a data set saved by `datasets` is .arrow and .json.
_OTHER_SUFFIXES = TEXT.suffixes | TABLE.suffixes | {".arrow", ".json"}
ARCHIVE_SUFFIXES = suffixes_of("zip tar tgz gz bz2 xz 7z rar")
# Pictures of formats that are not read: reported, never ignored silently.
FOREIGN_SUFFIXES = suffixes_of("heic heif avif svg psd raw cr2 cr3 nef arw dng jp2 jxl eps ico")
VECTOR_SUFFIXES = suffixes_of("svg eps")  # drawings: leaving them out loses no photograph
MAX_FILE_BYTES = 512 * 2**20
_CLUTTER = frozenset(("__macosx", "thumbs.db", "desktop.ini"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Files and folders by POSIX path, sorted, without hidden ones; `path` is None for archives."""

    name: str
    source: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    load: Load
    problems: tuple[Finding, ...] = ()
    path: Path | None = None
    links: Mapping[str, str] = field(default_factory=dict)


def suffix(path: str) -> str:
    """The lower-case suffix of a path.

    >>> suffix("a/B.JPG"), suffix("README")
    ('.jpg', '')
    """
    name = path.rpartition("/")[2]  # by hand: pathlib caches every name it has parsed
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def is_hidden(path: str) -> bool:
    """True for hidden files and the clutter that operating systems leave behind."""
    return any(p.startswith(".") or p.casefold() in _CLUTTER for p in path.split("/"))


def is_utf8(name: str) -> bool:
    """Whether UTF-8, and so data.json, can hold a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """A name with the bytes escaped that are not UTF-8."""
    return "".join(letter if is_utf8(letter) else ascii(letter)[1:-1] for letter in name)


def check_name(path: str, source: str) -> None:
    """Raise a DataError, with the bad bytes escaped, for a name that data.json cannot hold."""
    if not is_utf8(path):
        raise DataError(f"{source}: the name of {escaped(path)} is not UTF-8; rename it")


def parents(paths: Iterable[str]) -> set[str]:
    """Every folder above the given paths."""
    return {str(above) for path in paths for above in PurePosixPath(path).parents} - {"."}


def special(mode: int) -> str:
    """The name of a special file; "" for a regular file, a folder or a link."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else ""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file.

    Raises: DataError with a short reason if it cannot be read or is larger than 512 MB.
    """
    try:
        if why := special(os.stat(path).st_mode):
            raise DataError(f"is {why}, which is not opened")  # a pipe would wait for ever
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise DataError("is larger than 512 MB")
            return file.read()
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise DataError(f"cannot be read ({getattr(error, 'strerror', '') or error})") from error


def open_folder(root: Path, source: str) -> Place:
    """List a folder on disk; only links to files inside it are followed."""
    files: list[str] = []
    folders: list[str] = []
    links: dict[str, str] = {}
    reasons: dict[str, str] = {}  # for what is left out
    inside = os.path.realpath(root)
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(root / below) as scan:
                entries = list(scan)
        except OSError as error:
            if not below:
                raise DataError(
                    f"{source} cannot be listed ({error.strerror}); change its permissions or move "
                    "it away"
                ) from error
            reasons[below] = f"cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if is_hidden(entry.name):
                continue
            if not is_utf8(entry.name):
                reasons[escaped(path)] = "its name is not UTF-8"
            elif entry.is_symlink() and (reason := _why_not_followed(entry, inside)):
                links[path] = reason
            elif entry.is_dir():
                folders.append(path)
                pending.append(path)
            elif entry.is_file():
                files.append(path)
            else:
                reasons[path] = f"is {_special_kind(entry)}, which is not opened"
    was = "was" if len(links) == 1 else "were"
    return Place(
        name=root.resolve().name or "data",
        source=source,
        files=tuple(sorted(files)),
        folders=tuple(sorted(folders)),
        load=lambda path: read_file(root / path),
        problems=unreadable(
            dict(sorted(links.items())),
            f"{count(len(links), 'link')} in {source}/ {was} not followed.",
        )
        + unreadable(
            dict(sorted(reasons.items())),
            f"{count(len(reasons), 'file or folder')} in {source}/ left out.",
        ),
        path=root,
        links=links,
    )


def _special_kind(entry: os.DirEntry[str]) -> str:
    try:
        return special(entry.stat(follow_symlinks=False).st_mode) or "no file"
    except OSError:
        return "no file"  # deleted since the folder was listed


def _why_not_followed(entry: os.DirEntry[str], inside: str) -> str | None:
    target = os.path.realpath(entry.path)
    if not os.path.exists(target):
        return "a link that leads nowhere"
    if os.path.isdir(target):
        return "a link to a folder"  # following those could go round in circles
    if os.path.commonpath((inside, target)) != inside:
        return "a link that leads out of the data folder"
    return None


# ---- Images, clips and other media among files, recognised by their names.


def _media() -> list[Modality[Any]]:
    """The modalities with a file an example."""
    return [one for one in MODALITIES.values() if one.form == "files"]


def is_media(name: str) -> bool:
    """Whether a file is an image, a clip or another example, by its name."""
    end = suffix(name)
    return any(end in one.suffixes for one in _media())


def _is_read(name: str) -> bool:
    return is_media(name) or suffix(name) in _OTHER_SUFFIXES


def media_among(files: Sequence[str], kind: KindOption = "auto") -> list[str]:
    """The images of a place, or its files of another kind, such as clips, where they are more.

    `kind`: those of this kind alone.

    Two folders with two images each make the images the examples, whatever the clips: a
    talking picture book has a clip to every picture.

    >>> media_among(["a/1.wav", "a/1.png", "a/2.wav", "notes.txt"])
    ['a/1.wav', 'a/2.wav']
    """
    of_kind = {one.kind: [f for f in files if suffix(f) in one.suffixes] for one in _media()}
    images = of_kind[IMAGE.kind]
    if kind != "auto":
        return of_kind.get(kind, images)
    most = max(of_kind.values(), key=len)  # images where there are as many
    sizes = Counter(image.partition("/")[0] for image in images if "/" in image)
    has_classes = sum(size >= 2 for size in sizes.values()) >= 2
    return images if has_classes else most


def media_of(names: Iterable[str]) -> Modality[Any]:
    """What these files are: what more than half are, by their names, else images."""
    suffixes = [suffix(name) for name in names]
    for one in _media():
        if 2 * sum(end in one.suffixes for end in suffixes) > len(suffixes):
            return one
    return IMAGE


def counted(rows: Sequence[Row]) -> str:
    return media_of(row.id for row in rows).nouns.count(len(rows))


def with_kind(listing: Listing) -> Listing:
    """A listing of mostly audio files as one of clips; one of images or no files unchanged."""
    if (media := media_of(row.id for row in listing.rows)) is IMAGE:
        return listing
    wording = replace(listing.wording, noun=media.nouns.one)
    return replace(listing, kind=media.kind, wording=wording)


# ---- Zip and tar files, read in place: no member is ever written to disk under its name.

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
    total = sum(size for name, size in sizes.items() if _is_read(name))
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
        elif size > MAX_FILE_BYTES and _is_read(name):
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
