"""WebDataset shards: tar files whose members of one basename are one example.

    shards/train-000.tar    000017.jpg  000017.cls  000018.jpg  000018.json  …

(https://github.com/webdataset/webdataset.) Each tar is read once from its start to its end to
find where its members lie; nothing is unpacked, and of an image no more than its place is kept
in memory. `train/`, `val/` and `test/` folders of shards are parts, as they are of images.
"""

from __future__ import annotations

import json
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.data.archive import TAR_ERRORS, checked_member, why_damaged, why_not_read
from warmstart.data.dataset import Columns, Listing, Row, Wording, unreadable
from warmstart.data.layouts import SPLITS, SplitFolder, find_splits
from warmstart.data.place import MAX_FILE_BYTES, MEDIA_SUFFIXES, is_hidden, suffix
from warmstart.errors import DataError
from warmstart.nouns import count

LABELS = ("label", "cls", "class")  # keys of a .json that may hold it
_SUFFIX = ".tar"
_LOOKED_AT = 1000  # members, to tell what a tar is
_NOTE_BYTES = 64 * 2**20  # a label with what stands beside it


@dataclass(frozen=True, slots=True)
class _Member:
    """Where the bytes of an image lie."""

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Raises: DataError where the shard was cut off or has gone."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                payload = file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from error
        if len(payload) != self.size:
            raise DataError("is cut off in its shard")
        return payload


