"""Which layout a place has: class folders, train/val/test folders, or a table inside."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from warmstart.data.arrow import parse_parquet
from warmstart.data.dataset import Columns, Listing, Row, Wording, joined, some, under, unreadable
from warmstart.data.hub_datasets import files_of, is_saved, list_saved
from warmstart.data.image_tables import list_table
from warmstart.data.labels import label_column
from warmstart.data.parsing import LABEL_NAMES, Table, parse
from warmstart.data.place import (
    ARCHIVE_SUFFIXES,
    DRAWN_SUFFIXES,
    FOREIGN_SUFFIXES,
    MEDIA_SUFFIXES,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    Place,
    counted,
    media_among,
    noun_of,
    suffix,
)
from warmstart.data.splits import propose_series
from warmstart.errors import DataError
from warmstart.modalities.text import normal_of
from warmstart.nouns import count
from warmstart.records.data import Finding, Split

# ---- Which folders are the training, hold-out and test part, by their names.


SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class SplitFolder:
    """One folder of class folders; `path` is "" for the place itself."""

    path: str
    split: Split

    def below(self, file: str) -> str | None:
        """The path of a file as seen from here, None if it lies elsewhere."""
        if not self.path:
            return file
        return file[len(self.path) + 1 :] if file.startswith(self.path + "/") else None


def find_splits(shown: str, tops: Sequence[str]) -> list[SplitFolder]:
    """The parts among the top folders, the training part first; the place itself if none is one.

    Raises: DataError if there is a part but none to train on, or a folder beside the parts.

    >>> [part.split for part in find_splits("photos", ["test", "train"])]
    ['train', 'test']
    >>> find_splits("photos", ["bus", "car", "train"])
    [SplitFolder(path='', split='train')]
    """
    known = [SplitFolder(top, SPLITS[top.casefold()]) for top in tops if top.casefold() in SPLITS]
    splits = {part.split for part in known}
    others = [top for top in tops if top.casefold() not in SPLITS]
    if len(splits) > 1 and "train" in splits and others:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but also "
            f"{some(top + '/' for top in others)}, which is no part; move it elsewhere"
        )
    if others or not known:  # "train" may also be a class, beside "bus" and "car"
        return [SplitFolder("", "train")]
    if "train" not in splits:
        raise DataError(
            f"{shown}/ holds {' and '.join(part.path + '/' for part in known)} but no train/; "
            "add it, or name the folder that holds the class folders"
        )
    order = ("train", "holdout", "test")
    return sorted(known, key=lambda part: order.index(part.split))


# ---- Tables inside a folder or archive: which one decides, and what it may name.


# As on the Hugging Face Hub: data/train-00000-of-00002.parquet, test.parquet, test/0001.parquet;
# and train.csv beside test.csv.
_SHARD = re.compile(
    r"(?:data/)?([a-z]+)(?:(?:-\d+-of-\d+)?|/[^/]+)\.(?:parquet|csv|tsv|jsonl)", re.IGNORECASE
)


def list_inner_tables(place: Place, images: Sequence[str], columns: Columns) -> Listing | None:
    """The listing of the tables in a place, or None if none of them decides.

    One called metadata.* does, at the top or in each of train/, val/ and test/, unless it has no
    labels and there are class folders. Without class folders, so do the only table at the top,
    tables called train, val or test or lying in folders called so, and Parquet files whose names
    differ in a number alone: they are one table in pieces.
    Raises: DataError if such a table cannot be used, or a part has none.
    """
    table = _top_table(place, images)
    if table is not None and _decides(place, table, images, columns):
        listing = _list_one(place, _parse(place, table), table, columns)
        return replace(listing, problems=place.problems + listing.problems)
    tables = _metadata_of_splits(place)
    if tables and _decides(place, next(iter(tables.values())), images, columns):
        return _list_splits(place, tables, columns)
    shards = {} if _in_class_folders(images) else _shards(place, has_images=bool(images))
    return _list_shards(place, shards, columns) if shards else None


def _top_table(place: Place, images: Sequence[str]) -> str | None:
    tables = [f for f in place.files if "/" not in f and suffix(f) in TABLE_SUFFIXES]
    for table in tables:
        if table.lower().startswith("metadata."):
            return table
    return tables[0] if len(tables) == 1 and not _has_classes(images) else None


def _has_classes(images: Sequence[str]) -> bool:
    tops = {image.split("/")[0] for image in images if "/" in image}
    if len(tops) == 1:  # train/ alone is a layout if it has folders of its own
        return tops.pop().casefold() == "train" and any(i.count("/") > 1 for i in images)
    return len(tops) > 1


def _decides(place: Place, table: str, images: Sequence[str], columns: Columns) -> bool:
    """False for a table without labels beside class folders: those hold the labels then."""
    if not _in_class_folders(images) or columns.label:
        return True
    return any(c.casefold() in LABEL_NAMES for c in _parse(place, table).columns)


def _in_class_folders(images: Sequence[str]) -> bool:
    """Whether images lie in two folders or more, those of parts not counted."""
    parts = [image.split("/") for image in images]
    inner = [names[1:] if names[0].casefold() in SPLITS else names for names in parts]
    return len({names[0] for names in inner if len(names) > 1}) > 1


def _parse(place: Place, table: str) -> Table:
    shown = f"{place.shown}/{table}"
    is_parquet = suffix(table) == ".parquet"
    if is_parquet and place.path is not None:
        return parse_parquet(place.path / table, shown)  # it may be larger than memory
    try:
        payload = place.load(table)
    except DataError as error:
        raise DataError(f"{shown} {error}; copy it again, or remove it") from error
    return parse_parquet(payload, shown) if is_parquet else parse(payload, shown)


def _list_one(place: Place, table: Table, file: str, columns: Columns) -> Listing:
    folder = file.rpartition("/")[0]
    return list_table(
        table,
        shown=f"{place.shown}/{file}",
        name=place.name,
        files=files_of(place, f"{folder}/" if folder else ""),
        columns=columns,
    )


def _metadata_of_splits(place: Place) -> dict[str, str]:
    """The table of each train/, val/ or test/ folder that has one called metadata.*."""
    found: dict[str, str] = {}
    for file in place.files:
        folder, _, name = file.partition("/")
        is_metadata = name.lower().startswith("metadata.") and suffix(name) in TABLE_SUFFIXES
        if is_metadata and folder.casefold() in SPLITS:
            found.setdefault(folder, file)
    return found


def _list_splits(place: Place, tables: Mapping[str, str], columns: Columns) -> Listing:
    parts = find_splits(place.shown, sorted(tables))
    with_images = {file.split("/")[0] for file in place.files if suffix(file) in MEDIA_SUFFIXES}
    bare = sorted(f for f in with_images - set(tables) if f.casefold() in SPLITS)
    if bare:
        first = next(iter(tables.values()))
        raise DataError(
            f"{place.shown}/{bare[0]} has no metadata.csv, but there is {place.shown}/{first}; "
            "add one, or move the folder elsewhere"
        )
    listings = [
        under(
            _list_one(place, _parse(place, tables[part.path]), tables[part.path], columns),
            f"{part.path}/",
            part.split,
        )
        for part in parts
    ]
    names = "/".join(part.path for part in parts)
    return _whole(place, listings, f"{names} folders, each with {listings[0].layout}")


def _part_of(file: str) -> str:
    """The part that a table is called after, "" if it is none.

    >>> _part_of("data/train-00000-of-00002.parquet"), _part_of("dev.csv"), _part_of("cats.csv")
    ('train', 'dev', '')
    """
    match = _SHARD.fullmatch(file)
    return match[1] if match and match[1].casefold() in SPLITS else ""


def _shards(place: Place, *, has_images: bool) -> dict[str, str]:
    """Tables that are pieces of one data set, and the part of each.

    Beside images only tables at the top are: those in folders may be notes of the images there.
    """
    files = [file for file in place.files if not has_images or "/" not in file]
    found = {file: part for file in files if (part := _part_of(file))}
    if found:
        _check_twice(place, found)
        return found
    if has_images:
        return {}
    tables = [file for file in place.files if suffix(file) in TABLE_SUFFIXES]
    names = {re.sub(r"\d+", "0", file.lower()) for file in tables}
    is_one = len(tables) > 1 and len(names) == 1 and names.pop().endswith(".parquet")
    return dict.fromkeys(tables, "train") if is_one else {}


def _check_twice(place: Place, shards: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for file in shards:
        stem = str(PurePosixPath(file).with_suffix(""))
        if first.setdefault(stem, file) != file:
            raise DataError(
                f"{place.shown}/ holds {first[stem]} and {file}, two tables of one part; remove one"
            )


def _has_labels(table: Table, shown: str, columns: Columns) -> bool:
    try:
        label_column(table, columns, shown)
    except DataError:
        return False
    return True


def _list_shards(place: Place, shards: Mapping[str, str], columns: Columns) -> Listing:
    order = [part.path for part in find_splits(place.shown, sorted({*shards.values()}))]
    listings, bare = [], dict[str, str]()
    for shard in sorted(shards, key=lambda shard: (order.index(shards[shard]), shard)):
        split = SPLITS[shards[shard].casefold()]
        table, shown = _parse(place, shard), f"{place.shown}/{shard}"
        if split != "train" and not _has_labels(table, shown, columns):
            bare[shard] = "has no labels"  # what a competition is to be answered on
            continue
        stem = PurePosixPath(shard.removeprefix("data/")).with_suffix("")
        listings.append(under(_list_one(place, table, shard, columns), f"{stem}/", split))
    listings[0] = replace(
        listings[0],
        spared=listings[0].spared + len(bare),
        problems=listings[0].problems
        + unreadable(bare, f"{count(len(bare), 'table')} without labels left out."),
    )
    names = "/".join(part for part in order if not {f for f in bare if shards[f] == part})
    is_parquet = all(suffix(shard) == ".parquet" for shard in shards)
    form = "as Parquet" if is_parquet else "tables"
    return _whole(place, listings, f"{names} {form}, each {listings[0].layout}")


def _whole(place: Place, listings: Sequence[Listing], layout: str) -> Listing:
    listing = joined(listings, layout)
    return replace(
        listing,
        title=f"{counted(listing.rows)} in {place.shown}/",
        problems=place.problems + listing.problems,
    )


def list_place(place: Place, columns: Columns) -> Listing:
    """Find the layout of a folder or archive and list its rows.

    A data set saved by `datasets` is known by its files. Then come tables that decide (see
    `inner.py`), then train/val/test folders, then class folders.
    Raises: DataError if no layout fits, naming what is there and what to do.
    """
    if is_saved(place):
        return list_saved(place, columns)
    images = media_among(place.files, columns.kind)
    listing = list_inner_tables(place, images, columns)
    if listing is not None:
        return listing
    texts = _texts(place, images, columns)
    if texts:
        return _as_texts(_list_class_folders(place, texts), place)
    if not images:
        raise DataError(_no_image(place, "clip" if columns.kind == "audio" else "image"))
    return _list_class_folders(place, images)


def _texts(place: Place, images: Sequence[str], columns: Columns) -> list[str]:
    """The files of texts, where these are what the folder is about."""
    found = [file for file in place.files if suffix(file) in TEXT_SUFFIXES]
    if columns.kind == "text":
        return found
    in_folders = [file for file in found if "/" in file]
    return in_folders if columns.kind == "auto" and not images else []


def _as_texts(listing: Listing, place: Place) -> Listing:
    """The same listing in words for texts."""
    return replace(
        listing,
        kind="text",
        title=f"{count(len(listing.rows), 'text')} in {place.shown}/",
        load=lambda id: normal_of(place.load(id)).encode(),
        wording=replace(listing.wording, noun="text"),
    )


def class_of(folder: str) -> str:
    """A folder's name as a class name: one spelling for é, whichever system wrote it.

    >>> class_of("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", folder).strip()


