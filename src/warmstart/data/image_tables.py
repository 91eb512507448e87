"""A table of labelled images: a path, or the image itself, and a label in each row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from warmstart.data.dataset import Columns, Listing, Load, Row, Wording, is_too_much, unreadable
from warmstart.data.labels import LabelCells, label_column, read_labels
from warmstart.data.parsing import (
    PATH_NAMES,
    Pictures,
    Roles,
    Table,
    find_column,
    groups_of,
    splits_of,
)
from warmstart.data.place import escaped, is_utf8, noun_of
from warmstart.data.splits import propose_columns
from warmstart.data.tables import holds_rows, list_rows, list_texts, text_column
from warmstart.errors import DataError
from warmstart.nouns import count
from warmstart.records.data import Finding

GONE = "is not there"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedFiles:
    """What the paths of a table are looked up in; they are relative to the table.

    `inside` gives what reads a path, if that does not lead out of the folder. `links` holds the
    links that are not followed, with the reason.
    """

    exists: Callable[[str], bool]
    load: Load
    inside: Callable[[str], Callable[[], bytes] | None]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Images:
    ids: Sequence[str]
    load: Load
    lost: Mapping[int, str] = field(default_factory=dict)  # rows without one, with the reason


def list_table(
    table: Table, *, shown: str, name: str, files: ReferencedFiles, columns: Columns
) -> Listing:
    """List the rows of a table.

    A row's id is its path as written; images that lie in the table itself have the path they
    carry, where all are different, else their number. A `split` column may say train, val or
    test. Where no group was named, a column called like one is proposed.
    A table without paths whose rows hold a text is one of texts: see `texttable.py`.
    One with neither is one of plain columns: see `rowtable.py`.
    Raises: DataError if the table lacks a column, a cell is empty, or files are missing.
    """
    text = text_column(table, columns, shown)
    if text is not None:
        return list_texts(table, text, shown=shown, name=name, columns=columns)
    if holds_rows(table, columns):
        return list_rows(table, shown=shown, name=name, columns=columns)
    roles = _roles(table, columns, shown)
    labels = read_labels(table, roles, columns, shown)
    images = _images(table, roles, shown, files)
    rows = _rows(table, roles, shown, images, labels)
    taken = (roles.path, roles.label, roles.split)
    noun = noun_of(row.id for row in rows)
    return Listing(
        name=name,
        layout=f'{PurePosixPath(shown).name}: {noun}s from "{roles.path}", labels from '
        f'"{roles.label}"' + (f', groups from "{roles.group}"' if roles.group else ""),
        title=f"{count(len(rows), noun)} listed in {shown}",
        rows=rows,
        load=images.load,
        wording=Wording(source=shown, before=f'{shown}: class "', after='"', remove="its row"),
        is_table=True,
        doubt=labels.doubt,
        form=labels.form,
        outputs=labels.outputs,
        problems=_lost(images, table, noun)
        + (() if roles.group else propose_columns(table, taken, shown)),
    )


def _lost(images: _Images, table: Table, noun: str) -> tuple[Finding, ...]:
    reasons = {
        f"{escaped(images.ids[row])} ({table.where(row)})": why for row, why in images.lost.items()
    }
    return unreadable(reasons, f"{count(len(reasons), noun)} that cannot be found left out.")


def _roles(table: Table, columns: Columns, shown: str) -> Roles:
    if table.pictures:
        path = table.pictures.column
    else:
        path = find_column(table.columns, None, PATH_NAMES, "path", shown)
    label = label_column(table, columns, shown)
    if label == path:
        what = "images" if table.pictures else "paths"
        raise DataError(f'{shown}: "{label}" holds the {what}; name another column with --label')
    group = columns.group and find_column(table.columns, columns.group, (), "group", shown)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return Roles(path=path, label=label, group=group or None, split=split)


def _images(table: Table, roles: Roles, shown: str, files: ReferencedFiles) -> _Images:
    if table.pictures:
        return _embedded(table.pictures, table, shown, files)
    return _named(table, roles.path, shown, files)


def _rows(
    table: Table, roles: Roles, shown: str, images: _Images, labels: LabelCells
) -> tuple[Row, ...]:
    splits = splits_of(table, roles.split, shown)
    groups = groups_of(table, roles.group, shown)
    told = zip(images.ids, labels.texts, splits, groups, strict=True)
    return tuple(
        Row(id=id, label=label, split=split, group=group)
        for row, (id, label, split, group) in enumerate(told)
        if row not in images.lost
    )


# ---- where the images are ---------------------------------------------------------------------


def _named(table: Table, column: str, shown: str, files: ReferencedFiles) -> _Images:
    """Images by path; a few that are not there are left out."""
    ids = [(cell or "").strip() for cell in table.texts(column)]
    lost = {row: why for row, id in enumerate(ids) if (why := _why_lost(id, files))}
    if is_too_much(len(lost), len(ids)):
        row = next(iter(lost))
        raise DataError(
            f"{shown}: {len(lost):,} of {count(len(ids), 'file')} not found "
            f"(first: {ids[row] or 'a cell without a path'}, {table.where(row)}"
            f"{'' if lost[row] == GONE else f', {lost[row]}'}); write paths "
            f"relative to {PurePosixPath(shown).name}, with their suffix"
        )
    first: dict[str, int] = {}
    for row, id in enumerate(ids):
        if row not in lost and first.setdefault(id, row) != row:
            raise DataError(
                f"{shown} names {id} in {table.unit}s {table.lines[first[id]]} and "
                f"{table.lines[row]}; keep one {table.unit} per file"
            )
    return _Images(ids, lambda id: files.load(_relative(id)), lost)


def _why_lost(id: str, files: ReferencedFiles) -> str:
    """Why the file of a row cannot be had; "" where it can."""
    if not id:
        return "has no path"
    if re.match(r"[a-z0-9]+://", id, re.IGNORECASE):
        return "is a web address: download it and name the file"
    if not is_utf8(id):
        return "its name is not UTF-8"
    if files.exists(_relative(id)):
        return ""
    return files.links.get(_relative(id), GONE)


def _embedded(pictures: Pictures, table: Table, shown: str, files: ReferencedFiles) -> _Images:
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
    if is_too_much(len(lost), n):
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
    why = dict.fromkeys(lost, "is not in the table and does not lie beside it")
    for row, id in enumerate(ids):
        if not is_utf8(id):
            why[row] = "its name is not UTF-8"
    rows = {id: row for row, id in enumerate(ids)}

    def load(id: str) -> bytes:
        row = rows[id]
        return beside[row]() if row in beside else stored.load(row)

    return _Images(ids, load, why)


def _relative(id: str) -> str:
    return str(PurePosixPath(id.replace("\\", "/") if "/" not in id else id))
