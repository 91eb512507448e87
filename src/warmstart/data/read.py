"""Read any layout of labelled images once: list, hash, check."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from warmstart.data.collection import (
    Collection,
    Columns,
    Listing,
    check_classes,
    check_known,
    count,
    some,
    unreadable,
)
from warmstart.data.sources import Source, list_source
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.records import DataRecord, Example, Finding

STEP = 500  # files between two events


def read(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    test: Source | None = None,
) -> Steps[Collection]:
    """Read labelled images: list them, hash their bytes, check their classes.

    `source` is a folder of class folders, one with train/, val/ and test/, a CSV, TSV or JSON
    lines table, a zip or tar of those, `sample:digits`, or arrays (X, y). `label` and `group`
    name columns of a table. `test` is another source, whose ids then begin with "test/".
    Yields events of stage "read". Files that cannot be read are left out and listed.
    Raises: DataError if the data cannot be used as it is.

    >>> from warmstart.events import drain
    >>> drain(read("sample:digits")).record.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group)
    listing = list_source(source, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    _check_columns(listing, columns)
    check_known(listing.rows, check_classes(listing.rows, listing.wording), listing.wording)
    examples, lost = yield from _hashed(listing)
    classes = check_classes(examples, listing.wording)
    yield Event(
        stage="read",
        kind="end",
        step=len(listing.rows),
        of=len(listing.rows),
        values={"examples": len(examples), "classes": len(classes)},
    )
    record = DataRecord(
        name=listing.name,
        kind="image",
        task="classify",
        layout=listing.layout,
        classes=classes,
        examples=examples,
        problems=listing.problems + lost,
    )
    return Collection(
        record=record, load=listing.load, title=listing.title, wording=listing.wording
    )


def read_for_scoring(
    source: Source,
    classes: Sequence[str],
    *,
    label: str | None = None,
    group: str | None = None,
) -> Steps[Collection]:
    """Read labelled images that a finished model will be scored on: its test part, else all.

    One class, or one image, is enough here. Every example comes back with split "test".
    Raises: DataError if there is no image, or a label is none of the model's classes.
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group)
    listing = list_source(source, columns)
    _check_columns(listing, columns)
    tests = [row for row in listing.rows if row.split == "test"] or listing.rows
    strangers = sorted({row.label for row in tests} - set(classes))
    if not tests:
        raise DataError(
            f"{listing.wording.source} holds no labelled image; name a folder that does"
        )
    if strangers:
        raise DataError(
            f"{listing.wording.source} has the class {strangers[0]!r}, which this model does not "
            f"know. It knows: {some(classes)}. Rename or leave out that class."
        )
    listing = replace(listing, rows=tuple(replace(row, split="test") for row in tests))
    examples, lost = yield from _hashed(listing)
    yield Event(stage="read", kind="end", step=len(examples), of=len(tests))
    record = DataRecord(
        name=listing.name, kind="image", task="classify", layout=listing.layout,
        classes=tuple(classes), examples=examples, problems=listing.problems + lost,
    )  # fmt: skip
    return Collection(
        record=record, load=listing.load, title=listing.title, wording=listing.wording
    )


def with_test(listing: Listing, test: Listing) -> Listing:
    """Join a listing and another source that becomes its test part.

    Raises: DataError if either has a test part of its own.
    """
    if any(row.split == "test" for row in listing.rows):
        raise DataError(
            f"{listing.wording.source} has a test part already; leave --test away, "
            "or name its train folder alone"
        )
    if any(row.split != "train" for row in test.rows):
        raise DataError(
            f"{test.wording.source} given with --test has parts of its own; name one of them"
        )
    taken = {row.id for row in listing.rows}
    prefix = "test/"
    while any(prefix + row.id in taken for row in test.rows):
        prefix += "test/"
    rows = tuple(replace(row, id=prefix + row.id, split="test") for row in test.rows)
    return replace(
        listing,
        rows=listing.rows + rows,
        load=_joined(listing.load, test.load, {row.id: len(prefix) for row in rows}),
        layout=f"{listing.layout}; test: {test.layout}",
        is_table=listing.is_table or test.is_table,
        problems=listing.problems + test.problems,
    )


def _check_columns(listing: Listing, columns: Columns) -> None:
    if not listing.is_table and (columns.label or columns.group):
        option = f"--label {columns.label}" if columns.label else f"--group {columns.group}"
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is no table; leave it away"
        )


def _joined(
    main: Callable[[str], bytes], test: Callable[[str], bytes], cut: dict[str, int]
) -> Callable[[str], bytes]:
    def load(id: str) -> bytes:
        return test(id[cut[id] :]) if id in cut else main(id)

    return load


def _hashed(listing: Listing) -> Steps[tuple[tuple[Example, ...], tuple[Finding, ...]]]:
    """Hash every file in one pass; what cannot be read becomes a finding."""
    examples, lost = [], {}
    for done, row in enumerate(listing.rows):
        if done % STEP == 0:
            yield Event(stage="read", kind="step", step=done, of=len(listing.rows))
        try:
            payload = listing.load(row.id)
        except DataError as error:
            lost[row.id] = str(error)
            continue
        examples.append(
            Example(
                id=row.id,
                label=row.label,
                split=row.split,
                sha256=hashlib.sha256(payload).hexdigest(),
                group=row.group,
            )
        )
    sentence = f"{count(len(lost), 'file')} could not be read and left out."
    return tuple(examples), unreadable(lost, sentence)
