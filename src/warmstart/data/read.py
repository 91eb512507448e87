"""Read any layout of labelled images once: list, hash, check."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from warmstart.data.collection import (
    Asked,
    Collection,
    Columns,
    Listing,
    count,
    joined,
    some,
    under,
    unreadable,
)
from warmstart.data.labelling import (
    AskedTask,
    Labelling,
    check_known,
    labelling_for,
    labelling_of,
)
from warmstart.data.lost import check_lost
from warmstart.data.relabel import apply_relabel
from warmstart.data.sources import Source, list_source, load_table
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.records import DataRecord, Example, Finding, Task

STEP = 500  # files between two events


def read(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    test: Source | None = None,
    relabel: str | os.PathLike[str] | None = None,
    text: str | None = None,
    kind: Asked = "auto",
    task: AskedTask = "auto",
    strict: bool = False,
) -> Steps[Collection]:
    """Read labelled examples: list them, hash their bytes, check their classes.

    `source` is a folder of class folders, one with train/, val/ and test/, a CSV, TSV, JSON
    lines or Parquet table, a zip or tar of those, a data set that `datasets` saved on disk,
    `sample:digits`, arrays (X, y), a DataFrame, or a torchvision ImageFolder. `label` and
    `group` name columns of a table, and `text` that of the texts. `kind` says what the examples
    are where that is not to be told from the data. `test` is another source, whose ids then
    begin with "test/". `relabel` is a table of corrections by id: see `relabel.py`. `task` says
    what the labels are; "auto" finds out: see `labelling.py`.
    Yields events of stage "read". Files that cannot be read are left out and listed, up to a
    tenth of the data; with `strict` the first one is an error.
    Raises: DataError if the data cannot be used as it is.

    >>> from warmstart.events import drain
    >>> drain(read("sample:digits")).record.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = listed(source, columns, test)
    labelling = labelling_for(task, listing)
    listing = labelling.settled(listing)
    if relabel is not None:
        shown = os.fspath(relabel)
        listing = apply_relabel(
            listing, load_table(Path(shown).expanduser(), shown), shown, labelling
        )
    check_known(listing.rows, _outputs(labelling, listing), listing.wording, labelling.task)
    examples, lost = yield from _hashed(listing, strict)
    classes = labelling.check(examples, listing.wording, listing.outputs)
    n = len(listing.rows)
    values: dict[str, float | int | str] = {"examples": len(examples), "classes": len(classes)}
    yield Event(stage="read", kind="end", step=n, of=n, values=values)
    return _collection(listing, examples, classes, lost, labelling.task, strict)


def _outputs(labelling: Labelling, listing: Listing) -> tuple[str, ...]:
    return labelling.check(listing.rows, listing.wording, listing.outputs)


def read_for_scoring(
    source: Source,
    classes: Sequence[str],
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
    kind: Asked = "auto",
    task: Task = "classify",
) -> Steps[Collection]:
    """Read labelled examples that a finished model will be scored on: its test part, else all.

    One class, or one image, is enough here. Every example comes back with split "test".
    Raises: DataError if there is no image, or a label is none of the model's classes.
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = listed(source, columns, None)
    labelling = labelling_of(task)
    listing = labelling.settled(replace(listing, doubt=""))
    tests = [row for row in listing.rows if row.split == "test"] or listing.rows
    strangers = sorted({n for row in tests for n in labelling.names(row.label)} - set(classes))
    if not tests:
        raise DataError(
            f"{listing.wording.source} holds no labelled {listing.wording.noun}; name a folder "
            "that does"
        )
    if strangers:
        raise DataError(
            f"{listing.wording.source} has the class {strangers[0]!r}, which this model does not "
            f"know. It knows: {some(classes)}. Rename or leave out that class."
        )
    listing = replace(listing, rows=tuple(replace(row, split="test") for row in tests))
    examples, lost = yield from _hashed(listing, strict=False)
    yield Event(stage="read", kind="end", step=len(examples), of=len(tests))
    return _collection(listing, examples, tuple(classes), lost, task, strict=False)


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
    layout = f"{listing.layout}; test: {test.layout}"
    return joined((listing, under(test, prefix, "test")), layout)


def listed(source: Source, columns: Columns, test: Source | None) -> Listing:
    """List labelled images, with another source as their test part; no file is opened.

    Raises: DataError if there is no such thing, or it has no such column.
    """
    listing = list_source(source, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    _check_columns(listing, columns)
    return listing


def _collection(
    listing: Listing,
    examples: tuple[Example, ...],
    classes: tuple[str, ...],
    lost: tuple[Finding, ...],
    task: Task,
    strict: bool,
) -> Collection:
    record = DataRecord(
        name=listing.name,
        kind=listing.kind,
        task=task,
        layout=listing.layout,
        classes=classes,
        examples=examples,
        problems=listing.problems + lost,
    )
    return Collection(
        record=record, load=listing.load, title=listing.title, wording=listing.wording,
        spared=listing.spared, strict=strict,
    )  # fmt: skip


def _check_columns(listing: Listing, columns: Columns) -> None:
    said = (("label", columns.label), ("group", columns.group), ("text", columns.text))
    option = next((f"--{name} {column}" for name, column in said if column), "")
    if not listing.is_table and option:
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is no table; leave it away"
        )


def _hashed(
    listing: Listing, strict: bool
) -> Steps[tuple[tuple[Example, ...], tuple[Finding, ...]]]:
    """Hash every file in one pass; what cannot be read becomes a finding.

    Raises: DataError where that is too much, or, with `strict`, anything.
    """
    source = listing.wording.source
    if strict:
        check_lost(listing.problems, len(listing.rows), source, strict=True)
    examples, lost = [], {}
    known: dict[str, str] = {}  # labels: one text for all examples of a class
    for done, row in enumerate(listing.rows):
        if done % STEP == 0:
            yield Event(stage="read", kind="step", step=done, of=len(listing.rows))
        try:
            payload = listing.load(row.id)
        except DataError as error:
            lost[row.id] = str(error)
            if strict:
                break
            continue
        examples.append(
            Example(
                id=row.id,
                label=known.setdefault(row.label, row.label),
                split=row.split,
                sha256=hashlib.sha256(payload).hexdigest(),
                group=row.group,
            )
        )
    sentence = f"{count(len(lost), 'file')} could not be read and left out."
    finding = unreadable(lost, sentence)
    check_lost(
        (*listing.problems, *finding), len(examples), source, strict=strict,
        spared=listing.spared,
    )  # fmt: skip
    return tuple(examples), finding
