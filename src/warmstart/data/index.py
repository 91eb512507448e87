"""The cleaned index: what is kept, what is left out and why, as a table that can be given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from warmstart.data.collection import Collection
from warmstart.data.labelling import check_known, check_left
from warmstart.errors import DataError, RunFolderError
from warmstart.folder import write_csv
from warmstart.words import nouns_of

COLUMNS = ("path", "label", "split", "group", "note")


def drop(collection: Collection, dropped: Mapping[str, str]) -> Collection:
    """The collection without some examples; `dropped` maps their ids to reasons.

    Raises: DataError if an id is unknown, a class is gone, or is left with fewer than 2 training
    images.
    """
    _check_ids(collection, dropped)
    record = collection.record
    examples = tuple(example for example in record.examples if example.id not in dropped)
    lost = nouns_of(record.kind).count(len(dropped))
    why = f"nothing is left of it when {lost} are dropped; add others"
    classes = check_left(record.classes, examples, collection.wording, why, record.task)
    check_known(examples, classes, collection.wording, record.task)
    return replace(collection, record=replace(record, classes=classes, examples=examples))


def index_rows(collection: Collection, dropped: Mapping[str, str]) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` for each example; one that is dropped has no label, and says why.

    Raises: DataError if an id in `dropped` is unknown.
    """
    _check_ids(collection, dropped)
    return [
        (
            example.id,
            "" if example.id in dropped else example.label,
            example.split,
            example.group or "",
            dropped.get(example.id, ""),
        )
        for example in collection.record.examples
    ]


def write_index(path: Path, collection: Collection, dropped: Mapping[str, str]) -> None:
    """Write the whole data set as CSV (RFC 4180); `--relabel` with it gives what `drop` gives.

    Written whole or not at all; nothing else is touched.
    Raises: DataError if an id is unknown, RunFolderError if the file cannot be written.
    """
    rows = index_rows(collection, dropped)
    try:
        write_csv(path, COLUMNS, rows)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); free space there or choose "
            "another place"
        ) from error


def _check_ids(collection: Collection, dropped: Mapping[str, str]) -> None:
    unknown = dropped.keys() - {example.id for example in collection.record.examples}
    if unknown:
        raise DataError(
            f"{min(unknown)} is to be dropped, but {collection.record.name} holds no such "
            f"{nouns_of(collection.record.kind).one}"
        )
