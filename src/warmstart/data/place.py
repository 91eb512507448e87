"""Named files wherever they lie: a `Place` is a folder, a zip or a tar, listed the same way."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from warmstart.data.dataset import Listing, Load, Row, unreadable
from warmstart.errors import DataError, missing
from warmstart.modalities.audio import AUDIO
from warmstart.modalities.image import IMAGE
from warmstart.modalities.modality import Modality, suffixes_of
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT
from warmstart.nouns import count
from warmstart.records.data import Finding
from warmstart.records.inputs import KindOption

PREFIX = "sample:"


MEDIA_SUFFIXES = IMAGE.suffixes | AUDIO.suffixes
# Everything that may be opened in a place: a data set saved by `datasets` is .arrow beside .json.
READ_SUFFIXES = MEDIA_SUFFIXES | TEXT.suffixes | TABLE.suffixes | {".arrow", ".json"}
ARCHIVE_SUFFIXES = suffixes_of("zip tar tgz gz bz2 xz 7z rar")
# Pictures of formats that are not read: reported, never ignored silently.
FOREIGN_SUFFIXES = suffixes_of("heic heif avif svg psd raw cr2 cr3 nef arw dng jp2 jxl eps ico")
VECTOR_SUFFIXES = suffixes_of("svg eps")  # drawings: leaving them out loses no photograph
MAX_FILE_BYTES = 512 * 2**20
_CLUTTER = frozenset(("__macosx", "thumbs.db", "desktop.ini"))


def is_address(text: str) -> bool:
    """Whether a source is named by a web address, which is not read."""
    return re.match(r"[a-z0-9]+://", text, re.IGNORECASE) is not None


def check_exists(text: str) -> None:
    """Raise a DataError early, before anything heavy loads, if `text` names a missing path.

    >>> check_exists("sample:digits")
    """
    path = Path(text).expanduser()
    is_path = text.strip() and not text.startswith(PREFIX) and not is_address(text)
    if is_path and not os.path.exists(path):
        raise DataError(missing(path, str(Path(text))))


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


# ---- Audio clips among files, recognised by their names, and what messages call them.


def media_among(files: Sequence[str], kind: KindOption = "auto") -> list[str]:
    """The images of a place, or its audio clips if `kind` says so or there are more of them.

    Two folders with two images each make the images the examples, whatever the clips: a
    talking picture book has a clip to every picture.

    >>> media_among(["a/1.wav", "a/1.png", "a/2.wav", "notes.txt"])
    ['a/1.wav', 'a/2.wav']
    """
    images = [file for file in files if suffix(file) in IMAGE.suffixes]
    clips = [file for file in files if suffix(file) in AUDIO.suffixes]
    if kind != "auto":
        return clips if kind == AUDIO.kind else images
    sizes = Counter(image.partition("/")[0] for image in images if "/" in image)
    has_classes = sum(size >= 2 for size in sizes.values()) >= 2
    return clips if len(clips) > len(images) and not has_classes else images


def media_of(names: Iterable[str]) -> Modality[Any]:
    """What these files are: audio if more than half are, by their names, else images."""
    are_clips = [suffix(name) in AUDIO.suffixes for name in names]
    return AUDIO if 2 * sum(are_clips) > len(are_clips) else IMAGE


def counted(rows: Sequence[Row]) -> str:
    return media_of(row.id for row in rows).nouns.count(len(rows))


def as_audio(listing: Listing) -> Listing:
    """A listing of mostly audio files as one of clips; any other listing unchanged."""
    if media_of(row.id for row in listing.rows) is IMAGE:
        return listing
    wording = replace(listing.wording, noun=AUDIO.nouns.one)
    return replace(listing, kind=AUDIO.kind, wording=wording)
