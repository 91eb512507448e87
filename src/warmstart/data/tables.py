"""A table of labelled files: CSV, TSV or JSON lines with a path and a label column."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from warmstart.data.collection import Columns, Listing, Load, Row, Wording, count, some
from warmstart.data.place import check_name, suffix
from warmstart.errors import DataError
from warmstart.records import Split

LABEL_NAMES = ("label", "class", "target", "category")
PATH_NAMES = ("path", "file", "file_name", "filename", "image")
SPLIT_VALUES: dict[str, Split] = {
    "train": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "holdout": "holdout",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Column names, and one tuple of texts per row with the line it stands on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def list_table(
    payload: bytes,
    *,
    shown: str,
    name: str,
    exists: Callable[[str], bool],
    load: Load,
    columns: Columns,
) -> Listing:
    """List the rows of a table; `exists` and `load` take paths relative to the table.

    Each row's id is its path as written. A `split` column may say train, val or test.
    Raises: DataError if the table cannot be parsed, lacks a column, or names missing files.
    """
    table = parse(payload, shown)
    path = find_column(table.columns, None, PATH_NAMES, "path", shown)
    label = find_column(table.columns, columns.label, LABEL_NAMES, "label", shown)
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    if label == path:
        raise DataError(f'{shown}: "{label}" holds the paths; name another column with --label')
    rows, lines = [], []
    for line, cells in table.rows:
        where = f"{shown} line {line}"
        rows.append(
            Row(
                id=_filled(cells[path], "path", where),
                label=_filled(cells[label], "label", where),
                split=_split(cells[split], where) if split else "train",
                group=cells[group].strip() or None if group else None,
            )
        )
        lines.append(line)
    _check_files(rows, lines, shown, exists)
    _check_ids(rows, lines, shown)
    return Listing(
        name=name,
        layout=f'{PurePosixPath(shown).name}: images from "{path}", labels from "{label}"'
        + (f', groups from "{group}"' if group else ""),
        title=f"{count(len(rows), 'image')} listed in {shown}",
        rows=tuple(rows),
        load=lambda id: load(_relative(id)),
        wording=Wording(source=shown, before=f'{shown}: class "', after='"', remove="its row"),
        is_table=True,
    )


def parse(payload: bytes, shown: str) -> Table:
    """Parse a table by the suffix of `shown`; all cells become text.

    Raises: DataError if it is not UTF-8, is empty, or a line does not fit.

    >>> parse(b"path;label\\na.jpg;cat\\n", "labels.csv").rows
    ((2, {'path': 'a.jpg', 'label': 'cat'}),)
    """
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown} is not UTF-8 (byte {error.start:,}); save it again as UTF-8"
        ) from None
    table = _parse_json_lines(text, shown) if suffix(shown) == ".jsonl" else _parse_csv(text, shown)
    if not table.rows:
        raise DataError(f"{shown} has no rows; add one line per image: path,label")
    return table


def find_column(
    columns: Sequence[str], wanted: str | None, guesses: Sequence[str], role: str, shown: str
) -> str:
    """The column a user named, else the first guess that exists, upper or lower case.

    Raises: DataError listing the columns there are, and the likely one.

    >>> find_column(["Path", "Class"], None, ["label", "class"], "label", "t.csv")
    'Class'
    """
    by_fold = {column.casefold(): column for column in columns}
    for name in (wanted,) if wanted is not None else guesses:
        if name in columns or name.casefold() in by_fold:
            return name if name in columns else by_fold[name.casefold()]
    has = f"It has: {some(columns, 20)}."
    if wanted is None:
        cure = "Name it with --label." if role == "label" else f"Call it {' or '.join(guesses)}."
        raise DataError(f"{shown} has no column that looks like the {role}. {has} {cure}")
    near = difflib.get_close_matches(wanted.casefold(), list(by_fold), 1)
    hint = f" Did you mean --{role} {by_fold[near[0]]}?" if near else ""
    raise DataError(f'{shown} has no column "{wanted}". {has}{hint}')


def _parse_csv(text: str, shown: str) -> Table:
    header = text.partition("\n")[0]
    delimiter = "\t" if suffix(shown) == ".tsv" else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise DataError(f"{shown} line {reader.line_num}: {error}; correct the line") from None
    if not lines:
        raise DataError(f"{shown} is empty; its first line should be: path,label")
    columns = tuple(cell.strip() for cell in lines[0][1])
    named = [column for column in columns if column]
    twice = next((c for c in named if named.count(c) > 1), None)
    if twice is not None:
        raise DataError(f'{shown} has two columns "{twice}"; rename one')
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(
                f"{shown} line {number} has {count(len(cells), 'cell')}, the first line "
                f"{len(columns)}; put texts that hold a {delimiter!r} in quotes"
            )
    rows = tuple((number, dict(zip(columns, cells, strict=True))) for number, cells in lines[1:])
    return Table(columns, rows)


def _parse_json_lines(text: str, shown: str) -> Table:
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{shown} line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error}); write one object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"{where} is not a JSON object; write {{'path': …, 'label': …}}")
        rows.append((number, {key: _text(item, key, where) for key, item in value.items()}))
    columns = tuple(rows[0][1]) if rows else ()
    for number, cells in rows:
        missing = next((column for column in columns if column not in cells), None)
        if missing is not None:
            raise DataError(f'{shown} line {number} has no "{missing}"; give every line the same')
    return Table(columns, tuple(rows))


def _text(item: object, key: str, where: str) -> str:
    if item is None:
        return ""
    if isinstance(item, (str, int)):
        return str(item)
    if isinstance(item, float) and item == item:
        return str(item)
    if key.casefold() in LABEL_NAMES + PATH_NAMES:
        raise DataError(f'{where}: "{key}" is not a text or number; give one label per image')
    return json.dumps(item)


def _filled(cell: str, role: str, where: str) -> str:
    if not cell.strip():
        raise DataError(f"{where} has an empty {role}; fill it in or remove the line")
    return cell.strip()


def _split(cell: str, where: str) -> Split:
    value = cell.strip().casefold()
    if value not in SPLIT_VALUES:
        raise DataError(
            f'{where}: split is "{cell.strip()}"; write train, val or test, or rename the column'
        )
    return SPLIT_VALUES[value]


def _check_ids(rows: Sequence[Row], lines: Sequence[int], shown: str) -> None:
    first: dict[str, int] = {}
    for row, line in zip(rows, lines, strict=True):
        if row.id in first:
            raise DataError(
                f"{shown} names {row.id} in lines {first[row.id]} and {line}; "
                "keep one line per image"
            )
        first[row.id] = line


def _check_files(
    rows: Sequence[Row], lines: Sequence[int], shown: str, exists: Callable[[str], bool]
) -> None:
    missing = []
    for row, line in zip(rows, lines, strict=True):
        check_name(row.id, shown)
        if re.match(r"[a-z0-9]+://", row.id, re.IGNORECASE):
            raise DataError(
                f"{shown} line {line} names a web address; download the images and name the files"
            )
        if not exists(_relative(row.id)):
            missing.append((row.id, line))
    if missing:
        id, line = missing[0]
        raise DataError(
            f"{shown}: {len(missing):,} of {count(len(rows), 'file')} not found "
            f"(first: {id}, line {line}); write paths relative to {PurePosixPath(shown).name}, "
            "with their suffix"
        )


def _relative(id: str) -> str:
    return str(PurePosixPath(id.replace("\\", "/") if "/" not in id else id))
