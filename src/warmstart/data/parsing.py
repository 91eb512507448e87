"""The text of a table, CSV, TSV or JSON lines, as columns."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from warmstart.data.place import check_name, suffix
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.machine import cell_bytes, check_memory
from warmstart.nouns import count
from warmstart.records.data import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class TableImages:
    """Encoded images in a table: file names, whether a row has the bytes, and their loader."""

    paths: Sequence[str | None]
    inside: Sequence[bool]
    load: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The column that holds the images themselves, and how to open them."""

    column: str
    open: Callable[[], TableImages]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns by name; `texts` returns a column as texts, with None for anything else.

    `lists` returns a column of lists of texts or numbers, None for another; not every format
    has one. `lines` says where each row stands, counted in `unit`s.
    """

    columns: tuple[str, ...]
    lines: Sequence[int]
    texts: Callable[[str], Sequence[str | None]]
    unit: str = "line"
    pictures: Pictures | None = None
    lists: Callable[[str], list[list[str]] | None] | None = None

    def where(self, row: int) -> str:
        """A row as messages name it, such as "line 2"."""
        return f"{self.unit} {self.lines[row]}"


def parse(payload: bytes, source: str) -> Table:
    """Parse a text by the suffix of `source`; all cells become texts.

    Raises: DataError if it is not UTF-8, is empty, or a line does not fit.

    >>> table = parse(b"path;label\\na.jpg;cat\\n", "labels.csv")
    >>> table.columns, table.texts("label"), table.where(0)
    (('path', 'label'), ['cat'], 'line 2')
    """
    n_cells = sum(map(payload.count, (b",", b";", b"\t", b"\n", b"[", b"{", b":")))
    letter_bytes = 1 if payload.isascii() else 4  # one rare letter makes all of them so wide
    # The text is in memory three times: whole, as lines, as cells.
    check_memory(cell_bytes(n_cells, 3 * letter_bytes * len(payload)), source)
    text = _decode(payload, source)
    is_json = suffix(source) == ".jsonl"
    table = _parse_json_lines(text, source) if is_json else _parse_csv(text, source)
    if not table.lines:
        raise DataError(f"{source} has no rows; add one line an example below the header")
    return table


def text_of(item: object) -> str | None:
    """A cell as text: "" where it is missing, None where it is no text, number or date.

    >>> text_of(3.0), text_of(True), text_of(float("nan")), text_of([1])
    ('3', 'True', '', None)
    """
    if item is None or type(item).__name__ in ("NAType", "NaTType"):  # those of pandas
        return ""
    if isinstance(item, Real) and not isinstance(item, Integral):
        value = float(item)
        return "" if value != value else str(int(value) if value.is_integer() else value)
    if isinstance(item, (list, tuple, dict, set, bytes, bytearray, memoryview)):
        return None
    return str(item)


def lists_of(items: Sequence[object]) -> list[list[str]] | None:
    """Lists of names as texts; None if any item is something else."""
    lists: list[list[str]] = []
    for item in items:
        names = [text_of(name) for name in item] if isinstance(item, (list, tuple, set)) else None
        if names is None or None in names:
            return None
        lists.append([name for name in names if name])
    return lists


def _decode(payload: bytes, source: str) -> str:
    has_mark = payload.startswith((b"\xff\xfe", b"\xfe\xff"))
    if has_mark or payload[:200].count(0) * 3 > len(payload[:200]):
        raise DataError(f"{source} is UTF-16; save it again as UTF-8 (Excel: CSV UTF-8)")
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8 (byte {error.start:,}); save it again as UTF-8"
        ) from None
    before, null, _ = text.partition("\0")
    if null:
        line = before.count("\n") + 1
        raise DataError(f"{source} line {line} holds a NUL byte, which is not text; save it again")
    return text


def _parse_csv(text: str, source: str) -> Table:
    header = text.partition("\n")[0]
    is_tsv = suffix(source) == ".tsv"
    delimiter = "\t" if is_tsv else max(",;\t", key=header.count)
    if is_tsv and "\t" not in header and ("," in header or ";" in header):
        raise DataError(f"{source} has no tabs but commas; call it .csv, or separate cells by tabs")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise DataError(f"{source} line {reader.line_num}: {error}; correct the line") from None
    if not lines:
        raise DataError(f"{source} is empty; its first line should be: path,label")
    columns = tuple(cell.strip() for cell in lines[0][1])
    n_columns = Counter(column for column in columns if column)
    twice = next((column for column, n in n_columns.items() if n > 1), None)
    if twice is not None:
        raise DataError(f'{source} has two columns "{twice}"; rename one')
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(
                f"{source} line {number} has {count(len(cells), 'cell')}, the first line "
                f"{len(columns)}; put texts that hold a {delimiter!r} in quotes"
            )
    indices = {column: index for index, column in reversed([*enumerate(columns)])}

    def texts(column: str) -> list[str]:
        index = indices[column]
        return [cells[index] for _, cells in lines[1:]]

    return Table(columns=columns, lines=[number for number, _ in lines[1:]], texts=texts)


def _parse_json_lines(text: str, source: str) -> Table:
    rows: list[tuple[int, dict[str, object]]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number > 1 and number == len(lines):
                raise DataError(
                    f"{where} is not JSON ({error}) and is the last one, so the file may be "
                    "cut off; copy it again or remove the line"
                ) from None
            raise DataError(f"{where} is not JSON ({error}); write one object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"{where} is not a JSON object; write {{'path': …, 'label': …}}")
        rows.append((number, value))
    columns = tuple(rows[0][1]) if rows else ()
    for number, cells in rows:
        missing = next((column for column in columns if column not in cells), None)
        if missing is not None:
            raise DataError(
                f'{source} line {number} has no "{missing}"; give every line the same keys'
            )
    return Table(
        columns=columns,
        lines=[number for number, _ in rows],
        texts=lambda column: [text_of(cells[column]) for _, cells in rows],
        lists=lambda column: lists_of([cells[column] for _, cells in rows]),
    )


# ---- The columns of a table: the role of each, and their cells checked.

LABEL_NAMES = ("label", "class", "target", "category")
PATH_NAMES = ("path", "file", "file_name", "filename", "image", "audio", "clip")
SPLIT_ORDER = ("train", "holdout", "test")
SPLIT_VALUES: dict[str, Split] = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev", "holdout"), "holdout"),
    "test": "test",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The role of each column; `path` is that of the examples themselves."""

    path: str
    label: str
    group: str | None
    split: str | None


