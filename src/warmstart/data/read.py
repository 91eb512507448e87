"""Read any layout of labelled examples once: list, hash, check."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from warmstart.data.dataset import (
    Collection,
    Columns,
    Listing,
    Row,
    as_split,
    check_unreadable,
    concatenate,
    unreadable,
)
from warmstart.data.labels import (
    check_labels,
    check_split_labels,
    normalise,
    task_for,
)
from warmstart.data.parsing import LABEL_NAMES, PATH_NAMES, find_column, parse
from warmstart.data.sources import Source, list_source, load_table
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.formatting import first_few
from warmstart.nouns import count
from warmstart.records.data import DataRecord, Example, Finding, Task, TaskOption
from warmstart.records.inputs import KindOption
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Target

# ---- Labels that the user corrected, by the id of the example: `--relabel fixed.csv`.

DROP = "drop"  # the label of a row to be left out; an empty cell says the same


def apply_relabel(listing: Listing, payload: bytes, source: str, target: Target) -> Listing:
    """A normalised listing, its labels overridden by a table of `path` and `label`."""
    cells = _corrections(listing, payload, source)
    is_name = any(DROP in target.names(row.label) for row in listing.rows)
    dropped = {
        id
        for id, cell in cells.items()
        if (not cell and not target.has_label_sets) or (cell.casefold() == DROP and not is_name)
    }
    remaining = [row for row in listing.rows if row.id not in dropped]
    overridden = tuple(replace(r, label=cells[r.id]) for r in remaining if r.id in cells)
    wording = replace(listing.wording, source=source)
    corrections = replace(listing, rows=overridden, form="texts", label_problem="", wording=wording)
    normalised = normalise(corrections, target, are_corrections=True)
    corrected = {row.id: row for row in normalised.rows}
    rows = [corrected.get(row.id, row) for row in remaining]
    n_changed = sum(new.label != old.label for new, old in zip(rows, remaining, strict=True))
    if target.has_classes:
        _check_sizes(listing, rows, source)
    name = PurePosixPath(source).name
    layout = f"{listing.layout}; labels corrected by {name} ({n_changed + len(dropped):,})"
    return replace(listing, rows=tuple(rows), layout=layout)


def _corrections(listing: Listing, payload: bytes, source: str) -> dict[str, str]:
    """The label of each id that the table names."""
    table = parse(payload, source)
    path = find_column(table.columns, None, PATH_NAMES, "path", source)
    label = find_column(table.columns, None, LABEL_NAMES, "label", source)
    ids = {row.id for row in listing.rows}
    # Spreadsheets write the id 0012 back as 12.
    without_zeros = {id.lstrip("0"): id for id in ids if id.isdecimal()}
    labels: dict[str, str] = {}
    lines: dict[str, str] = {}
    unknown: list[tuple[str, str]] = []
    for row, (path_cell, cell) in enumerate(
        zip(table.texts(path), table.texts(label), strict=True)
    ):
        id = path_cell if path_cell in ids else (path_cell or "").strip()
        if id not in ids and id.isdecimal():
            id = without_zeros.get(id.lstrip("0"), id)
        where = table.where(row)
        if id in lines:
            raise DataError(f"{source} names {id} in {lines[id]} and {where}; keep one of them")
        if cell is None:
            raise DataError(f'{source} {where}: "{label}" is not a text or number; give one label')
        if id not in ids:
            unknown.append((id or "an empty path", where))
        lines[id], labels[id] = where, cell.strip()
    if unknown:
        id, where = unknown[0]
        raise DataError(
            f"{source}: {len(unknown):,} of {count(len(lines), 'path')} not in "
            f"{listing.wording.source} (first: {id}, {where}); {_suggestion(id, sorted(ids))}"
        )
    return labels


def _suggestion(id: str, ids: Sequence[str]) -> str:
    name = PurePosixPath(id).name
    similar = [other for other in ids if PurePosixPath(other).name == name]
    similar = similar or difflib.get_close_matches(id, ids[:20_000], 1)
    return f"did you mean {similar[0]}?" if similar else "give the paths as warmstart wrote them"


def _check_sizes(listing: Listing, rows: Sequence[Row], source: str) -> None:
    """Blame the corrections for a class that they leave with one training image."""
    before = Counter(row.label for row in listing.rows if row.split == "train")
    after, noun = Counter(row.label for row in rows if row.split == "train"), listing.wording.noun
    for label, size in sorted(after.items()):
        if size > 1 or size == before[label]:
            continue
        if label in before:
            raise DataError(
                f"{source} leaves {listing.wording.place(label)} with 1 training {noun}; a class "
                "needs at least 2. Drop that one too, or keep another."
            )
        close = difflib.get_close_matches(label, list(before), 1)
        remedy = f"did you mean {close[0]}?" if close else f"known are: {first_few(sorted(before))}"
        raise DataError(
            f'{source} gives one training {noun} the new class "{label}", and a class needs at '
            f"least 2; {remedy}"
        )


STEP = 500  # files between two events


def read(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    test: Source | None = None,
    relabel: str | os.PathLike[str] | None = None,
    text: str | None = None,
    kind: KindOption = "auto",
    task: TaskOption = "auto",
    strict: bool = False,
) -> Steps[Collection]:
    """Read labelled examples: list them, hash their bytes, check their classes.

    `source` is a folder of class folders, one with train/, val/ and test/, a CSV, TSV, JSON
    lines or Parquet table, a zip or tar of those, a data set that `datasets` saved on disk,
    `sample:digits`, arrays (X, y), a DataFrame, or a torchvision ImageFolder. `label`, `group`
    and `text` name columns of a table. `kind` says what the examples are and `task` what the
    labels are; "auto" infers both from the data. `test` is another source, whose ids then
    begin with "test/". `relabel` is a table of corrections by id: see `apply_relabel`.
    Yields events of stage "read". Files that cannot be read are left out and listed, up to a
    tenth of the data; with `strict` the first one is an error.
    Raises: DataError if the data cannot be used.

    >>> from warmstart.events import drain
    >>> drain(read("sample:digits")).record.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = list_examples(source, columns, test)
    target = task_for(task, listing)
    listing = normalise(listing, target)
    if relabel is not None:
        table = os.fspath(relabel)
        payload = load_table(Path(table).expanduser(), table)
        listing = apply_relabel(listing, payload, table, target)
    outputs = check_labels(listing.rows, listing.outputs, listing.wording, target)
    check_split_labels(listing.rows, outputs, listing.wording, target)
    examples, problems = yield from _hash(listing, strict)
    classes = check_labels(examples, listing.outputs, listing.wording, target)
    n = len(listing.rows)
    values: dict[str, float | int | str] = {"examples": len(examples), "classes": len(classes)}
    yield Event(stage="read", kind="end", step=n, of=n, values=values)
    return _collection(listing, examples, classes, problems, target.task, strict)


