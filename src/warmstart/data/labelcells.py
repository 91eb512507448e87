"""The labels of a table: one column of them, lists in JSON lines, or a column of 0 and 1 each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warmstart.data.collection import Columns
from warmstart.data.columns import LABEL_NAMES, Roles, doubt_of, filled, find_column
from warmstart.data.parsing import Table
from warmstart.errors import DataError
from warmstart.records.labels import SEPARATOR

_ONES = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, slots=True)
class LabelCells:
    """A text a row, what they plainly are, and the names of columns that are outputs."""

    texts: Sequence[str]
    form: Literal["texts", "sets", "numbers"]
    outputs: tuple[str, ...]
    doubt: str = ""  # why they are no classes


def several(label: str | None, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that `--label A,B` names; none where a column is called just so.

    >>> several("a, b", ["path", "a", "b"]), several("a,b", ["path", "a,b"]), several("a", ["a"])
    (('a', 'b'), (), ())
    """
    if label is None or "," not in label or label in columns:
        return ()
    return tuple(name.strip() for name in label.split(",") if name.strip())


def label_column(table: Table, columns: Columns, shown: str) -> str:
    """The column of labels, or the names of several. Raises: DataError where there is none."""
    named = several(columns.label, table.columns)
    each = [find_column(table.columns, name, LABEL_NAMES, "label", shown) for name in named]
    return ", ".join(each) or find_column(table.columns, columns.label, LABEL_NAMES, "label", shown)


def read_labels(table: Table, roles: Roles, columns: Columns, shown: str) -> LabelCells:
    """The labels in one column, or in several of 0 and 1.

    Raises: DataError naming the line of a cell that is none.
    """
    named = several(columns.label, table.columns)
    if named:
        names = [find_column(table.columns, name, (), "label", shown) for name in named]
        return LabelCells(_joined(table, names, shown), "sets", tuple(names))
    lists = table.lists(roles.label) if table.lists else None
    if lists is not None:
        return LabelCells([_names(names, shown) for names in lists], "sets", ())
    if columns.task == "multilabel":  # an empty cell says that nothing is there
        texts = [(cell or "").strip() for cell in table.texts(roles.label)]
        return LabelCells(texts, "texts", ())
    texts = filled(table, roles.label, "label", shown)
    doubt, is_measured = doubt_of(table, texts, roles, shown)
    return LabelCells(texts, "numbers" if is_measured else "texts", (roles.label,), doubt)


def _names(names: Sequence[str], shown: str) -> str:
    bad = next((name for name in names if SEPARATOR in name), None)
    if bad is not None:
        raise DataError(f'{shown}: the label "{bad}" holds {SEPARATOR!r}; call it something else')
    return SEPARATOR.join(sorted({name.strip() for name in names} - {""}))


def _joined(table: Table, columns: Sequence[str], shown: str) -> list[str]:
    """The names of the columns that hold 1, row by row."""
    rows: list[list[str]] = [[] for _ in table.lines]
    for column in columns:
        for row, cell in enumerate(table.texts(column)):
            is_on = _ONES.get((cell or "").strip().casefold())
            if is_on is None:
                raise DataError(
                    f'{shown} {table.where(row)}: "{column}" is "{cell}"; columns of several '
                    "labels hold 0 or 1. Name one column with --label for other labels."
                )
            if is_on:
                rows[row].append(column)
    return [_names(names, shown) for names in rows]
