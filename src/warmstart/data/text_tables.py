"""A table of labelled texts: a text and a label in each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from warmstart.data.dataset import Columns, Listing, Row, Wording, some
from warmstart.data.labels import label_column, read_labels
from warmstart.data.parsing import (
    LABEL_NAMES,
    PATH_NAMES,
    Roles,
    Table,
    find_column,
    groups_of,
    splits_of,
)
from warmstart.data.place import suffix
from warmstart.data.splits import propose_columns
from warmstart.errors import DataError
from warmstart.modalities.text import normal
from warmstart.nouns import count
from warmstart.records.data import Finding

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
_LOOKED_AT = 200  # rows


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
    texts = [cell.strip() for cell in cells[:_LOOKED_AT] if cell and cell.strip()]
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
    roles = _roles(table, text, columns, shown)
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
        layout=_layout(roles, shown),
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


def _roles(table: Table, text: str, columns: Columns, shown: str) -> Roles:
    label = label_column(table, columns, shown)
    if label == text:
        raise DataError(f'{shown}: "{label}" holds the texts; name another column with --label')
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return Roles(path=text, label=label, group=group or None, split=split)


def _layout(roles: Roles, shown: str) -> str:
    groups = f', groups from "{roles.group}"' if roles.group else ""
    named = f'texts from "{roles.path}", labels from "{roles.label}"{groups}'
    return f"{PurePosixPath(shown).name}: {named}"


def _without(empty: Sequence[str], unit: str) -> tuple[Finding, ...]:
    if not empty:
        return ()
    sentence = f"{count(len(empty), unit)} without a text left out."
    return (Finding(kind="unreadable", sentence=sentence, items=tuple(empty)),)
