"""A table of labelled images: a path, or the image itself, and a label in each row."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from warmstart.data.collection import Columns, Listing, Load, Row, Wording, count, some
from warmstart.data.grouping import propose_columns
from warmstart.data.parsing import Pictures, Table
from warmstart.data.place import check_name
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
MAX_NUMERIC_CLASSES = 20  # more different fractions than this are a measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the paths of a table are looked up in; they are relative to the table.

    `inside` gives what reads a path, if that does not lead out of the folder. `links` holds the
    links that are not followed, with the reason.
    """

    exists: Callable[[str], bool]
    load: Load
    inside: Callable[[str], Callable[[], bytes] | None]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roles:
    """Which column says what."""

    path: str
    label: str
    group: str | None
    split: str | None


@dataclass(frozen=True, slots=True)
class _Images:
    ids: Sequence[str]
    load: Load


def list_table(table: Table, *, shown: str, name: str, files: Files, columns: Columns) -> Listing:
    """List the rows of a table.

    A row's id is its path as written; images that lie in the table itself have the path they
    carry, where all are different, else their number. A `split` column may say train, val or
    test. Where no group was named, a column called like one is proposed.
    Raises: DataError if the table lacks a column, a cell is empty, or files are missing.
    """
    roles = _roles(table, columns, shown)
    rows, load = _rows(table, roles, shown, files)
    taken = (roles.path, roles.label, roles.split)
    return Listing(
        name=name,
        layout=f'{PurePosixPath(shown).name}: images from "{roles.path}", labels from '
        f'"{roles.label}"' + (f', groups from "{roles.group}"' if roles.group else ""),
        title=f"{count(len(rows), 'image')} listed in {shown}",
        rows=rows,
        load=load,
        wording=Wording(source=shown, before=f'{shown}: class "', after='"', remove="its row"),
        is_table=True,
        doubt=_doubt(table, [row.label for row in rows], roles, shown),
        problems=() if roles.group else propose_columns(table, taken, shown),
    )


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


def _roles(table: Table, columns: Columns, shown: str) -> _Roles:
    if table.pictures:
        path = table.pictures.column
    else:
        path = find_column(table.columns, None, PATH_NAMES, "path", shown)
    label = find_column(table.columns, columns.label, LABEL_NAMES, "label", shown)
    if label == path:
        what = "images" if table.pictures else "paths"
        raise DataError(f'{shown}: "{label}" holds the {what}; name another column with --label')
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return _Roles(path=path, label=label, group=group or None, split=split)


def _rows(table: Table, roles: _Roles, shown: str, files: Files) -> tuple[tuple[Row, ...], Load]:
    labels = _filled(table, roles.label, "label", shown)
    if table.pictures:
        images = _embedded(table.pictures, table, shown, files)
    else:
        images = _named(table, roles.path, shown, files)
    splits = _splits(table, roles.split, shown)
    groups = _groups(table, roles.group, shown)
    rows = tuple(
        Row(id=id, label=label, split=split, group=group)
        for id, label, split, group in zip(images.ids, labels, splits, groups, strict=True)
    )
    return rows, images.load


def _filled(table: Table, column: str, role: str, shown: str) -> list[str]:
    """A column as texts without white space around them, none of them empty."""
    cells = []
    for row, cell in enumerate(table.texts(column)):
        if cell is None:
            raise DataError(
                f'{shown} {table.where(row)}: "{column}" is not a text or number; '
                f"give one {role} per image"
            )
        if not cell.strip():
            raise DataError(
                f"{shown} {table.where(row)} has an empty {role}; fill it in or remove the "
                f"{table.unit}"
            )
        check_name(cell, shown)
        cells.append(cell.strip())
    return cells


def _groups(table: Table, column: str | None, shown: str) -> list[str | None]:
    if column is None:
        return [None] * len(table.lines)
    groups = [(cell or "").strip() or None for cell in table.texts(column)]
    for group in groups:
        check_name(group or "", shown)
    return groups


