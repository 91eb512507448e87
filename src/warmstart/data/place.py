"""Named files wherever they lie: a `Place` is a folder, a zip or a tar, seen as one list."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from warmstart.data.dataset import Asked, Listing, Load, Row, unreadable
from warmstart.errors import DataError, missing
from warmstart.nouns import count
from warmstart.records.data import Finding

# ---- A path that is not there: said before anything heavy loads.


PREFIX = "sample:"


def is_address(text: str) -> bool:
    """Whether a source is named by a web address, which is not read.

    >>> is_address("https://example.org/photos.zip"), is_address("photos")
    (True, False)
    """
    return re.match(r"[a-z0-9]+://", text, re.IGNORECASE) is not None


def look_for(text: str) -> None:
    """Raises: DataError where `text` names a path, and nothing is there.

    >>> look_for("sample:digits")
    """
    path = Path(text).expanduser()
    is_path = text.strip() and not text.startswith(PREFIX) and not is_address(text)
    if is_path and not os.path.exists(path):
        raise DataError(missing(path, str(Path(text))))


IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".npy",
    )
)
TEXT_SUFFIXES = frozenset((".txt",))
SOUND_SUFFIXES = frozenset(
    (
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
    )
)
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".parquet"))
MEDIA_SUFFIXES = IMAGE_SUFFIXES | SOUND_SUFFIXES
# All that may be opened in a place: a data set saved by `datasets` is .arrow beside .json.
READ_SUFFIXES = MEDIA_SUFFIXES | TEXT_SUFFIXES | TABLE_SUFFIXES | {".arrow", ".json"}
ARCHIVE_SUFFIXES = frozenset((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"))
# Pictures, but of kinds that are not read: never passed over in silence.
FOREIGN_SUFFIXES = frozenset(
    (
        ".heic",
        ".heif",
        ".avif",
        ".svg",
        ".psd",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".jp2",
        ".jxl",
        ".eps",
        ".ico",
    )
)
DRAWN_SUFFIXES = frozenset((".svg", ".eps"))  # of these, drawings: no photograph is lost with them
MAX_FILE_BYTES = 512 * 2**20
_CLUTTER = frozenset(("__macosx", "thumbs.db", "desktop.ini"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Files and folders by POSIX path, sorted, without hidden ones; `shown` is for messages.

    `path` is the folder on disk, None for an archive. `links` holds the links that are not
    followed, with the reason.
    """

    name: str
    shown: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    load: Load  # raises DataError with a short reason
    problems: tuple[Finding, ...] = ()
    path: Path | None = None
    links: Mapping[str, str] = field(default_factory=dict)


def suffix(path: str) -> str:
    """The lower-case suffix of a path.

    >>> suffix("a/B.JPG"), suffix("README")
    ('.jpg', '')
    """
    name = path.rpartition("/")[2]  # by hand: pathlib keeps the names of all it has seen
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def is_hidden(path: str) -> bool:
    """True for hidden files and the clutter that systems leave behind.

    >>> [is_hidden(p) for p in (".git/a.png", "a/Thumbs.db", "__MACOSX/a.jpg", "a/b.jpg")]
    [True, True, True, False]
    """
    return any(p.startswith(".") or p.casefold() in _CLUTTER for p in path.split("/"))


