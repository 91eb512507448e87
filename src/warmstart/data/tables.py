"""Tables without images: rows of numbers and short words, or rows of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from warmstart.data.column_types import ColumnSetting, type_columns
from warmstart.data.dataset import Collection, Columns, Listing, Row, Wording, some
from warmstart.data.labels import read_labels, read_roles, several
from warmstart.data.parsing import (
    LABEL_NAMES,
    PATH_NAMES,
    Table,
    find_column,
    groups_of,
    splits_of,
)
from warmstart.data.place import IMAGE_SUFFIXES, suffix
from warmstart.data.splits import propose_columns
from warmstart.errors import DataError
from warmstart.machine import cell_bytes, check_memory
from warmstart.modalities.table import pack, unpack
from warmstart.modalities.text import normal
from warmstart.nouns import count
from warmstart.records.data import Finding

_N_ROWS = 20  # rows that are read to recognise file names
# The network that reads a table takes memory by the square of them: 1 GB at 8,000.
MAX_COLUMNS = 8000


def holds_rows(table: Table, columns: Columns) -> bool:
    """Whether the rows themselves are the examples: --kind table, or no column names files."""
    if columns.kind != "auto":
        return columns.kind == "table"
    names = {column.casefold() for column in table.columns}
    if table.pictures or not names.isdisjoint(PATH_NAMES) or len(names) < 2:
        return False
    return not any(
        cell and suffix(cell.strip()) in IMAGE_SUFFIXES
        for column in table.columns
        for cell in table.texts(column)[:_N_ROWS]
    )


def list_rows(table: Table, *, source: str, name: str, columns: Columns) -> Listing:
    """List the rows of a table; a row's id is where it stands, such as "line 2".

    All columns except labels, groups and splits are stored as written: `with_columns` infers
    their types from the training rows.
    Raises: DataError if the table lacks a column, or a cell cannot be used.
    """
    if len(table.columns) > MAX_COLUMNS:
        raise DataError(
            f"{source} has {len(table.columns):,} columns and {MAX_COLUMNS:,} are the most; leave "
            "out those that matter least, or use WarmStartClassifier in Python, which takes more"
        )
    roles = read_roles(table, None, columns, source)
    labels = read_labels(table, roles, columns, source)
    splits, groups = splits_of(table, roles.split, source), groups_of(table, roles.group, source)
    label_names = several(columns.label, table.columns) or (roles.label,)
    payloads = row_payloads(table, (*label_names, roles.group, roles.split), source)
    rows = [
        Row(id=id, label=label, split=split, group=group)
        for id, label, split, group in zip(payloads, labels.texts, splits, groups, strict=True)
    ]
    by_group = f', groups from "{roles.group}"' if roles.group else ""
    return Listing(
        name=name,
        kind="table",
        is_table=True,
        layout=f'{PurePosixPath(source).name}: rows, labels from "{roles.label}"{by_group}',
        title=f"{count(len(rows), 'row')} of {source}",
        rows=tuple(rows),
        load=payloads.__getitem__,
        wording=Wording.of_classes(source, "its rows", "row"),
        label_problem=labels.problem,
        form=labels.form,
        outputs=labels.outputs,
        problems=() if roles.group else propose_columns(table, (*label_names, roles.split), source),
    )


def row_payloads(table: Table, exclude: Sequence[str | None], source: str) -> dict[str, bytes]:
    """The bytes of each row by its id, without the columns in `exclude`.

    Raises: DataError for a cell that is neither text nor number.
    """
    names = [column for column in table.columns if column and column not in exclude]
    # Each row holds the names of its columns besides the cells themselves.
    n_letters = len(table.lines) * sum(len(name) + 8 for name in names)
    check_memory(cell_bytes(len(table.lines) * len(names), n_letters), source)
    cells = {name: table.texts(name) for name in names}
    width = len(str(max(table.lines)))
    payloads = {}
    for row in range(len(table.lines)):
        invalid = next((name for name in names if cells[name][row] is None), None)
        if invalid is not None:
            raise DataError(
                f'{source} {table.where(row)}: "{invalid}" is not a text or number; give one value '
                "a column, or leave the column out"
            )
        values = {name: cells[name][row] or "" for name in names}
        payloads[f"{table.unit} {table.lines[row]:0{width}}"] = pack(values)
    return payloads


def with_columns(collection: Collection, settings: Mapping[str, ColumnSetting]) -> Collection:
    """The collection with the types of its columns, inferred from its training rows alone.

    `settings` gives the kind of some columns, as `--set column.NAME=KIND` or a plan does.
    Raises: DataError as `type_columns` does, or if a test or hold-out row lacks a column.
    """
    record = collection.record
    train = [example.id for example in record.examples if example.split == "train"]
    rows = [unpack(collection.load(id)) for id in train]
    columns = rows[0] if rows else {}
    for split in ("holdout", "test"):
        first = next((e.id for e in record.examples if e.split == split), None)
        names = unpack(collection.load(first)) if first is not None else columns
        missing = [name for name in columns if name not in names]
        if missing:
            raise DataError(
                f'{first}, of the {split} set, has no column "{missing[0]}", which the training '
                "rows have; add it, empty where it is not known"
            )
    typed = type_columns(rows, train, collection.wording.source, settings)
    typed_record = replace(
        record,
        columns=typed.columns,
        column_choices=typed.choices,
        problems=(*record.problems, *typed.findings),
    )
    return replace(collection, record=typed_record)


# ---- A table of labelled texts: a text and a label in each row.

_USUAL_NAMES = ("text", "sentence", "review", "comment", "content", "body", "message")
TEXT_NAMES = (*_USUAL_NAMES, "document", "tweet", "question", "utterance", "title")
MIN_WORDS = 2.0  # a mean of a word or less a cell is a name or a value, not a text
MIN_LETTERS = 12  # the same for languages written without spaces
MAX_OTHER_COLUMNS = 2  # columns besides the label and the texts, such as a number and a date
_N_CELLS = 200  # cells that are read to recognise running words


def text_column(table: Table, columns: Columns, source: str) -> str | None:
    """The column that holds the texts, or None if the rows are of another kind.

    The one named by --text; else, unless a column holds images or their paths, one with a
    usual name; else the only column of running words.
    Raises: DataError if --text names none, or --kind text leaves several to choose from.
    """
    if columns.text is not None:
        return find_column(table.columns, columns.text, (), "text", source)
    if columns.kind not in ("auto", "text"):
        return None
    by_fold = {column.casefold(): column for column in table.columns}
    if columns.kind == "auto" and (table.pictures or not by_fold.keys().isdisjoint(PATH_NAMES)):
        return None
    usual = [by_fold[name] for name in TEXT_NAMES if name in by_fold]
    free = [column for column in usual if column not in (columns.label, columns.group)]
    if usual:
        return (free or usual)[0]  # a column used twice is an error with its own message
    others = [c for c in table.columns if c not in (columns.label, columns.group)]
    others = [c for c in others if c.casefold() not in (*LABEL_NAMES, "split")]
    if columns.kind != "text" and len(others) > MAX_OTHER_COLUMNS + 1:
        return None  # many columns are a table of measurements, some of which are words
    texts = [c for c in others if _is_words(table.texts(c))]
    if len(texts) == 1:
        return texts[0]
    if columns.kind != "text" and not texts:
        return None
    names = some(texts or table.columns, 20)
    what = (
        f"{len(texts)} columns of words ({names})" if texts else f"no column of words among {names}"
    )
    raise DataError(f"{source} has {what}; name the one to learn from with --text")


def _is_words(cells: Sequence[str | None]) -> bool:
    """Whether a column holds running words: no file names, numbers or single words."""
    texts = [cell.strip() for cell in cells[:_N_CELLS] if cell and cell.strip()]
    if not texts or all(suffix(text) and " " not in text for text in texts):
        return False
    n_words = sum(len(text.split()) for text in texts) / len(texts)
    n_letters = sum(sum(map(str.isalpha, text)) for text in texts) / len(texts)
    n_signs = sum(map(len, texts)) / len(texts)
    is_long = n_words >= MIN_WORDS or (n_letters >= MIN_LETTERS and not texts[0].isascii())
    return is_long and n_letters > n_signs / 2


def list_texts(table: Table, text: str, *, source: str, name: str, columns: Columns) -> Listing:
    """List the rows of a table of texts; a row's id is the number of its line.

    Rows without a text are left out, with a finding. Texts are normalised, so that two that
    read alike are the same.
    Raises: DataError if the table lacks a column, or a cell cannot be used.
    """
    roles = read_roles(table, text, columns, source)
    if roles.label == text:
        raise DataError(f'{source}: "{text}" holds the texts; name another column with --label')
    labels = read_labels(table, roles, columns, source)
    splits, groups = splits_of(table, roles.split, source), groups_of(table, roles.group, source)
    width = len(str(max(table.lines)))
    payloads: dict[str, bytes] = {}
    rows, empty = [], []
    for row, (cell, label) in enumerate(zip(table.texts(text), labels.texts, strict=True)):
        id = f"{table.lines[row]:0{width}}"
        if cell is None:
            raise DataError(
                f'{source} {table.where(row)}: "{text}" is not a text; give one per row'
            )
        payload = normal(cell).encode("utf-8", "replace")
        if not payload:
            empty.append(id)
            continue
        payloads[id] = payload
        rows.append(Row(id=id, label=label, split=splits[row], group=groups[row]))
    problems: tuple[Finding, ...] = ()
    if empty:
        sentence = f"{count(len(empty), table.unit)} without a text left out."
        problems = (Finding(kind="unreadable", sentence=sentence, items=tuple(empty)),)
    if not roles.group:
        problems += propose_columns(table, (roles.path, roles.label, roles.split), source)
    by_group = f', groups from "{roles.group}"' if roles.group else ""
    return Listing(
        name=name,
        kind="text",
        is_table=True,
        layout=f'{PurePosixPath(source).name}: texts from "{roles.path}", labels from '
        f'"{roles.label}"{by_group}',
        title=f"{count(len(rows), 'text')} in {source}",
        rows=tuple(rows),
        load=payloads.__getitem__,
        wording=Wording.of_classes(source, "its row", "text"),
        label_problem=labels.problem,
        form=labels.form,
        outputs=labels.outputs,
        problems=problems,
        n_harmless=len(empty),
    )