def find_column(
    columns: Sequence[str], name: str | None, guesses: Sequence[str], role: str, source: str
) -> str:
    """The column that the user named, else the first guess that exists, in any case."""
    by_fold = {column.casefold(): column for column in columns}
    for guess in (name,) if name is not None else guesses:
        if guess in columns or guess.casefold() in by_fold:
            return guess if guess in columns else by_fold[guess.casefold()]
    has = f"It has: {first_few(columns, 20)}."
    if name is None:
        remedy = "Name it with --label." if role == "label" else f"Call it {' or '.join(guesses)}."
        raise DataError(f"{source} has no column that looks like the {role}. {has} {remedy}")
    close = difflib.get_close_matches(name.casefold(), list(by_fold), 1)
    hint = f" Did you mean --{role} {by_fold[close[0]]}?" if close else ""
    raise DataError(f'{source} has no column "{name}". {has}{hint}')


def nonempty_cells(table: Table, column: str, role: str, source: str) -> list[str]:
    """A column as stripped texts; raises DataError for a cell that is empty or no text."""
    cells = []
    for row, cell in enumerate(table.texts(column)):
        if cell is None:
            raise DataError(
                f'{source} {table.where(row)}: "{column}" is not a text or number; '
                f"give one {role} per {table.unit}"
            )
        if not cell.strip():
            raise DataError(
                f"{source} {table.where(row)} has an empty {role}; fill it in or remove the "
                f"{table.unit}"
            )
        check_name(cell, source)
        cells.append(cell.strip())
    return cells


def groups_of(table: Table, column: str | None, source: str) -> list[str | None]:
    if column is None:
        return [None] * len(table.lines)
    groups = [(cell or "").strip() or None for cell in table.texts(column)]
    for group in groups:
        check_name(group or "", source)
    return groups


def splits_of(table: Table, column: str | None, source: str) -> list[Split]:
    if column is None:
        return ["train"] * len(table.lines)
    splits = []
    for row, cell in enumerate(table.texts(column)):
        value = (cell or "").strip()
        if value.casefold() not in SPLIT_VALUES:
            raise DataError(
                f'{source} {table.where(row)}: split is "{value}"; write train, val or test, or '
                "rename the column"
            )
        splits.append(SPLIT_VALUES[value.casefold()])
    return splits