def is_utf8(name: str) -> bool:
    """Whether UTF-8, and so data.json, can hold a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """A name with its odd bytes escaped.

    >>> escaped("caf\\udce9.jpg")
    'caf\\\\udce9.jpg'
    """
    return "".join(sign if is_utf8(sign) else ascii(sign)[1:-1] for sign in name)


def check_name(path: str, shown: str) -> None:
    """Refuse names that UTF-8, and so data.json, cannot hold.

    Raises: DataError naming the file with its odd bytes escaped.
    """
    if not is_utf8(path):
        raise DataError(f"{shown}: the name of {escaped(path)} is not UTF-8; rename it")


def parents(paths: Iterable[str]) -> set[str]:
    """Every folder above the given paths.

    >>> sorted(parents(["a/b/c.jpg", "d.jpg"]))
    ['a', 'a/b']
    """
    return {str(above) for path in paths for above in PurePosixPath(path).parents} - {"."}


def special(mode: int) -> str:
    """What a file is that is neither a file, a folder nor a link; "" for those.

    >>> special(stat.S_IFIFO), special(stat.S_IFREG)
    ('a named pipe', '')
    """
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


def open_folder(root: Path, shown: str) -> Place:
    """List a folder on disk. Links to files inside it count as files; other links do not.

    What has a name that is not UTF-8, is no file, or is a folder that cannot be listed is left
    out and noted.
    Raises: DataError if the folder itself cannot be listed.
    """
    files: list[str] = []
    folders: list[str] = []
    links: dict[str, str] = {}
    lost: dict[str, str] = {}
    inside = os.path.realpath(root)
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            entries = _entries(root, below)
        except OSError as error:
            if not below:
                raise DataError(
                    f"{shown} cannot be listed ({error.strerror}); change its permissions or move "
                    "it away"
                ) from error
            lost[below] = f"cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if is_hidden(entry.name):
                continue
            if not is_utf8(entry.name):
                lost[escaped(path)] = "its name is not UTF-8"
            elif entry.is_symlink() and (reason := _why_not_followed(entry, inside)):
                links[path] = reason
            elif entry.is_dir():
                folders.append(path)
                waiting.append(path)
            elif entry.is_file():
                files.append(path)
            else:
                lost[path] = f"is {_kind(entry)}, which is not opened"
    sentence = f"{count(len(links), 'link')} in {shown}/ were not followed."
    left_out = f"{count(len(lost), 'file or folder')} in {shown}/ left out."
    return Place(
        name=root.resolve().name or "data",
        shown=shown,
        files=tuple(sorted(files)),
        folders=tuple(sorted(folders)),
        load=lambda path: read_file(root / path),
        problems=unreadable(dict(sorted(links.items())), sentence)
        + unreadable(dict(sorted(lost.items())), left_out),
        path=root,
        links=links,
    )


def _entries(root: Path, below: str) -> list[os.DirEntry[str]]:
    with os.scandir(root / below) as entries:
        return list(entries)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return special(entry.stat(follow_symlinks=False).st_mode) or "no file"
    except OSError:
        return "no file"  # gone since the folder was listed


def _why_not_followed(entry: os.DirEntry[str], inside: str) -> str | None:
    target = os.path.realpath(entry.path)
    if not os.path.exists(target):
        return "a link that leads nowhere"
    if os.path.isdir(target):
        return "a link to a folder"  # following those could go round in circles
    if os.path.commonpath((inside, target)) != inside:
        return "a link that leads out of the data folder"
    return None


# ---- Clips of sound among files, told by their names, and what messages call them.


def media_among(files: Sequence[str], asked: Asked = "auto") -> list[str]:
    """The images of a place, or its clips of sound where these were asked for or are more.

    Images in two folders, two in each, are what a folder of both is about: stamps that speak.

    >>> media_among(["a/1.wav", "a/1.png", "a/2.wav", "notes.txt"])
    ['a/1.wav', 'a/2.wav']
    """
    images = [file for file in files if suffix(file) in IMAGE_SUFFIXES]
    clips = [file for file in files if suffix(file) in SOUND_SUFFIXES]
    if asked == "auto":
        return clips if len(clips) > len(images) and not _are_classes(images) else images
    return clips if asked == "audio" else images


def _are_classes(images: Sequence[str]) -> bool:
    """Whether a network could learn from them: two folders that hold two."""
    sizes = Counter(image.partition("/")[0] for image in images if "/" in image)
    return sum(size >= 2 for size in sizes.values()) >= 2


def noun_of(names: Iterable[str]) -> str:
    """What one of these files is called: "clip" where more than half are sounds by their names.

    >>> noun_of(["a.wav", "b.wav", "c.png"]), noun_of(["0", "1"])
    ('clip', 'image')
    """
    are_clips = [suffix(name) in SOUND_SUFFIXES for name in names]
    return "clip" if 2 * sum(are_clips) > len(are_clips) else "image"


def counted(rows: Sequence[Row]) -> str:
    """How many images or clips there are.

    >>> counted([Row(id="a.wav", label="a")])
    '1 clip'
    """
    return count(len(rows), noun_of(row.id for row in rows))


def heard(listing: Listing) -> Listing:
    """A listing whose files are mostly sounds as one of clips; any other as it is."""
    if noun_of(row.id for row in listing.rows) == "image":
        return listing
    return replace(listing, kind="audio", wording=replace(listing.wording, noun="clip"))