def _list_class_folders(place: Place, images: Sequence[str]) -> Listing:
    tops = sorted({image.split("/")[0] for image in images if "/" in image})
    parts = find_splits(place.shown, tops)
    rows: list[Row] = []
    strays: list[str] = []
    for part in parts:
        found, homeless = _rows(part, images)
        if not found:
            raise DataError(_no_class(place.shown, part, homeless))
        rows += found
        strays += homeless
    train = next(part for part in parts if part.split == "train")
    empty = _empty_folders(place, train, {row.id for row in rows})
    in_splits = {row.id for row in rows} | set(strays)
    strays += [image for image in images if image not in in_splits]
    n_others = len(place.files) - len(images)
    ignored = f" ({count(n_others, 'other file')} ignored)" if n_others else ""
    names = "/".join(part.path for part in parts)
    return Listing(
        name=place.name,
        layout=(f"{names} folders" if names else "class folders") + ignored,
        title=f"{counted(rows)} in {place.shown}/",
        rows=tuple(rows),
        load=place.load,
        wording=_wording(place.shown, train),
        spared=len(strays) + sum(suffix(file) in DRAWN_SUFFIXES for file in place.files),
        problems=place.problems
        + _passed_over(place, strays)
        + empty
        + propose_series(rows, f"{place.shown}/"),
    )


