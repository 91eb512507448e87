"""Read any layout of labelled images once: list, hash, check."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from warmstart.data.dataset import (
    Collection,
    Columns,
    KindOption,
    Listing,
    Row,
    as_split,
    check_unreadable,
    concatenate,
    some,
    unreadable,
)
from warmstart.data.labels import (
    CLASS_LABELS,
    Labelling,
    TaskOption,
    check_split_labels,
    labelling_for,
    labelling_of,
)
from warmstart.data.parsing import LABEL_NAMES, PATH_NAMES, find_column, parse
from warmstart.data.sources import Source, list_source, load_table
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.nouns import count
from warmstart.records.data import DataRecord, Example, Finding, Task

# ---- Labels that the user corrected, by the id of the example: `--relabel fixed.csv`.


DROP = "drop"  # what a label column says of a row to be left out; so does an empty cell


def apply_relabel(
    listing: Listing, payload: bytes, source: str, labelling: Labelling = CLASS_LABELS
) -> Listing:
    """A settled listing with its labels overridden by a table of the columns `path` and `label`.

    `path` is an id of the listing, of whichever part: what the user says of a test image counts
    too. `drop`, where no class is called so, removes the row, and so does an empty label, unless
    an example may have none. Further columns are ignored, and rows that are not named keep their
    label.
    Raises: DataError if an id is unknown or named twice, a label is none of the task's, a new
    class has one training image, or a class is left with one.

    >>> from warmstart.data.sources import list_source
    >>> from warmstart.data.dataset import Columns
    >>> digits = list_source("sample:digits", Columns())
    >>> fixed = apply_relabel(digits, b"path,label\\n0/0000.png,1\\n1/0001.png,\\n", "fixed.csv")
    >>> len(fixed.rows), fixed.rows[0].label, fixed.layout
    (1796, '1', 'sample; labels corrected by fixed.csv (2)')
    """
    cells = _corrections(listing, payload, source)
    is_name = any(DROP in labelling.names(row.label) for row in listing.rows)
    gone = {
        id
        for id, cell in cells.items()
        if (not cell and not labelling.is_open) or (cell.casefold() == DROP and not is_name)
    }
    kept = [row for row in listing.rows if row.id not in gone]
    said = _settled([row for row in kept if row.id in cells], cells, listing, source, labelling)
    rows = [said.get(row.id, row) for row in kept]
    changed = sum(said[row.id].label != row.label for row in kept if row.id in said)
    if labelling.task == "classify":
        _check_sizes(listing, rows, source)
    name = PurePosixPath(source).name
    layout = f"{listing.layout}; labels corrected by {name} ({changed + len(gone):,})"
    return replace(listing, rows=tuple(rows), layout=layout)


def _settled(
    rows: Sequence[Row],
    cells: Mapping[str, str],
    listing: Listing,
    source: str,
    labelling: Labelling,
) -> dict[str, Row]:
    """Rows by id with their corrected labels, as the task holds labels."""
    typed = tuple(replace(row, label=cells[row.id]) for row in rows)
    wording = replace(listing.wording, source=source)
    found = labelling.normalise_corrections(
        replace(listing, rows=typed, form="texts", label_problem="", wording=wording)
    )
    return {row.id: row for row in found.rows}


def _corrections(listing: Listing, payload: bytes, source: str) -> dict[str, str]:
    """The label of each id that the table names."""
    table = parse(payload, source)
    path = find_column(table.columns, None, PATH_NAMES, "path", source)
    label = find_column(table.columns, None, LABEL_NAMES, "label", source)
    known = {row.id for row in listing.rows}
    # Spreadsheets write the id 0012 back as 12.
    bare = {id.lstrip("0"): id for id in known if id.isdecimal()}
    labels: dict[str, str] = {}
    lines: dict[str, str] = {}
    strangers: list[tuple[str, str]] = []
    for row, (written, cell) in enumerate(zip(table.texts(path), table.texts(label), strict=True)):
        id = written if written in known else (written or "").strip()
        if id not in known and id.isdecimal():
            id = bare.get(id.lstrip("0"), id)
        where = table.where(row)
        if id in lines:
            raise DataError(f"{source} names {id} in {lines[id]} and {where}; keep one line of it")
        if cell is None:
            raise DataError(f'{source} {where}: "{label}" is not a text or number; give one label')
        if id not in known:
            strangers.append((id or "an empty path", where))
        lines[id], labels[id] = where, cell.strip()
    if strangers:
        id, where = strangers[0]
        raise DataError(
            f"{source}: {len(strangers):,} of {count(len(lines), 'path')} not in "
            f"{listing.wording.source} (first: {id}, {where}); {_nearest(id, sorted(known))}"
        )
    return labels


def _nearest(id: str, known: Sequence[str]) -> str:
    name = PurePosixPath(id).name
    near = [other for other in known if PurePosixPath(other).name == name]
    near = near or difflib.get_close_matches(id, known[:20_000], 1)
    return f"did you mean {near[0]}?" if near else "give the paths as warmstart wrote them"


def _check_sizes(listing: Listing, rows: Sequence[Row], source: str) -> None:
    """A class that the corrections leave with one training image is their mistake, so say so."""
    before = Counter(row.label for row in listing.rows if row.split == "train")
    after, one = Counter(row.label for row in rows if row.split == "train"), listing.wording.noun
    for label, size in sorted(after.items()):
        if size > 1 or size == before[label]:
            continue
        if label not in before:
            near = difflib.get_close_matches(label, list(before), 1)
            cure = f"did you mean {near[0]}?" if near else f"known are: {some(sorted(before))}"
            raise DataError(
                f'{source} gives one training {one} the new class "{label}", and a class needs at '
                f"least 2; {cure}"
            )
        raise DataError(
            f"{source} leaves {listing.wording.place(label)} with 1 training {one}; a class needs "
            "at least 2. Drop that one too, or keep another."
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
    listing = list_examples(source, columns, test)
    labelling = labelling_for(task, listing)
    listing = labelling.normalise(listing)
    if relabel is not None:
        table = os.fspath(relabel)
        payload = load_table(Path(table).expanduser(), table)
        listing = apply_relabel(listing, payload, table, labelling)
    check_split_labels(listing.rows, _outputs(labelling, listing), listing.wording, labelling.task)
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
    kind: KindOption = "auto",
    task: Task = "classify",
) -> Steps[Collection]:
    """Read labelled examples that a finished model will be scored on: its test part, else all.

    One class, or one image, is enough here. Every example comes back with split "test".
    Raises: DataError if there is no image, or a label is none of the model's classes.
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = list_examples(source, columns, None)
    labelling = labelling_of(task)
    listing = labelling.normalise(replace(listing, label_problem=""))
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
    return concatenate((listing, as_split(test, prefix, "test")), layout)


def list_examples(source: Source, columns: Columns, test: Source | None) -> Listing:
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
        record=record,
        load=listing.load,
        title=listing.title,
        wording=listing.wording,
        n_harmless=listing.n_harmless,
        strict=strict,
    )


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
        check_unreadable(listing.problems, len(listing.rows), source, strict=True)
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
    check_unreadable(
        (*listing.problems, *finding),
        len(examples),
        source,
        strict=strict,
        n_harmless=listing.n_harmless,
    )
    return tuple(examples), finding