def read_for_scoring(
    source: Source,
    classes: Sequence[str],
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
    kind: KindOption = "auto",
    task: Task = CLASSIFICATION.task,
) -> Steps[Collection]:
    """Read labelled examples to score a finished model on: the test set, else all.

    One class, or one image, is enough here. Every example comes back with split "test".
    Raises: DataError if there is no image, or a label is not a class of the model.
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = list_examples(source, columns, None)
    target = TASKS[task]
    listing = normalise(replace(listing, label_problem=""), target)
    tests = [row for row in listing.rows if row.split == "test"] or listing.rows
    unknown = sorted({n for row in tests for n in target.names(row.label)} - set(classes))
    if not tests:
        raise DataError(
            f"{listing.wording.source} holds no labelled {listing.wording.noun}; name a folder "
            "that does"
        )
    if unknown:
        raise DataError(
            f"{listing.wording.source} has the class {unknown[0]!r}, which this model does not "
            f"know. It knows: {first_few(classes)}. Rename or leave out that class."
        )
    listing = replace(listing, rows=tuple(replace(row, split="test") for row in tests))
    examples, problems = yield from _hash(listing, strict=False)
    yield Event(stage="read", kind="end", step=len(examples), of=len(tests))
    return _collection(listing, examples, tuple(classes), problems, task, strict=False)


def with_test(listing: Listing, test: Listing) -> Listing:
    """Join a listing and another source that becomes its test set.

    Raises: DataError if the listing has a test set already, or the other source has splits.
    """
    if any(row.split == "test" for row in listing.rows):
        raise DataError(
            f"{listing.wording.source} has a test set already; drop --test, or name only its "
            "train folder"
        )
    if any(row.split != "train" for row in test.rows):
        raise DataError(
            f"{test.wording.source}, named with --test, has several splits; name one of them"
        )
    ids = {row.id for row in listing.rows}
    prefix = "test/"
    while any(prefix + row.id in ids for row in test.rows):
        prefix += "test/"
    layout = f"{listing.layout}; test: {test.layout}"
    return concatenate((listing, as_split(test, prefix, "test")), layout)


def list_examples(source: Source, columns: Columns, test: Source | None) -> Listing:
    """List labelled examples, with another source as their test set; no file is opened.

    Raises: DataError if there is no such thing, or it has no such column.
    """
    listing = list_source(source, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    options = (("label", columns.label), ("group", columns.group), ("text", columns.text))
    option = next((f"--{name} {column}" for name, column in options if column), "")
    if not listing.is_table and option:
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is not a table; drop it"
        )
    return listing


def _collection(
    listing: Listing,
    examples: tuple[Example, ...],
    classes: tuple[str, ...],
    problems: tuple[Finding, ...],
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
        problems=listing.problems + problems,
    )
    return Collection(
        record=record,
        load=listing.load,
        title=listing.title,
        wording=listing.wording,
        n_harmless=listing.n_harmless,
        strict=strict,
    )


def _hash(listing: Listing, strict: bool) -> Steps[tuple[tuple[Example, ...], tuple[Finding, ...]]]:
    """Hash every file in one pass; what cannot be read becomes a finding."""
    source = listing.wording.source
    if strict:
        check_unreadable(listing.problems, len(listing.rows), source, strict=True)
    examples, reasons = [], {}
    texts: dict[str, str] = {}  # one label object for all examples of a class
    for index, row in enumerate(listing.rows):
        if index % STEP == 0:
            yield Event(stage="read", kind="step", step=index, of=len(listing.rows))
        try:
            payload = listing.load(row.id)
        except DataError as error:
            reasons[row.id] = str(error)
            if strict:
                break
            continue
        examples.append(
            Example(
                id=row.id,
                label=texts.setdefault(row.label, row.label),
                split=row.split,
                sha256=hashlib.sha256(payload).hexdigest(),
                group=row.group,
            )
        )
    problems = unreadable(reasons, f"{count(len(reasons), 'file')} could not be read and left out.")
    check_unreadable(
        (*listing.problems, *problems),
        len(examples),
        source,
        strict=strict,
        n_harmless=listing.n_harmless,
    )
    return tuple(examples), problems
