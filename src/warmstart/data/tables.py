"""A table of plain columns: each row is an example, numbers and short words are what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from warmstart.data.column_types import ColumnWish, type_columns
from warmstart.data.dataset import Collection, Columns, Listing, Row, Wording, some
from warmstart.data.labels import label_column, read_labels, several
from warmstart.data.parsing import (
    LABEL_NAMES,
    PATH_NAMES,
    Roles,
    Table,
    find_column,
    groups_of,
    splits_of,
)
from warmstart.data.place import IMAGE_SUFFIXES, suffix
from warmstart.data.splits import propose_columns
from warmstart.errors import DataError
from warmstart.machine import check_room, size_of_cells
from warmstart.modalities.table import pack, unpack
from warmstart.modalities.text import normal
from warmstart.nouns import count
from warmstart.records.data import Finding

_LOOKED_AT = 20  # rows
# The network that reads a table takes memory by the square of them: 1 GB at 8,000.
MOST_COLUMNS = 8000


def holds_rows(table: Table, columns: Columns) -> bool:
    """Whether the rows themselves are the examples: asked for, or no column names files."""
    if columns.kind != "auto":
        return columns.kind == "table"
    names = {column.casefold() for column in table.columns}
    if table.pictures or not names.isdisjoint(PATH_NAMES) or len(names) < 2:
        return False
    return not any(_names_files(table.texts(column)[:_LOOKED_AT]) for column in table.columns)


def _names_files(cells: Sequence[str | None]) -> bool:
    return any(cell and suffix(cell.strip()) in IMAGE_SUFFIXES for cell in cells)


def list_rows(table: Table, *, shown: str, name: str, columns: Columns) -> Listing:
    """List the rows of a table; a row's id is where it stands, such as "line 2".

    All columns but those of labels, groups and splits are kept as they are written: what they
    mean is told from the training rows, by `with_columns`.
    Raises: DataError if the table lacks a column, or a cell is of no use.
    """
    if len(table.columns) > MOST_COLUMNS:
        raise DataError(
            f"{shown} has {len(table.columns):,} columns and {MOST_COLUMNS:,} are the most; leave "
            "out those that matter least, or use WarmStartClassifier in Python, which takes more"
        )
    roles = _roles(table, columns, shown)
    labels = read_labels(table, roles, columns, shown)
    splits, groups = splits_of(table, roles.split, shown), groups_of(table, roles.group, shown)
    own = several(columns.label, table.columns) or (roles.label,)
    payloads = row_payloads(table, (*own, roles.group, roles.split), shown)
    rows = [
        Row(id=id, label=label, split=split, group=group)
        for id, label, split, group in zip(payloads, labels.texts, splits, groups, strict=True)
    ]
    return Listing(
        name=name,
        kind="table",
        is_table=True,
        layout=_layout(roles, shown),
        title=f"{count(len(rows), 'row')} of {shown}",
        rows=tuple(rows),
        load=payloads.__getitem__,
        wording=Wording(
            source=shown, before=f'{shown}: class "', after='"', remove="its rows", noun="row"
        ),
        doubt=labels.doubt,
        form=labels.form,
        outputs=labels.outputs,
        problems=() if roles.group else propose_columns(table, (*own, roles.split), shown),
    )


def row_payloads(table: Table, taken: Sequence[str | None], shown: str) -> dict[str, bytes]:
    """The bytes of each row by its id, without the columns that are `taken`.

    Raises: DataError for a cell that is neither text nor number.
    """
    names = [column for column in table.columns if column and column not in taken]
    # Each row is kept with the names of its columns, beside the cells themselves.
    n_letters = len(table.lines) * sum(len(name) + 8 for name in names)
    check_room(size_of_cells(len(table.lines) * len(names), n_letters), shown)
    cells = {name: table.texts(name) for name in names}
    width = len(str(max(table.lines)))
    found = {}
    for row in range(len(table.lines)):
        lists = next((name for name in names if cells[name][row] is None), None)
        if lists is not None:
            raise DataError(
                f'{shown} {table.where(row)}: "{lists}" is not a text or number; give one value '
                "a column, or leave the column out"
            )
        values = {name: cells[name][row] or "" for name in names}
        found[f"{table.unit} {table.lines[row]:0{width}}"] = pack(values)
    return found


def with_columns(collection: Collection, asked: Mapping[str, ColumnWish]) -> Collection:
    """The collection with what its columns are, told from its training rows alone.

    `asked` gives the kind of some columns, as `--set column.NAME=KIND` or a plan does.
    Raises: DataError as `type_columns` does.
    """
    record = collection.record
    train = [example.id for example in record.examples if example.split == "train"]
    rows = [unpack(collection.load(id)) for id in train]
    _check_blocks(collection, rows[0] if rows else {})
    typed = type_columns(rows, train, collection.wording.source, asked)
    settled = replace(
        record,
        columns=typed.columns,
        column_choices=typed.choices,
        problems=(*record.problems, *typed.findings),
    )
    return replace(collection, record=settled)


def _check_blocks(collection: Collection, row: Mapping[str, str]) -> None:
    """Raises: DataError where a test or hold-out lacks a column of the training rows."""
    for split in ("holdout", "test"):
        first = next((e.id for e in collection.record.examples if e.split == split), None)
        held = unpack(collection.load(first)) if first is not None else row
        lost = [name for name in row if name not in held]
        if lost:
            raise DataError(
                f'{first}, of the {split} part, has no column "{lost[0]}", which the training '
                "rows have; add it, empty where it is not known"
            )


def _roles(table: Table, columns: Columns, shown: str) -> Roles:
    label = label_column(table, columns, shown)
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return Roles(path=label, label=label, group=group or None, split=split)


def _layout(roles: Roles, shown: str) -> str:
    groups = f', groups from "{roles.group}"' if roles.group else ""
    return f'{PurePosixPath(shown).name}: rows, labels from "{roles.label}"{groups}'


# ---- A table of labelled texts: a text and a label in each row.


TEXT_NAMES = (
    "text",
    "sentence",
    "review",
    "comment",
    "content",
    "body",
    "message",
    "document",
    "tweet",
    "question",
    "utterance",
    "title",
)
LEAST_WORDS = 2.0  # a word or less a cell, on average, is a name or a value, no text
LEAST_LETTERS = 12  # the same for languages written without spaces
MOST_BESIDE = 2  # columns beside the label and the texts, such as a number and a date
_TEXT_LOOKED_AT = 200  # rows


def text_column(table: Table, columns: Columns, shown: str) -> str | None:
    """The column that holds the texts, or None where the rows are of another kind.

    The one that was named; else, where no column holds images or their paths, one called like
    one; else the only column of running words.
    Raises: DataError where --text names none, or several may be meant and texts were asked for.
    """
    if columns.text is not None:
        return find_column(table.columns, columns.text, (), "text", shown)
    if columns.kind not in ("auto", "text"):
        return None
    folds = {column.casefold(): column for column in table.columns}
    if columns.kind == "auto" and (table.pictures or not folds.keys().isdisjoint(PATH_NAMES)):
        return None
    taken = {columns.label, columns.group}
    named = [folds[n] for n in TEXT_NAMES if n in folds and folds[n] not in taken]
    named = named or [folds[n] for n in TEXT_NAMES if n in folds]  # an error says what is amiss
    if named:
        return named[0]
    return _only_words(table, columns, shown)


def _only_words(table: Table, columns: Columns, shown: str) -> str | None:
    """The only column of running words. Raises: as `text_column`."""
    left = (*LABEL_NAMES, "split")
    others = [c for c in table.columns if c not in (columns.label, columns.group)]
    others = [c for c in others if c.casefold() not in left]
    if columns.kind != "text" and len(others) > MOST_BESIDE + 1:
        return None  # many columns are a table of measurements, some of which are words
    found = [c for c in others if _is_words(table.texts(c))]
    if len(found) == 1:
        return found[0]
    if columns.kind != "text" and not found:
        return None
    has = some(found or table.columns, 20)
    what = f"no column of words among {has}"
    if found:
        what = f"{len(found)} columns of words ({has})"
    raise DataError(f"{shown} has {what}; name the one to learn from with --text")


def _is_words(cells: Sequence[str | None]) -> bool:
    """Whether a column holds running words: no names of files, no numbers, no single words."""
    texts = [cell.strip() for cell in cells[:_TEXT_LOOKED_AT] if cell and cell.strip()]
    if not texts or all(suffix(text) and " " not in text for text in texts):
        return False
    n_words = sum(len(text.split()) for text in texts) / len(texts)
    n_letters = sum(sum(map(str.isalpha, text)) for text in texts) / len(texts)
    n_signs = sum(map(len, texts)) / len(texts)
    is_long = n_words >= LEAST_WORDS or (n_letters >= LEAST_LETTERS and not texts[0].isascii())
    return is_long and n_letters > n_signs / 2


def list_texts(table: Table, text: str, *, shown: str, name: str, columns: Columns) -> Listing:
    """List the rows of a table of texts; a row's id is the number of its line.

    Rows without a text are left out, with a finding. Texts are taken in their normal form, so
    that two that read alike are the same.
    Raises: DataError if the table lacks a column, or a cell is of no use.
    """
    roles = _text_roles(table, text, columns, shown)
    labels = read_labels(table, roles, columns, shown)
    splits, groups = splits_of(table, roles.split, shown), groups_of(table, roles.group, shown)
    width = len(str(max(table.lines)))
    texts: dict[str, bytes] = {}
    rows, empty = [], []
    for row, (cell, label) in enumerate(zip(table.texts(text), labels.texts, strict=True)):
        id = f"{table.lines[row]:0{width}}"
        if cell is None:
            raise DataError(f'{shown} {table.where(row)}: "{text}" is not a text; give one per row')
        payload = normal(cell).encode("utf-8", "replace")
        if not payload:
            empty.append(id)
            continue
        texts[id] = payload
        rows.append(Row(id=id, label=label, split=splits[row], group=groups[row]))
    taken = (roles.path, roles.label, roles.split)
    proposed = () if roles.group else propose_columns(table, taken, shown)
    return Listing(
        name=name,
        kind="text",
        is_table=True,
        layout=_text_layout(roles, shown),
        title=f"{count(len(rows), 'text')} in {shown}",
        rows=tuple(rows),
        load=texts.__getitem__,
        wording=Wording(
            source=shown, before=f'{shown}: class "', after='"', remove="its row", noun="text"
        ),
        doubt=labels.doubt,
        form=labels.form,
        outputs=labels.outputs,
        problems=(*_without(empty, table.unit), *proposed),
        spared=len(empty),
    )


def _text_roles(table: Table, text: str, columns: Columns, shown: str) -> Roles:
    label = label_column(table, columns, shown)
    if label == text:
        raise DataError(f'{shown}: "{label}" holds the texts; name another column with --label')
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return Roles(path=text, label=label, group=group or None, split=split)


def _text_layout(roles: Roles, shown: str) -> str:
    groups = f', groups from "{roles.group}"' if roles.group else ""
    named = f'texts from "{roles.path}", labels from "{roles.label}"{groups}'
    return f"{PurePosixPath(shown).name}: {named}"


def _without(empty: Sequence[str], unit: str) -> tuple[Finding, ...]:
    if not empty:
        return ()
    sentence = f"{count(len(empty), unit)} without a text left out."
    return (Finding(kind="unreadable", sentence=sentence, items=tuple(empty)),)
