"""The columns of a table: which one says what, and their cells checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.data.collection import some
from warmstart.data.parsing import Table
from warmstart.data.place import check_name
from warmstart.errors import DataError
from warmstart.records import Split

LABEL_NAMES = ("label", "class", "target", "category")
PATH_NAMES = ("path", "file", "file_name", "filename", "image", "audio", "clip")
SPLIT_VALUES: dict[str, Split] = {
    "train": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "holdout": "holdout",
    "test": "test",
}
MAX_NUMERIC_CLASSES = 20  # more different fractions than this are a measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which column says what; `path` is that of the examples themselves."""

    path: str
    label: str
    group: str | None
    split: str | None


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


def filled(table: Table, column: str, role: str, shown: str) -> list[str]:
    """A column as texts without white space around them, none of them empty."""
    cells = []
    for row, cell in enumerate(table.texts(column)):
        if cell is None:
            raise DataError(
                f'{shown} {table.where(row)}: "{column}" is not a text or number; '
                f"give one {role} per {table.unit}"
            )
        if not cell.strip():
            raise DataError(
                f"{shown} {table.where(row)} has an empty {role}; fill it in or remove the "
                f"{table.unit}"
            )
        check_name(cell, shown)
        cells.append(cell.strip())
    return cells


def groups_of(table: Table, column: str | None, shown: str) -> list[str | None]:
    """The group of each row, None where there is none."""
    if column is None:
        return [None] * len(table.lines)
    groups = [(cell or "").strip() or None for cell in table.texts(column)]
    for group in groups:
        check_name(group or "", shown)
    return groups


def splits_of(table: Table, column: str | None, shown: str) -> list[Split]:
    """The part of each row. Raises: DataError for a word that names none."""
    if column is None:
        return ["train"] * len(table.lines)
    splits = []
    for row, cell in enumerate(table.texts(column)):
        value = (cell or "").strip()
        if value.casefold() not in SPLIT_VALUES:
            raise DataError(
                f'{shown} {table.where(row)}: split is "{value}"; write train, val or test, or '
                "rename the column"
            )
        splits.append(SPLIT_VALUES[value.casefold()])
    return splits


def doubt_of(table: Table, labels: Sequence[str], roles: Roles, shown: str) -> tuple[str, bool]:
    """Why a column cannot hold classes: measurements, or a name of its own for each image.

    And whether it holds measurements.
    """
    n, values = len(labels), set(labels)
    numbers = [_number(label) for label in values]
    is_measured = None not in numbers and any(x is not None and x % 1 for x in numbers)
    if is_measured and len(values) > min(MAX_NUMERIC_CLASSES, max(n // 2, 2)):
        doubt = (
            f'{shown}: "{roles.label}" holds measurements ({some(labels, 3)}), not classes; use '
            "--task regress to learn them, or name a column of classes with --label"
        )
        return doubt, True
    if n > 2 and len(values) == n:
        taken = (roles.path, roles.label, roles.split)
        near = [c for c in table.columns if c not in taken and _looks_like_classes(table.texts(c))]
        cure = f"did you mean --label {near[0]}?" if near else "name another one with --label"
        doubt = (
            f'{shown}: all {n:,} labels in "{roles.label}" are different, so they are no classes; '
            f"{cure}"
        )
        return doubt, False
    return "", False


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _looks_like_classes(cells: Sequence[str | None]) -> bool:
    return all(cells) and 2 <= len(set(cells)) <= len(cells) // 2