class _Members:
    """Where each image lies, by its id: some 30 bytes each beside the id itself."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._shards: list[Path] = []
        self._places = array("Q")  # of each id: its shard, its start there, its size
        self._is_sorted = True

    def add(self, id: str, member: _Member) -> None:
        """Note one more; those of a shard come together."""
        if not self._shards or self._shards[-1] != member.path:
            self._shards.append(member.path)
        self._is_sorted &= not self._ids or self._ids[-1] < id
        self._ids.append(id)
        self._places.extend((len(self._shards) - 1, member.start, member.size))

    def load(self, id: str) -> bytes:
        """The bytes of an image. Raises: as `_Member.read`; KeyError for an id that is none."""
        at = bisect_left(self._ids, id)
        if at == len(self._ids) or self._ids[at] != id:
            raise KeyError(id)
        shard, start, size = self._places[3 * at : 3 * at + 3]
        return _Member(self._shards[shard], start, size).read()

    def sort(self) -> None:
        """To be called before the first is loaded."""
        if self._is_sorted:
            return
        order = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        self._ids = [self._ids[at] for at in order]
        self._places = array("Q", (v for at in order for v in self._places[3 * at : 3 * at + 3]))
        self._is_sorted = True


@dataclass(slots=True)
class _Sample:
    """What one basename of a shard has."""

    images: list[tuple[str, _Member]] = field(default_factory=list)
    label: str | None = None
    group: str | None = None


def find_shards(root: Path) -> dict[SplitFolder, list[Path]]:
    """The shards of a folder that holds nothing else to learn from, by part; {} for any other.

    Raises: DataError where there is a part of shards but none to train on.
    """
    inside = sorted(path for path in root.iterdir() if not is_hidden(path.name))
    tops = [path for path in inside if path.is_dir()]
    if any(path.is_file() and suffix(path.name) in MEDIA_SUFFIXES for path in inside):
        return {}
    if own := [path for path in inside if path.is_file() and suffix(path.name) == _SUFFIX]:
        return {} if tops else {SplitFolder("", "train"): own}
    if not tops or any(path.name.casefold() not in SPLITS for path in tops):
        return {}
    found = {p.name: [s for s in sorted(p.glob(f"*{_SUFFIX}")) if s.is_file()] for p in tops}
    if not all(found.values()):
        return {}
    return {part: found[part.path] for part in find_splits(root.name, [*found])}


def is_shard(path: Path) -> bool:
    """Whether a tar is a shard by its first members: a label of the basename of an image.

    A label is a .cls, or, where no folder names a class, a .json.
    """
    images, notes = set[str](), set[str]()
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info, _ in zip(archive, range(_LOOKED_AT), strict=False):
                base, _, extension = info.name.rpartition("/")[2].partition(".")
                folder = info.name.rpartition("/")[0]
                if suffix(info.name) in MEDIA_SUFFIXES:
                    images.add(f"{folder}/{base}")
                elif extension == "cls" or (extension == "json" and folder in ("", ".")):
                    notes.add(f"{folder}/{base}")
    except TAR_ERRORS:
        return False  # whoever reads it says what is wrong with it
    return bool(images & notes)


def list_shard(path: Path, shown: str, columns: Columns) -> Listing:
    """The examples of one shard that was named alone. Raises: as `list_shards`."""
    return _list({SplitFolder("", "train"): [path]}, path.stem, shown, columns, whole="")


def list_shards(root: Path, shown: str, columns: Columns) -> Listing | None:
    """The examples in a folder of shards; None for a folder of anything else.

    Labels are the text of a .cls, or a key of a .json: `--label`, else label, cls or class.
    Raises: DataError if a shard is damaged, or no image in it has a label.
    """
    parts = find_shards(root)
    name = root.resolve().name or "data"
    return _list(parts, name, shown, columns, whole="/") if parts else None


def _list(
    parts: Mapping[SplitFolder, Sequence[Path]],
    name: str,
    shown: str,
    columns: Columns,
    *,
    whole: str,
) -> Listing:
    """`whole` is "/" where the shards lie in a folder that `shown` names, "" for one alone."""
    members = _Members()
    rows: list[Row] = []
    bare: list[str] = []
    lost: dict[str, str] = {}
    for part, paths in parts.items():
        for path in paths:
            below = f"{part.path}/{path.name}" if part.path else path.name
            where = f"{shown}/{below}" if whole else shown
            for own, member, sample in _examples(path, where, columns, lost):
                id = f"{below}/{own}"  # one text for both
                if sample.label is None:
                    bare.append(id)
                    continue
                members.add(id, member)
                rows.append(
                    Row(
                        id=id,
                        label=sample.label,
                        split=part.split,
                        group=sample.group,
                    )
                )
    members.sort()
    source = f"{shown}{whole}"
    if not rows:
        raise DataError(
            f"{source}: no image in its shards has a label; give each a .cls file of its name, "
            "or a .json with a key that --label names"
        )
    n_shards = sum(len(paths) for paths in parts.values())
    title = f"{count(n_shards, 'shard')} of {source}" if whole else source
    return Listing(
        name=name,
        layout=f"{count(n_shards, 'shard')} (WebDataset)",
        title=f"{count(len(rows), 'image')} in {title}",
        rows=tuple(rows),
        load=members.load,
        is_table=True,  # its .json files have keys, which --label and --group may name
        wording=Wording(
            source=source,
            before="label ",
            remove="its images from the shards",
            one_class="add images of another class",
        ),
        spared=len(bare),
        problems=unreadable(
            dict.fromkeys(bare, "has no label"),
            f"{count(len(bare), 'image')} without a .cls or a label in a .json left out.",
        )
        + unreadable(lost, f"{count(len(lost), 'file')} in the shards left out."),
    )


def _examples(
    path: Path, shown: str, columns: Columns, lost: dict[str, str]
) -> Iterator[tuple[str, _Member, _Sample]]:
    """Each image of a shard: its name there, where it lies, and what goes with it.

    What cannot be read is noted in `lost`, with the reason.
    """
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all it has passed
                name = checked_member(info.name, shown)
                if info.isdir() or is_hidden(name):
                    continue
                if why := why_not_read(info) or _too_large(info, name):
                    lost[f"{path.name}/{name}"] = why
                else:
                    _take(samples, name, info, archive, path, columns)
    except TAR_ERRORS as error:
        if isinstance(error, DataError):
            raise
        why = why_damaged(error)
        raise DataError(f"{shown} cannot be opened as tar ({why}); copy it again") from error
    for sample in samples.values():
        for name, member in sample.images:
            yield name, member, sample


def _take(
    samples: dict[str, _Sample],
    name: str,
    info: tarfile.TarInfo,
    archive: tarfile.TarFile,
    path: Path,
    columns: Columns,
) -> None:
    """Note a member with the others of its basename, which ends at the first dot of its name."""
    folder, slash, last = name.rpartition("/")
    base, _, extension = last.partition(".")
    sample = samples.setdefault(f"{folder}{slash}{base}", _Sample())
    if suffix(name) in MEDIA_SUFFIXES:
        sample.images.append((name, _Member(path, info.offset_data, info.size)))
    elif extension.lower() in ("cls", "json") and (file := archive.extractfile(info)):
        _note(sample, extension.lower(), file.read(), f"{path.name}: {name}", columns)


def _too_large(info: tarfile.TarInfo, name: str) -> str:
    if suffix(name) in MEDIA_SUFFIXES:
        return "is larger than 512 MB" if info.size > MAX_FILE_BYTES else ""
    is_note = suffix(name) in (".cls", ".json")
    return "is larger than 64 MB" if is_note and info.size > _NOTE_BYTES else ""


def _note(sample: _Sample, kind: str, payload: bytes, where: str, columns: Columns) -> None:
    """Read a label, and a group where one was asked for."""
    text = payload.decode("utf-8", "replace").strip()
    if kind == "cls":
        if columns.label is None:
            sample.label = text or sample.label
        return
    try:
        told = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is no JSON ({error}); pack the shard again") from error
    if not isinstance(told, dict):
        return
    keys = LABELS if columns.label is None else (columns.label,)
    found = next((told[key] for key in keys if isinstance(told.get(key), (str, int))), None)
    sample.label = sample.label if found is None else str(found)
    if columns.group is not None and told.get(columns.group) is not None:
        sample.group = str(told[columns.group])
