"""WebDataset shards: tar files whose members of one basename are one example.

    shards/train-000.tar    000017.jpg  000017.cls  000018.jpg  000018.json  …

(https://github.com/webdataset/webdataset.) Each tar is read once to find where its members lie;
nothing is unpacked. `train/`, `val/` and `test/` folders of shards are splits.
"""

from __future__ import annotations

import json
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.data.dataset import Columns, Listing, Row, unreadable
from warmstart.data.layouts import SPLITS, SplitFolder, find_splits
from warmstart.data.place import (
    MAX_FILE_BYTES,
    TAR_ERRORS,
    checked_member,
    is_hidden,
    is_media,
    suffix,
    tar_error,
    why_not_read,
)
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Wording, count

LABELS = ("label", "cls", "class")  # keys of a .json that may hold it
_SUFFIX = ".tar"
_N_MEMBERS = 1000  # members that are read to recognise a shard
_MAX_LABEL_BYTES = 64 * 2**20  # of a .cls or .json


class _Members:
    """Where each image lies, by its id: some 30 bytes each besides the id itself."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._shards: list[Path] = []
        self._places = array("Q")  # of each id: its shard, its start there, its size
        self._is_sorted = True

    def add(self, id: str, shard: Path, start: int, size: int) -> None:
        """Add a member; those of one shard must come in a row."""
        if not self._shards or self._shards[-1] != shard:
            self._shards.append(shard)
        self._is_sorted &= not self._ids or self._ids[-1] < id
        self._ids.append(id)
        self._places.extend((len(self._shards) - 1, start, size))

    def load(self, id: str) -> bytes:
        at = bisect_left(self._ids, id)
        if at == len(self._ids) or self._ids[at] != id:
            raise KeyError(id)
        shard, start, size = self._places[3 * at : 3 * at + 3]
        try:
            with open(self._shards[shard], "rb") as file:
                file.seek(start)
                payload = file.read(size)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from error
        if len(payload) != size:
            raise DataError("is cut off in its shard")
        return payload

    def sort(self) -> None:
        """Call this before the first `load`."""
        if self._is_sorted:
            return
        order = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        self._ids = [self._ids[at] for at in order]
        self._places = array("Q", (v for at in order for v in self._places[3 * at : 3 * at + 3]))
        self._is_sorted = True


@dataclass(slots=True)
class _Sample:
    """The members of one basename of a shard; images by name, start and size."""

    images: list[tuple[str, int, int]] = field(default_factory=list)
    label: str | None = None
    group: str | None = None


def find_shards(root: Path) -> dict[SplitFolder, list[Path]]:
    """The shards of a folder that holds no other examples, by split; {} for any other folder."""
    entries = sorted(path for path in root.iterdir() if not is_hidden(path.name))
    tops = [path for path in entries if path.is_dir()]
    if any(path.is_file() and is_media(path.name) for path in entries):
        return {}
    if shards := [path for path in entries if path.is_file() and suffix(path.name) == _SUFFIX]:
        return {} if tops else {SplitFolder("", "train"): shards}
    if not tops or any(path.name.casefold() not in SPLITS for path in tops):
        return {}
    by_folder = {p.name: [s for s in sorted(p.glob(f"*{_SUFFIX}")) if s.is_file()] for p in tops}
    if not all(by_folder.values()):
        return {}
    return {f: by_folder[f.path] for f in find_splits(root.name, [*by_folder])}


def is_shard(path: Path) -> bool:
    """Whether the first members of a tar include a label with the basename of an image."""
    images, labels = set[str](), set[str]()
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info, _ in zip(archive, range(_N_MEMBERS), strict=False):
                base, _, extension = info.name.rpartition("/")[2].partition(".")
                folder = info.name.rpartition("/")[0]
                if is_media(info.name):
                    images.add(f"{folder}/{base}")
                elif extension == "cls" or (extension == "json" and folder in ("", ".")):
                    labels.add(f"{folder}/{base}")
    except TAR_ERRORS:
        return False  # reading it will say what is wrong with it
    return bool(images & labels)


def list_shard(path: Path, source: str, columns: Columns) -> Listing:
    return _list({SplitFolder("", "train"): [path]}, path.stem, source, columns)


def list_shards(root: Path, source: str, columns: Columns) -> Listing | None:
    """The examples in a folder of shards; None for a folder of anything else."""
    shards = find_shards(root)
    name = root.resolve().name or "data"
    return _list(shards, name, f"{source}/", columns) if shards else None


def _list(
    shards: Mapping[SplitFolder, Sequence[Path]], name: str, source: str, columns: Columns
) -> Listing:
    """`source` ends in "/" if the shards lie in a folder of that name."""
    is_folder = source.endswith("/")
    members = _Members()
    rows: list[Row] = []
    unlabelled: list[str] = []
    reasons: dict[str, str] = {}  # for what is left out
    for folder, paths in shards.items():
        for path in paths:
            below = f"{folder.path}/{path.name}" if folder.path else path.name
            where = f"{source}{below}" if is_folder else source
            for member, start, size, sample in _examples(path, where, columns, reasons):
                id = f"{below}/{member}"  # one text for both
                if sample.label is None:
                    unlabelled.append(id)
                    continue
                members.add(id, path, start, size)
                rows.append(Row(id=id, label=sample.label, split=folder.split, group=sample.group))
    members.sort()
    if not rows:
        raise DataError(
            f"{source}: no image in its shards has a label; give each a .cls file of its name, "
            "or a .json with a key that --label names"
        )
    n_shards = sum(len(paths) for paths in shards.values())
    title = f"{count(n_shards, 'shard')} of {source}" if is_folder else source
    return Listing(
        name=name,
        layout=f"{count(n_shards, 'shard')} (WebDataset)",
        title=f"{IMAGE.nouns.count(len(rows))} in {title}",
        rows=tuple(rows),
        load=members.load,
        is_table=True,  # its .json files have keys, which --label and --group may name
        wording=Wording(
            source=source,
            before="label ",
            remove="its images from the shards",
            one_class="add images of another class",
        ),
        n_harmless=len(unlabelled),
        problems=unreadable(
            dict.fromkeys(unlabelled, "has no label"),
            f"{IMAGE.nouns.count(len(unlabelled))} without a .cls or a label in a .json left out.",
        )
        + unreadable(reasons, f"{count(len(reasons), 'file')} in the shards left out."),
    )


def _examples(
    path: Path, source: str, columns: Columns, reasons: dict[str, str]
) -> Iterator[tuple[str, int, int, _Sample]]:
    """Each image of a shard: name, start, size, label; `reasons` gets what cannot be read."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all it has read
                name = checked_member(info.name, source)
                if info.isdir() or is_hidden(name):
                    continue
                if why := why_not_read(info) or _too_large(info, name):
                    reasons[f"{path.name}/{name}"] = why
                    continue
                folder, slash, last = name.rpartition("/")
                base, _, extension = last.partition(".")  # a basename ends at the first dot
                sample = samples.setdefault(f"{folder}{slash}{base}", _Sample())
                if is_media(name):
                    sample.images.append((name, info.offset_data, info.size))
                elif extension.lower() in ("cls", "json") and (file := archive.extractfile(info)):
                    where = f"{path.name}: {name}"
                    _read_label(sample, extension.lower(), file.read(), where, columns)
    except DataError:
        raise
    except TAR_ERRORS as error:
        raise tar_error(error, source) from error
    for sample in samples.values():
        for name, start, size in sample.images:
            yield name, start, size, sample


def _too_large(info: tarfile.TarInfo, name: str) -> str:
    if is_media(name):
        return "is larger than 512 MB" if info.size > MAX_FILE_BYTES else ""
    is_label = suffix(name) in (".cls", ".json")
    return "is larger than 64 MB" if is_label and info.size > _MAX_LABEL_BYTES else ""


def _read_label(sample: _Sample, kind: str, payload: bytes, where: str, columns: Columns) -> None:
    text = payload.decode("utf-8", "replace").strip()
    if kind == "cls":
        if columns.label is None:
            sample.label = text or sample.label
        return
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); pack the shard again") from error
    if not isinstance(values, dict):
        return
    keys = LABELS if columns.label is None else (columns.label,)
    label = next((values[key] for key in keys if isinstance(values.get(key), (str, int))), None)
    sample.label = sample.label if label is None else str(label)
    if columns.group is not None and values.get(columns.group) is not None:
        sample.group = str(values[columns.group])
