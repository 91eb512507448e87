"""A table of labelled images: a path, or the image itself, and a label in each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from warmstart.data.dataset import Columns, Listing, Load, Row, Wording, is_too_many, unreadable
from warmstart.data.labels import read_labels, read_roles
from warmstart.data.parsing import PATH_NAMES, Pictures, Table, find_column, groups_of, splits_of
from warmstart.data.place import escaped, is_address, is_utf8, noun_of
from warmstart.data.splits import propose_columns
from warmstart.data.tables import holds_rows, list_rows, list_texts, text_column
from warmstart.errors import DataError
from warmstart.nouns import count

GONE = "is not there"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedFiles:
    """The files that the paths of a table may name; the paths are relative to the table.

    `inside` returns what reads a path, or None if that leads out of the folder. `links` holds
    the links that are not followed, with the reason.
    """

    exists: Callable[[str], bool]
    load: Load
    inside: Callable[[str], Callable[[], bytes] | None]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Images:
    ids: Sequence[str]
    load: Load
    missing: Mapping[int, str] = field(default_factory=dict)  # rows without one, with the reason


def list_table(
    table: Table, *, source: str, name: str, files: ReferencedFiles, columns: Columns
) -> Listing:
    """List the rows of a table.

    A row's id is its path as written; images inside the table have the path they carry, if all
    are different, else their number. A `split` column may say train, val or test. Unless --group
    names a column, one with the usual name of a group is proposed. A table without paths is
    one of texts or of plain columns: see `data/tables.py`.
    Raises: DataError if the table lacks a column, a cell is empty, or files are missing.
    """
    text = text_column(table, columns, source)
    if text is not None:
        return list_texts(table, text, source=source, name=name, columns=columns)
    if holds_rows(table, columns):
        return list_rows(table, source=source, name=name, columns=columns)
    if table.pictures:
        path = table.pictures.column
    else:
        path = find_column(table.columns, None, PATH_NAMES, "path", source)
    roles = read_roles(table, path, columns, source)
    if roles.label == path:
        what = "images" if table.pictures else "paths"
        raise DataError(f'{source}: "{path}" holds the {what}; name another column with --label')
    labels = read_labels(table, roles, columns, source)
    if table.pictures:
        images = _embedded(table.pictures, table, source, files)
    else:
        images = _referenced(table, path, source, files)
    splits = splits_of(table, roles.split, source)
    groups = groups_of(table, roles.group, source)
    rows = tuple(
        Row(id=id, label=label, split=split, group=group)
        for row, (id, label, split, group) in enumerate(
            zip(images.ids, labels.texts, splits, groups, strict=True)
        )
        if row not in images.missing
    )
    noun = noun_of(row.id for row in rows)
    reasons = {f"{escaped(images.ids[n])} ({table.where(n)})": w for n, w in images.missing.items()}
    problems = unreadable(reasons, f"{count(len(reasons), noun)} that cannot be found left out.")
    if not roles.group:
        problems += propose_columns(table, (roles.path, roles.label, roles.split), source)
    return Listing(
        name=name,
        layout=f'{PurePosixPath(source).name}: {noun}s from "{roles.path}", labels from '
        f'"{roles.label}"' + (f', groups from "{roles.group}"' if roles.group else ""),
        title=f"{count(len(rows), noun)} listed in {source}",
        rows=rows,
        load=images.load,
        wording=Wording.of_classes(source, "its row"),
        is_table=True,
        label_problem=labels.problem,
        form=labels.form,
        outputs=labels.outputs,
        problems=problems,
    )


def _referenced(table: Table, column: str, source: str, files: ReferencedFiles) -> _Images:
    """Images by path; a few that are missing are left out."""
    ids = [(cell or "").strip() for cell in table.texts(column)]
    missing = {row: why for row, id in enumerate(ids) if (why := _why_missing(id, files))}
    if is_too_many(len(missing), len(ids)):
        row = next(iter(missing))
        raise DataError(
            f"{source}: {len(missing):,} of {count(len(ids), 'file')} not found "
            f"(first: {ids[row] or 'a cell without a path'}, {table.where(row)}"
            f"{'' if missing[row] == GONE else f', {missing[row]}'}); write paths "
            f"relative to {PurePosixPath(source).name}, with their suffix"
        )
    first: dict[str, int] = {}
    for row, id in enumerate(ids):
        if row not in missing and first.setdefault(id, row) != row:
            raise DataError(
                f"{source} names {id} in {table.unit}s {table.lines[first[id]]} and "
                f"{table.lines[row]}; keep one {table.unit} per file"
            )
    return _Images(ids, lambda id: files.load(_relative(id)), missing)


def _why_missing(id: str, files: ReferencedFiles) -> str:
    """Why the file of a row cannot be read; "" if it can."""
    if not id:
        return "has no path"
    if is_address(id):
        return "is a web address: download it and name the file"
    if not is_utf8(id):
        return "its name is not UTF-8"
    if files.exists(_relative(id)):
        return ""
    return files.links.get(_relative(id), GONE)


def _embedded(pictures: Pictures, table: Table, source: str, files: ReferencedFiles) -> _Images:
    """Images whose bytes lie in the table; those that are named only must lie beside it."""
    images, n = pictures.open(), len(table.lines)
    readers: dict[int, Callable[[], bytes]] = {}  # of files beside the table
    missing: dict[int, str] = {}
    for row, path in enumerate(images.paths):
        if path and not images.inside[row]:
            reader = files.inside(_relative(path))
            if reader is None:
                missing[row] = "is not in the table and does not lie beside it"
            else:
                readers[row] = reader
    if is_too_many(len(missing), n):
        row = next(iter(missing))
        raise DataError(
            f'{source}: {len(missing):,} of {n:,} images in "{pictures.column}" are paths of files '
            f"that do not lie beside it (first: {images.paths[row]}, {table.where(row)}); save the "
            "data set again with the images in it"
        )
    width = len(str(n - 1))
    ids = [path or "" for path in images.paths]
    if not all(ids) or len(set(ids)) < n:
        ids = [f"{row:0{width}}" for row in range(n)]
    for row, id in enumerate(ids):
        if not is_utf8(id):
            missing[row] = "its name is not UTF-8"
    rows = {id: row for row, id in enumerate(ids)}

    def load(id: str) -> bytes:
        row = rows[id]
        return readers[row]() if row in readers else images.load(row)

    return _Images(ids, load, missing)


def _relative(id: str) -> str:
    return str(PurePosixPath(id.replace("\\", "/") if "/" not in id else id))
