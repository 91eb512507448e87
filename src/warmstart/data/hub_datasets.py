"""Data sets that Hugging Face's `datasets` saved on disk, read with pyarrow alone.

`Dataset.save_to_disk` writes dataset_info.json (features), state.json (names of the shards) and
the shards as Arrow IPC streams; `DatasetDict.save_to_disk` writes dataset_dict.json and one
such folder a split. Source: `datasets/arrow_dataset.py`, `datasets/dataset_dict.py`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from warmstart.data.arrow import class_names, load_pyarrow, parse_streams
from warmstart.data.dataset import Columns, Listing, as_split, concatenate
from warmstart.data.parsing import SPLIT_ORDER, SPLIT_VALUES
from warmstart.data.place import Place, counted
from warmstart.data.tables import ReferencedFiles, list_table
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.nouns import Wording, count

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
        listing = _list_split(place, "", columns)
    else:
        splits = _splits(place)
        listings = [
            as_split(
                _list_split(place, f"{name}/", columns), f"{name}/", SPLIT_VALUES[name.casefold()]
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


def _list_split(place: Place, below: str, columns: Columns) -> Listing:
    where = f"{place.source}/{below}"
    names = _read_json(place, below + INFO, lambda value: class_names(value["features"]))
    shards = _read_json(place, below + STATE, _shards)
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


def _shards(state: Any) -> list[str]:
    """The names in state.json; each is looked up among the listed files, never opened directly."""
    if state.get("_indices_data_files"):
        raise DataError("selects rows as an old version did, which is not supported")
    names = [entry["filename"] for entry in state["_data_files"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a file name is not a text")
    return names


def _splits(place: Place) -> list[str]:
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
