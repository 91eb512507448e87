"""Labels that the user corrected, by the id of the example: `--relabel fixed.csv`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from warmstart.data.collection import Listing, Row, count, some
from warmstart.data.columns import LABEL_NAMES, PATH_NAMES, find_column
from warmstart.data.labelling import CLASS_LABELS, Labelling
from warmstart.data.parsing import parse
from warmstart.errors import DataError

DROP = "drop"  # what a label column says of a row to be left out; so does an empty cell


def apply_relabel(
    listing: Listing, payload: bytes, shown: str, labelling: Labelling = CLASS_LABELS
) -> Listing:
    """A settled listing with its labels overridden by a table of the columns `path` and `label`.

    `path` is an id of the listing, of whichever part: what the user says of a test image counts
    too. `drop`, where no class is called so, removes the row, and so does an empty label, unless
    an example may have none. Further columns are ignored, and rows that are not named keep their
    label.
    Raises: DataError if an id is unknown or named twice, a label is none of the task's, a new
    class has one training image, or a class is left with one.

    >>> from warmstart.data.sources import list_source
    >>> from warmstart.data.collection import Columns
    >>> digits = list_source("sample:digits", Columns())
    >>> fixed = apply_relabel(digits, b"path,label\\n0/0000.png,1\\n1/0001.png,\\n", "fixed.csv")
    >>> len(fixed.rows), fixed.rows[0].label, fixed.layout
    (1796, '1', 'sample; labels corrected by fixed.csv (2)')
    """
    cells = _corrections(listing, payload, shown)
    is_name = any(DROP in labelling.names(row.label) for row in listing.rows)
    gone = {
        id
        for id, cell in cells.items()
        if (not cell and not labelling.is_open) or (cell.casefold() == DROP and not is_name)
    }
    kept = [row for row in listing.rows if row.id not in gone]
    said = _settled([row for row in kept if row.id in cells], cells, listing, shown, labelling)
    rows = [said.get(row.id, row) for row in kept]
    changed = sum(said[row.id].label != row.label for row in kept if row.id in said)
    if labelling.task == "classify":
        _check_sizes(listing, rows, shown)
    name = PurePosixPath(shown).name
    layout = f"{listing.layout}; labels corrected by {name} ({changed + len(gone):,})"
    return replace(listing, rows=tuple(rows), layout=layout)


def _settled(
    rows: Sequence[Row], cells: Mapping[str, str], listing: Listing, shown: str,
    labelling: Labelling,
) -> dict[str, Row]:  # fmt: skip
    """Rows by id with their corrected labels, as the task holds labels."""
    typed = tuple(replace(row, label=cells[row.id]) for row in rows)
    wording = replace(listing.wording, source=shown)
    found = labelling.corrected(
        replace(listing, rows=typed, form="texts", doubt="", wording=wording)
    )
    return {row.id: row for row in found.rows}


def _corrections(listing: Listing, payload: bytes, shown: str) -> dict[str, str]:
    """The label of each id that the table names."""
    table = parse(payload, shown)
    path = find_column(table.columns, None, PATH_NAMES, "path", shown)
    label = find_column(table.columns, None, LABEL_NAMES, "label", shown)
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
            raise DataError(f"{shown} names {id} in {lines[id]} and {where}; keep one line of it")
        if cell is None:
            raise DataError(f'{shown} {where}: "{label}" is not a text or number; give one label')
        if id not in known:
            strangers.append((id or "an empty path", where))
        lines[id], labels[id] = where, cell.strip()
    if strangers:
        id, where = strangers[0]
        raise DataError(
            f"{shown}: {len(strangers):,} of {count(len(lines), 'path')} not in "
            f"{listing.wording.source} (first: {id}, {where}); {_nearest(id, sorted(known))}"
        )
    return labels


def _nearest(id: str, known: Sequence[str]) -> str:
    name = PurePosixPath(id).name
    near = [other for other in known if PurePosixPath(other).name == name]
    near = near or difflib.get_close_matches(id, known[:20_000], 1)
    return f"did you mean {near[0]}?" if near else "give the paths as warmstart wrote them"


def _check_sizes(listing: Listing, rows: Sequence[Row], shown: str) -> None:
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
                f'{shown} gives one training {one} the new class "{label}", and a class needs at '
                f"least 2; {cure}"
            )
        raise DataError(
            f"{shown} leaves {listing.wording.place(label)} with 1 training {one}; a class needs "
            "at least 2. Drop that one too, or keep another."
        )
