"""Tables inside a folder or archive: which one decides, and what it may name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from warmstart.data.arrow import parse_parquet
from warmstart.data.collection import Columns, Listing, count, joined, under, unreadable
from warmstart.data.columns import LABEL_NAMES
from warmstart.data.kinds import counted
from warmstart.data.labelcells import label_column
from warmstart.data.parsing import Table, parse
from warmstart.data.parts import SPLITS, find_parts
from warmstart.data.place import MEDIA_SUFFIXES, TABLE_SUFFIXES, Place, suffix
from warmstart.data.saved import files_of
from warmstart.data.tables import list_table
from warmstart.errors import DataError

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
    tables = _metadata_of_parts(place)
    if tables and _decides(place, next(iter(tables.values())), images, columns):
        return _list_parts(place, tables, columns)
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


def _metadata_of_parts(place: Place) -> dict[str, str]:
    """The table of each train/, val/ or test/ folder that has one called metadata.*."""
    found: dict[str, str] = {}
    for file in place.files:
        folder, _, name = file.partition("/")
        is_metadata = name.lower().startswith("metadata.") and suffix(name) in TABLE_SUFFIXES
        if is_metadata and folder.casefold() in SPLITS:
            found.setdefault(folder, file)
    return found


def _list_parts(place: Place, tables: Mapping[str, str], columns: Columns) -> Listing:
    parts = find_parts(place.shown, sorted(tables))
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
    order = [part.path for part in find_parts(place.shown, sorted({*shards.values()}))]
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
        listings[0], spared=listings[0].spared + len(bare),
        problems=listings[0].problems
        + unreadable(bare, f"{count(len(bare), 'table')} without labels left out."),
    )  # fmt: skip
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
