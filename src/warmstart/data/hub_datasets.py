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
from warmstart.data.dataset import Columns, Listing, Wording, joined, some, under
from warmstart.data.image_tables import ReferencedFiles, list_table
from warmstart.data.parsing import SPLIT_VALUES
from warmstart.data.place import Place, counted
from warmstart.errors import DataError
from warmstart.nouns import count

DICT, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"


def is_saved(place: Place) -> bool:
    """True for a folder or archive that `save_to_disk` wrote, complete or not."""
    tops = {file for file in place.files if "/" not in file}
    has_shards = any(file.endswith(".arrow") for file in tops)
    return DICT in tops or {INFO, STATE} <= tops or (has_shards and bool({INFO, STATE} & tops))


def list_saved(place: Place, columns: Columns) -> Listing:
    """List a data set saved on disk: a split each for train, validation and test, or one alone.

    Ids are row numbers from 0, or the paths that the images carry, below "train/" and so on.
    Raises: DataError if a file is missing or damaged, a split is none of ours, pyarrow is not
    installed, or a table error in a split.
    """
    load_pyarrow(f"{place.shown}/")
    if DICT not in place.files:
        listing = _list_split(place, "", columns)
    else:
        parts = []
        for name in _splits(place):
            part = _list_split(place, f"{name}/", columns)
            parts.append(under(part, f"{name}/", SPLIT_VALUES[name.casefold()]))
        names = "/".join(_splits(place))
        listing = joined(parts, f"{names} of {parts[0].layout}")
    return replace(
        listing,
        name=place.name,
        title=f"{counted(listing.rows)} in {place.shown}/",
        problems=place.problems + listing.problems,
    )


def files_of(place: Place, below: str = "") -> ReferencedFiles:
    """The files of a place as a table below `below` names them; none outside the place.

    >>> place = Place(name="d", shown="d", files=("a/1.png",), folders=("a",), load=lambda _: b"")
    >>> files_of(place).exists("a/1.png"), files_of(place, "a/").inside("../../1.png")
    (True, None)
    """
    known = set(place.files)
    roots = [place.path.absolute(), place.path.resolve()] if place.path else []

    def inside(path: str) -> Callable[[], bytes] | None:
        name = posixpath.normpath(below + path)
        for root in roots:
            if PurePosixPath(path).is_relative_to(root.as_posix()):
                name = posixpath.normpath(PurePosixPath(path).relative_to(root.as_posix()))
        return partial(place.load, name) if name in known else None

    return ReferencedFiles(
        exists=lambda path: below + path in known,
        load=lambda path: place.load(below + path),
        inside=inside,
        links={link.removeprefix(below): why for link, why in place.links.items()},
    )


def _list_split(place: Place, below: str, columns: Columns) -> Listing:
    where = f"{place.shown}/{below}"
    info = _json(place, below + INFO, lambda value: class_names(value["features"]))
    shards = _json(place, below + STATE, _shards)
    missing = [shard for shard in shards if below + shard not in place.files]
    if missing:
        raise DataError(
            f"{where}{missing[0]} is missing ({len(missing)} of {count(len(shards), 'shard')}); "
            "copy the whole folder again"
        )
    sources: list[str | bytes] = [
        str(place.path / (below + shard)) if place.path else place.load(below + shard)
        for shard in shards
    ]
    listing = list_table(
        parse_streams(sources, info, where),
        shown=where,
        name=place.name,
        files=files_of(place, below),
        columns=columns,
    )
    layout = listing.layout.partition(": ")[2]
    wording = Wording(source=where, before=f'{where}: class "', after='"', remove="its rows")
    return replace(listing, layout=f"Hugging Face data set: {layout}", wording=wording)


def _json(place: Place, name: str, read: Callable[[Any], Any]) -> Any:
    if name not in place.files:
        raise DataError(
            f"{place.shown}/{name} is missing, which `save_to_disk` writes; copy the whole folder "
            "again"
        )
    try:
        return read(json.loads(place.load(name)))
    except DataError as error:
        raise DataError(f"{place.shown}/{name} {error}; save the data set again") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{place.shown}/{name} is damaged ({error}); copy the whole folder again"
        ) from error


def _shards(state: Any) -> list[str]:
    """The names in state.json; each is looked up among the listed files, never opened as it is."""
    if state.get("_indices_data_files"):
        raise DataError("selects rows in the way of an old version, which is not read")
    names = [entry["filename"] for entry in state["_data_files"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a file name is no text")
    return names


def _splits(place: Place) -> list[str]:
    """The splits that dataset_dict.json names, the training part first."""
    names: list[str] = _json(place, DICT, lambda value: [str(n) for n in value["splits"]])
    strangers = [name for name in names if name.casefold() not in SPLIT_VALUES]
    if strangers:
        raise DataError(
            f"{place.shown}/{DICT} names the split {strangers[0]!r}, which is no part (train, "
            f"validation, test); name one split alone, such as {place.shown}/{strangers[0]}"
        )
    if not any(SPLIT_VALUES[name.casefold()] == "train" for name in names):
        raise DataError(
            f"{place.shown}/{DICT} has no train split, only {some(names) or 'none'}; add it, or "
            "name one split alone"
        )
    order = ("train", "holdout", "test")
    return sorted(names, key=lambda name: order.index(SPLIT_VALUES[name.casefold()]))
