"""The layout of a place: a saved data set, tables, train/val/test folders or class folders."""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from warmstart.data.arrow import class_names, load_pyarrow, parse_parquet, parse_streams
from warmstart.data.dataset import Columns, Listing, Row, as_split, concatenate, unreadable
from warmstart.data.labels import label_column
from warmstart.data.parsing import LABEL_NAMES, SPLIT_ORDER, SPLIT_VALUES, Table, parse
from warmstart.data.place import (
    ARCHIVE_SUFFIXES,
    FOREIGN_SUFFIXES,
    VECTOR_SUFFIXES,
    Place,
    counted,
    is_media,
    media_among,
    media_of,
    suffix,
)
from warmstart.data.splits import propose_series
from warmstart.data.tables import ReferencedFiles, list_table
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.modalities.audio import AUDIO
from warmstart.modalities.image import IMAGE
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT, decode_utf8
from warmstart.nouns import Wording, count
from warmstart.records.data import Split
from warmstart.records.findings import Finding

# ---- Data sets that Hugging Face's `datasets` saved on disk, read with pyarrow alone.
#
# `Dataset.save_to_disk` writes dataset_info.json (features), state.json (names of the shards) and
# the shards as Arrow IPC streams; `DatasetDict.save_to_disk` writes dataset_dict.json and one
# such folder a split. Source: `datasets/arrow_dataset.py`, `datasets/dataset_dict.py`.

DICT, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"


def is_saved(place: Place) -> bool:
    """True for a folder or archive that `save_to_disk` wrote, complete or not."""
    tops = {file for file in place.files if "/" not in file}
    has_shards = any(file.endswith(".arrow") for file in tops)
    return DICT in tops or {INFO, STATE} <= tops or (has_shards and bool({INFO, STATE} & tops))


def list_saved(place: Place, columns: Columns) -> Listing:
    """List a data set saved on disk: its train, validation and test splits, or a single one."""
    load_pyarrow(f"{place.source}/")
    if DICT not in place.files:
        listing = _list_saved_split(place, "", columns)
    else:
        splits = _saved_splits(place)
        listings = [
            as_split(
                _list_saved_split(place, f"{name}/", columns),
                f"{name}/",
                SPLIT_VALUES[name.casefold()],
            )
            for name in splits
        ]
        listing = concatenate(listings, f"{'/'.join(splits)} of {listings[0].layout}")
    return in_place(place, listing)


def in_place(place: Place, listing: Listing) -> Listing:
    """A listing with the name, the title and the problems of its place."""
    return replace(
        listing,
        name=place.name,
        title=f"{counted(listing.rows)} in {place.source}/",
        problems=place.problems + listing.problems,
    )


def files_of(place: Place, below: str = "") -> ReferencedFiles:
    """The files of a place as a table below `below` names them; none outside the place."""
    files = set(place.files)
    roots = [place.path.absolute(), place.path.resolve()] if place.path else []

    def inside(path: str) -> Callable[[], bytes] | None:
        name = posixpath.normpath(below + path)
        for root in roots:
            if PurePosixPath(path).is_relative_to(root.as_posix()):
                name = posixpath.normpath(PurePosixPath(path).relative_to(root.as_posix()))
        return partial(place.load, name) if name in files else None

    return ReferencedFiles(
        exists=lambda path: below + path in files,
        load=lambda path: place.load(below + path),
        inside=inside,
        links={link.removeprefix(below): why for link, why in place.links.items()},
    )


def _list_saved_split(place: Place, below: str, columns: Columns) -> Listing:
    where = f"{place.source}/{below}"
    names = _read_json(place, below + INFO, lambda value: class_names(value["features"]))
    shards = _read_json(place, below + STATE, _saved_shards)
    missing = [shard for shard in shards if below + shard not in place.files]
    if missing:
        raise DataError(
            f"{where}{missing[0]} is missing ({len(missing)} of {count(len(shards), 'shard')}); "
            "copy the whole folder again"
        )
    streams: list[str | bytes] = [
        str(place.path / (below + shard)) if place.path else place.load(below + shard)
        for shard in shards
    ]
    listing = list_table(
        parse_streams(streams, names, where),
        source=where,
        name=place.name,
        files=files_of(place, below),
        columns=columns,
    )
    layout = listing.layout.partition(": ")[2]
    wording = Wording.of_classes(where, "its rows")
    return replace(listing, layout=f"Hugging Face data set: {layout}", wording=wording)