def _rows(part: SplitFolder, images: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The labelled images of a part, and those that lie beside its class folders."""
    rows, strays = [], []
    for image in images:
        below = part.below(image)
        if below is None:
            continue
        folder, inside, _ = below.partition("/")
        if inside:
            rows.append(Row(id=image, label=class_of(folder), split=part.split))
        else:
            strays.append(image)
    return rows, strays


def _empty_folders(place: Place, train: SplitFolder, ids: set[str]) -> tuple[Finding, ...]:
    """Class folders without a usable image, as a finding.

    Raises: DataError where they would have been the second class.
    """
    filled = {part for id in ids if (part := train.below(id)) is not None}
    classes = {below.split("/")[0] for below in filled}
    noun, empty = noun_of(ids), dict[str, str]()
    for folder in place.folders:
        below = train.below(folder)
        if below is None or not below or "/" in below or below in classes:
            continue
        found = sorted({suffix(f) or f for f in place.files if f.startswith(folder + "/")})
        empty[folder] = (
            f"holds only files of other kinds ({some(found)})" if found else f"holds no {noun}"
        )
        if len(classes) < 2:
            such = "WAV, FLAC, …" if noun == "clip" else "JPEG, PNG, …"
            raise DataError(
                f"{place.shown}/{folder} {empty[folder]}; a class needs at least 2 {noun}s. "
                f"Add some ({such}) or remove the folder."
            )
    sentence = f"{count(len(empty), 'class folder')} without {noun}s left out."
    return unreadable(empty, sentence)


def _wording(shown: str, train: SplitFolder) -> Wording:
    root = f"{shown}/{train.path}" if train.path else shown
    return Wording(
        source=f"{root}/",
        before=f"{root}/",
        remove="the folder",
        one_class="put each class in a folder of its own, or, if the folders one level down "
        "are the classes, name the folder that holds them",
    )


def _passed_over(place: Place, strays: Sequence[str]) -> tuple[Finding, ...]:
    foreign = [file for file in place.files if suffix(file) in FOREIGN_SUFFIXES]
    return unreadable(
        dict.fromkeys(strays, "lies in no class folder"),
        f"{count(len(strays), noun_of(strays))} without a class folder left out.",
    ) + unreadable(
        {file: f"{suffix(file)} is not read; save it as JPEG or PNG" for file in foreign},
        f"{count(len(foreign), 'picture')} of a kind that is not read left out.",
    )


def _no_image(place: Place, noun: str) -> str:
    links = "".join(f" ({finding.sentence.rstrip('.')})" for finding in place.problems)
    if not place.files:
        return (
            f"{place.shown}/ is empty{links}; put the images of each class in a folder of its own"
        )
    archives = [file for file in place.files if suffix(file) in ARCHIVE_SUFFIXES]
    if archives:
        return (
            f"{place.shown}/ holds no image{links}, but {archives[0]}: an archive inside is not "
            "opened; unpack it and name its folder"
        )
    kinds = sorted({suffix(file) or file for file in place.files})
    return (
        f"{place.shown}/ holds no {noun}{links}, only {count(len(place.files), 'other file')} "
        f"({some(kinds)}); images are JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or .npy, sounds WAV, "
        "FLAC, OGG, MP3 or AIFF"
    )


def _no_class(shown: str, part: SplitFolder, strays: Sequence[str]) -> str:
    where = f"{shown}/{part.path}" if part.path else f"{shown}/"
    return (
        f"{where} holds {count(len(strays), noun_of(strays))} but no class folders; "
        "put each class in its own folder"
    )
