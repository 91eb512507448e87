"""Tables inside a folder or archive: which one decides, and what it may name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from warmstart.data.arrow import parse_parquet
from warmstart.data.collection import Columns, Listing, joined, under
from warmstart.data.columns import LABEL_NAMES
from warmstart.data.kinds import counted
from warmstart.data.parsing import Table, parse
from warmstart.data.parts import SPLITS, find_parts
from warmstart.data.place import MEDIA_SUFFIXES, TABLE_SUFFIXES, Place, suffix
from warmstart.data.saved import files_of
from warmstart.data.tables import list_table
from warmstart.errors import DataError

# As on the Hugging Face Hub: data/train-00000-of-00002.parquet, test.parquet, test/0001.parquet.
_SHARD = re.compile(r"(?:data/)?([a-z]+)(?:(?:-\d+-of-\d+)?|/[^/]+)\.parquet", re.IGNORECASE)


def list_inner_tables(place: Place, images: Sequence[str], columns: Columns) -> Listing | None:
    """The listing of the tables in a place, or None if none of them decides.

    One called metadata.* does, at the top or in each of train/, val/ and test/, unless it has no
    labels and there are class folders. Without class folders, so do the only table at the top,
    Parquet files called train, val or test or lying in folders called so, and Parquet files
    whose names differ in a number alone: they are one table in pieces.
    Raises: DataError if such a table cannot be used, or a part has none.
    """
    table = _top_table(place, images)
    if table is not None and _decides(place, table, images, columns):
        listing = _list_one(place, table, columns)
        return replace(listing, problems=place.problems + listing.problems)
    tables = _metadata_of_parts(place)
    if tables and _decides(place, next(iter(tables.values())), images, columns):
        return _list_parts(place, tables, columns)
    shards = {} if images else _shards(place)
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
    parts = [image.split("/") for image in images]
    inner = [names[1:] if names[0].casefold() in SPLITS else names for names in parts]
    if len({names[0] for names in inner if len(names) > 1}) < 2 or columns.label:
        return True
    return any(c.casefold() in LABEL_NAMES for c in _parse(place, table).columns)


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


def _list_one(place: Place, table: str, columns: Columns) -> Listing:
    folder = table.rpartition("/")[0]
    return list_table(
        _parse(place, table),
        shown=f"{place.shown}/{table}",
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
        under(_list_one(place, tables[part.path], columns), f"{part.path}/", part.split)
        for part in parts
    ]
    names = "/".join(part.path for part in parts)
    return _whole(place, listings, f"{names} folders, each with {listings[0].layout}")


def _part_of(file: str) -> str:
    """The part that a Parquet file is called after, "" if it is none.

    >>> _part_of("data/train-00000-of-00002.parquet"), _part_of("cats.parquet")
    ('train', '')
    """
    match = _SHARD.fullmatch(file)
    return match[1] if match and match[1].casefold() in SPLITS else ""


def _shards(place: Place) -> dict[str, str]:
    """Parquet files that are pieces of one data set, and the part of each."""
    found = {file: part for file in place.files if (part := _part_of(file))}
    if found:
        return found
    tables = [file for file in place.files if suffix(file) in TABLE_SUFFIXES]
    names = {re.sub(r"\d+", "0", file.lower()) for file in tables}
    is_one = len(tables) > 1 and len(names) == 1 and names.pop().endswith(".parquet")
    return dict.fromkeys(tables, "train") if is_one else {}


def _list_shards(place: Place, shards: Mapping[str, str], columns: Columns) -> Listing:
    order = [part.path for part in find_parts(place.shown, sorted({*shards.values()}))]
    listings = [
        under(
            _list_one(place, shard, columns),
            f"{PurePosixPath(shard.removeprefix('data/')).with_suffix('')}/",
            SPLITS[shards[shard].casefold()],
        )
        for shard in sorted(shards, key=lambda shard: (order.index(shards[shard]), shard))
    ]
    return _whole(place, listings, f"{'/'.join(order)} as Parquet, each {listings[0].layout}")


def _whole(place: Place, listings: Sequence[Listing], layout: str) -> Listing:
    listing = joined(listings, layout)
    return replace(
        listing,
        title=f"{counted(listing.rows)} in {place.shown}/",
        problems=place.problems + listing.problems,
    )