def _read_json(place: Place, name: str, read: Callable[[Any], Any]) -> Any:
    if name not in place.files:
        raise DataError(
            f"{place.source}/{name} is missing, which `save_to_disk` writes; copy the whole folder "
            "again"
        )
    try:
        return read(json.loads(place.load(name)))
    except DataError as error:
        raise DataError(f"{place.source}/{name} {error}; save the data set again") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{place.source}/{name} is damaged ({error}); copy the whole folder again"
        ) from error


def _saved_shards(state: Any) -> list[str]:
    """The names in state.json; each is looked up among the listed files, never opened directly."""
    if state.get("_indices_data_files"):
        raise DataError("selects rows as an old version did, which is not supported")
    names = [entry["filename"] for entry in state["_data_files"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a file name is not a text")
    return names


def _saved_splits(place: Place) -> list[str]:
    """The splits that dataset_dict.json names, the training set first."""
    names: list[str] = _read_json(place, DICT, lambda value: [str(n) for n in value["splits"]])
    others = [name for name in names if name.casefold() not in SPLIT_VALUES]
    if others:
        raise DataError(
            f"{place.source}/{DICT} names the split {others[0]!r}, which is not train, validation "
            f"or test; name a single split, such as {place.source}/{others[0]}"
        )
    if not any(SPLIT_VALUES[name.casefold()] == "train" for name in names):
        raise DataError(
            f"{place.source}/{DICT} has no train split, only {first_few(names) or 'none'}; add it, "
            "or name a single split"
        )
    return sorted(names, key=lambda name: SPLIT_ORDER.index(SPLIT_VALUES[name.casefold()]))


# ---- Folders that are splits.

# Folder names that make a folder the training, hold-out or test set.
SPLITS = {name: split for name, split in SPLIT_VALUES.items() if name != "holdout"}


@dataclass(frozen=True, slots=True)
class SplitFolder:
    """One folder of class folders; `path` is "" for the place itself."""

    path: str
    split: Split

    def below(self, file: str) -> str | None:
        """The path of a file relative to this folder, None if it lies elsewhere."""
        if not self.path:
            return file
        return file[len(self.path) + 1 :] if file.startswith(self.path + "/") else None


def find_splits(source: str, tops: Sequence[str]) -> list[SplitFolder]:
    """The splits among the top folders, training set first; the place itself if there are none.

    Raises: DataError if there is a split but no training set, or a folder beside the splits.
    """
    folders = [SplitFolder(top, SPLITS[top.casefold()]) for top in tops if top.casefold() in SPLITS]
    splits = {folder.split for folder in folders}
    others = [top for top in tops if top.casefold() not in SPLITS]
    names = " and ".join(folder.path + "/" for folder in folders)
    if len(splits) > 1 and "train" in splits and others:
        raise DataError(
            f"{source}/ holds {names} but also {first_few(top + '/' for top in others)}, which is "
            "not a split; move it elsewhere"
        )
    if others or not folders:  # "train" may also be a class, beside "bus" and "car"
        return [SplitFolder("", "train")]
    if "train" not in splits:
        raise DataError(
            f"{source}/ holds {names} but no train/; add it, or name the folder that holds the "
            "class folders"
        )
    return sorted(folders, key=lambda folder: SPLIT_ORDER.index(folder.split))


# ---- Tables inside a folder or archive: which one is used, and which files it may name.

# As on the Hugging Face Hub: data/train-00000-of-00002.parquet, test.parquet, test/0001.parquet;
# and train.csv beside test.csv.
_SHARD = re.compile(
    r"(?:data/)?([a-z]+)(?:(?:-\d+-of-\d+)?|/[^/]+)\.(?:parquet|csv|tsv|jsonl)", re.IGNORECASE
)


def list_inner_tables(place: Place, images: Sequence[str], columns: Columns) -> Listing | None:
    """The listing of the tables in a place, or None if none of them is to be used."""
    tables = [f for f in place.files if "/" not in f and suffix(f) in TABLE.suffixes]
    table = next((f for f in tables if f.lower().startswith("metadata.")), None)
    if table is None and len(tables) == 1 and not _has_classes(images):
        table = tables[0]
    if table is not None and _is_used(place, table, images, columns):
        listing = _list_one(place, _parse(place, table), table, columns)
        return replace(listing, problems=place.problems + listing.problems)
    metadata: dict[str, str] = {}  # the table of each train/, val/ or test/ folder that has one
    for file in place.files:
        folder, _, name = file.partition("/")
        is_metadata = name.lower().startswith("metadata.") and suffix(name) in TABLE.suffixes
        if is_metadata and folder.casefold() in SPLITS:
            metadata.setdefault(folder, file)
    if metadata and _is_used(place, next(iter(metadata.values())), images, columns):
        return _list_splits(place, metadata, columns)
    shards = {} if _in_class_folders(images) else _shards(place, has_images=bool(images))
    return _list_shards(place, shards, columns) if shards else None


def _has_classes(images: Sequence[str]) -> bool:
    tops = {image.split("/")[0] for image in images if "/" in image}
    if len(tops) == 1:  # train/ alone is a layout if it has folders inside
        return tops.pop().casefold() == "train" and any(i.count("/") > 1 for i in images)
    return len(tops) > 1


def _is_used(place: Place, table: str, images: Sequence[str], columns: Columns) -> bool:
    """False for a table without labels beside class folders, which then hold the labels."""
    if not _in_class_folders(images) or columns.label:
        return True
    return any(c.casefold() in LABEL_NAMES for c in _parse(place, table).columns)


def _in_class_folders(images: Sequence[str]) -> bool:
    """Whether images lie in two folders or more, split folders not counted."""
    paths = [image.split("/") for image in images]
    inner = [names[1:] if names[0].casefold() in SPLITS else names for names in paths]
    return len({names[0] for names in inner if len(names) > 1}) > 1


def _parse(place: Place, table: str) -> Table:
    source = f"{place.source}/{table}"
    is_parquet = suffix(table) == ".parquet"
    if is_parquet and place.path is not None:
        return parse_parquet(place.path / table, source)  # it may be larger than memory
    try:
        payload = place.load(table)
    except DataError as error:
        raise DataError(f"{source} {error}; copy it again, or remove it") from error
    return parse_parquet(payload, source) if is_parquet else parse(payload, source)


def _list_one(place: Place, table: Table, file: str, columns: Columns) -> Listing:
    folder = file.rpartition("/")[0]
    return list_table(
        table,
        source=f"{place.source}/{file}",
        name=place.name,
        files=files_of(place, f"{folder}/" if folder else ""),
        columns=columns,
    )


def _list_splits(place: Place, tables: Mapping[str, str], columns: Columns) -> Listing:
    folders = find_splits(place.source, sorted(tables))
    with_images = {file.split("/")[0] for file in place.files if is_media(file)}
    incomplete = sorted(f for f in with_images - set(tables) if f.casefold() in SPLITS)
    if incomplete:
        raise DataError(
            f"{place.source}/{incomplete[0]} has no metadata.csv, but there is {place.source}/"
            f"{next(iter(tables.values()))}; add one, or move the folder elsewhere"
        )
    listings = []
    for folder in folders:
        file = tables[folder.path]
        listing = _list_one(place, _parse(place, file), file, columns)
        listings.append(as_split(listing, f"{folder.path}/", folder.split))
    names = "/".join(folder.path for folder in folders)
    layout = f"{names} folders, each with {listings[0].layout}"
    return in_place(place, concatenate(listings, layout))


def _shards(place: Place, *, has_images: bool) -> dict[str, str]:
    """Tables that are pieces of one data set, and the split name of each."""
    shards: dict[str, str] = {}
    for file in place.files:
        match = None if has_images and "/" in file else _SHARD.fullmatch(file)
        if match and match[1].casefold() in SPLITS:
            shards[file] = match[1]
    if shards:
        first: dict[str, str] = {}
        for file in shards:
            stem = str(PurePosixPath(file).with_suffix(""))
            if first.setdefault(stem, file) != file:
                raise DataError(
                    f"{place.source}/ holds {first[stem]} and {file}, two tables of one split; "
                    "remove one"
                )
        return shards
    if has_images:
        return {}
    tables = [file for file in place.files if suffix(file) in TABLE.suffixes]
    names = {re.sub(r"\d+", "0", file.lower()) for file in tables}
    is_one = len(tables) > 1 and len(names) == 1 and names.pop().endswith(".parquet")
    return dict.fromkeys(tables, "train") if is_one else {}


def _has_labels(table: Table, source: str, columns: Columns) -> bool:
    try:
        label_column(table, columns, source)
    except DataError:
        return False
    return True


def _list_shards(place: Place, shards: Mapping[str, str], columns: Columns) -> Listing:
    order = [folder.path for folder in find_splits(place.source, sorted({*shards.values()}))]
    listings, unlabelled = [], dict[str, str]()
    for shard in sorted(shards, key=lambda shard: (order.index(shards[shard]), shard)):
        split = SPLITS[shards[shard].casefold()]
        table = _parse(place, shard)
        if split != "train" and not _has_labels(table, f"{place.source}/{shard}", columns):
            unlabelled[shard] = "has no labels"  # the test set of a competition
            continue
        stem = PurePosixPath(shard.removeprefix("data/")).with_suffix("")
        listings.append(as_split(_list_one(place, table, shard, columns), f"{stem}/", split))
    listings[0] = replace(
        listings[0],
        n_harmless=listings[0].n_harmless + len(unlabelled),
        problems=listings[0].problems
        + unreadable(unlabelled, f"{count(len(unlabelled), 'table')} without labels left out."),
    )
    names = "/".join(name for name in order if not {f for f in unlabelled if shards[f] == name})
    is_parquet = all(suffix(shard) == ".parquet" for shard in shards)
    form = "as Parquet" if is_parquet else "tables"
    return in_place(place, concatenate(listings, f"{names} {form}, each {listings[0].layout}"))


def list_place(place: Place, columns: Columns) -> Listing:
    """List a place: a data set of `datasets`, tables, train/val/test or class folders."""
    if is_saved(place):
        return list_saved(place, columns)
    images = media_among(place.files, columns.kind)
    listing = list_inner_tables(place, images, columns)
    if listing is not None:
        return listing
    texts = [file for file in place.files if suffix(file) in TEXT.suffixes]
    if columns.kind != TEXT.kind:  # a text beside images is a note on them
        is_text = columns.kind == "auto" and not images
        texts = [file for file in texts if is_text and "/" in file]
    if texts:
        listing = _list_class_folders(place, texts)
        return replace(
            listing,
            kind=TEXT.kind,
            title=f"{TEXT.nouns.count(len(listing.rows))} in {place.source}/",
            load=lambda id: decode_utf8(place.load(id)).encode(),
            wording=replace(listing.wording, noun=TEXT.nouns.one),
        )
    if not images:
        raise DataError(
            _no_image(place, (AUDIO if columns.kind == AUDIO.kind else IMAGE).nouns.one)
        )
    return _list_class_folders(place, images)


def _list_class_folders(place: Place, images: Sequence[str]) -> Listing:
    tops = sorted({image.split("/")[0] for image in images if "/" in image})
    folders = find_splits(place.source, tops)
    rows: list[Row] = []
    strays: list[str] = []  # images in no class folder
    for folder in folders:
        labelled, others = _rows(folder, images)
        if not labelled:
            raise DataError(
                f"{place.source}/{folder.path} holds {media_of(others).nouns.count(len(others))} "
                "but no class folders; put each class in its own folder"
            )
        rows += labelled
        strays += others
    train = next(folder for folder in folders if folder.split == "train")
    empty = _empty_folders(place, train, {row.id for row in rows})
    in_splits = {row.id for row in rows} | set(strays)
    strays += [image for image in images if image not in in_splits]
    n_others = len(place.files) - len(images)
    ignored = f" ({count(n_others, 'other file')} ignored)" if n_others else ""
    names = "/".join(folder.path for folder in folders)
    root = f"{place.source}/{train.path}/" if train.path else f"{place.source}/"
    return Listing(
        name=place.name,
        layout=(f"{names} folders" if names else "class folders") + ignored,
        title=f"{counted(rows)} in {place.source}/",
        rows=tuple(rows),
        load=place.load,
        wording=Wording(
            source=root,
            before=root,
            remove="the folder",
            one_class="put each class in its own folder, or, if the folders one level down "
            "are the classes, name the folder that holds them",
        ),
        n_harmless=len(strays) + sum(suffix(file) in VECTOR_SUFFIXES for file in place.files),
        problems=place.problems
        + _ignored_images(place, strays)
        + empty
        + propose_series(rows, f"{place.source}/"),
    )


def _rows(folder: SplitFolder, images: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The labelled images of a split folder, and those that lie beside its class folders."""
    rows, strays = [], []
    for image in images:
        below = folder.below(image)
        if below is None:
            continue
        name, inside, _ = below.partition("/")
        if inside:  # one spelling for é, whichever system wrote the name
            label = unicodedata.normalize("NFC", name).strip()
            rows.append(Row(id=image, label=label, split=folder.split))
        else:
            strays.append(image)
    return rows, strays


def _empty_folders(place: Place, train: SplitFolder, ids: set[str]) -> tuple[Finding, ...]:
    """Class folders without a usable image; a DataError if one would be the second class."""
    paths = {path for id in ids if (path := train.below(id)) is not None}
    classes = {path.split("/")[0] for path in paths}
    media, empty = media_of(ids), dict[str, str]()
    nouns = media.nouns
    for folder in place.folders:
        below = train.below(folder)
        if below is None or not below or "/" in below or below in classes:
            continue
        kinds = sorted({suffix(f) or f for f in place.files if f.startswith(folder + "/")})
        empty[folder] = (
            f"holds only files of other kinds ({first_few(kinds)})"
            if kinds
            else f"holds no {nouns.one}"
        )
        if len(classes) < 2:
            examples = "WAV, FLAC, …" if media.is_sound else "JPEG, PNG, …"
            raise DataError(
                f"{place.source}/{folder} {empty[folder]}; a class needs at least 2 {nouns.many}. "
                f"Add some ({examples}) or remove the folder."
            )
    return unreadable(empty, f"{count(len(empty), 'class folder')} without {nouns.many} left out.")


def _ignored_images(place: Place, strays: Sequence[str]) -> tuple[Finding, ...]:
    foreign = [file for file in place.files if suffix(file) in FOREIGN_SUFFIXES]
    return unreadable(
        dict.fromkeys(strays, "lies in no class folder"),
        f"{media_of(strays).nouns.count(len(strays))} without a class folder left out.",
    ) + unreadable(
        {file: f"{suffix(file)} is not read; save it as JPEG or PNG" for file in foreign},
        f"{count(len(foreign), 'picture')} of a format that is not read left out.",
    )


def _no_image(place: Place, noun: str) -> str:
    links = "".join(f" ({finding.sentence.rstrip('.')})" for finding in place.problems)
    if not place.files:
        return f"{place.source}/ is empty{links}; put the images of each class in their own folder"
    archives = [file for file in place.files if suffix(file) in ARCHIVE_SUFFIXES]
    if archives:
        return (
            f"{place.source}/ holds no image{links}, but {archives[0]}: an archive inside is not "
            "opened; unpack it and name its folder"
        )
    kinds = sorted({suffix(file) or file for file in place.files})
    return (
        f"{place.source}/ holds no {noun}{links}, only {count(len(place.files), 'other file')} "
        f"({first_few(kinds)}); images are JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or .npy, audio "
        "clips WAV, FLAC, OGG, MP3 or AIFF"
    )