def _splits(table: Table, column: str | None, shown: str) -> list[Split]:
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


def _doubt(table: Table, labels: Sequence[str], roles: _Roles, shown: str) -> str:
    """Why a column cannot hold classes: measurements, or a name of its own for each image."""
    n, values = len(labels), set(labels)
    numbers = [_number(label) for label in values]
    is_measured = None not in numbers and any(x is not None and x % 1 for x in numbers)
    if is_measured and len(values) > min(MAX_NUMERIC_CLASSES, max(n // 2, 2)):
        return (
            f'{shown}: "{roles.label}" holds measurements ({some(labels, 3)}), not classes; '
            "regression is not part of this version. Name a column of classes with --label."
        )
    if n > 2 and len(values) == n:
        taken = (roles.path, roles.label, roles.split)
        near = [c for c in table.columns if c not in taken and _looks_like_classes(table.texts(c))]
        cure = f"did you mean --label {near[0]}?" if near else "name another one with --label"
        return (
            f'{shown}: all {n:,} labels in "{roles.label}" are different, so they are no classes; '
            f"{cure}"
        )
    return ""


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _looks_like_classes(cells: Sequence[str | None]) -> bool:
    return all(cells) and 2 <= len(set(cells)) <= len(cells) // 2


# ---- where the images are ---------------------------------------------------------------------


def _named(table: Table, column: str, shown: str, files: Files) -> _Images:
    """Images by path."""
    ids = _filled(table, column, "path", shown)
    missing = []
    for row, id in enumerate(ids):
        if re.match(r"[a-z0-9]+://", id, re.IGNORECASE):
            raise DataError(
                f"{shown} {table.where(row)} names a web address; download the images and name "
                "the files"
            )
        if not files.exists(_relative(id)):
            missing.append(row)
    if missing:
        id = ids[missing[0]]
        link = files.links.get(_relative(id))
        raise DataError(
            f"{shown}: {len(missing):,} of {count(len(ids), 'file')} not found "
            f"(first: {id}, {table.where(missing[0])}{f', {link}' if link else ''}); write paths "
            f"relative to {PurePosixPath(shown).name}, with their suffix"
        )
    first: dict[str, int] = {}
    for row, id in enumerate(ids):
        if first.setdefault(id, row) != row:
            raise DataError(
                f"{shown} names {id} in {table.unit}s {table.lines[first[id]]} and "
                f"{table.lines[row]}; keep one {table.unit} per image"
            )
    return _Images(ids, lambda id: files.load(_relative(id)))


def _embedded(pictures: Pictures, table: Table, shown: str, files: Files) -> _Images:
    """Images whose bytes lie in the table; those that are named only must lie beside it."""
    stored, n = pictures.open(), len(table.lines)
    beside: dict[int, Callable[[], bytes]] = {}
    lost = []
    for row, path in enumerate(stored.paths):
        if path and not stored.inside[row]:
            opened = files.inside(_relative(path))
            if opened is None:
                lost.append(row)
            else:
                beside[row] = opened
    if lost:
        first = f"{stored.paths[lost[0]]}, {table.where(lost[0])}"
        raise DataError(
            f'{shown}: {len(lost):,} of {n:,} images in "{pictures.column}" are paths of files '
            f"that do not lie beside it (first: {first}); save the data set again with the images "
            "in it"
        )
    width = len(str(n - 1))
    ids = [path or "" for path in stored.paths]
    if not all(ids) or len(set(ids)) < n:
        ids = [f"{row:0{width}}" for row in range(n)]
    for id in ids:
        check_name(id, shown)
    rows = {id: row for row, id in enumerate(ids)}

    def load(id: str) -> bytes:
        row = rows[id]
        return beside[row]() if row in beside else stored.load(row)

    return _Images(ids, load)


def _relative(id: str) -> str:
    return str(PurePosixPath(id.replace("\\", "/") if "/" not in id else id))
