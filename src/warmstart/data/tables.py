"""Tables as listings: a row is an image or its path, plain columns, or a text, with a label."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from warmstart.data.dataset import Collection, Columns, Listing, Load, Row, is_too_many, unreadable
from warmstart.data.labels import read_labels, read_roles, several
from warmstart.data.names import is_address
from warmstart.data.parsing import (
    LABEL_NAMES,
    PATH_NAMES,
    Pictures,
    Table,
    find_column,
    groups_of,
    splits_of,
)
from warmstart.data.place import escaped, is_utf8, media_of, suffix
from warmstart.data.splits import propose_columns
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.machine import cell_bytes, check_memory
from warmstart.modalities.image import IMAGE
from warmstart.modalities.modality import Modality
from warmstart.modalities.table import (
    TABLE,
    has_commas,
    has_sign,
    is_missing,
    number_of,
    pack,
    unpack,
)
from warmstart.modalities.text import TEXT, payload_of
from warmstart.nouns import Wording, count, is_are
from warmstart.records.findings import Finding
from warmstart.records.inputs import ColumnKind, ColumnRecord
from warmstart.records.plan import Choice, ColumnPlan

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


_Examples = tuple[Sequence[str], Load, dict[int, str]]  # ids; rows without one, with the reason


def list_table(
    table: Table, *, source: str, name: str, files: ReferencedFiles, columns: Columns
) -> Listing:
    """List the rows of a table: of texts, of plain columns, or of images.

    An image's id is its path as written; images inside the table have the path they carry, if
    all are different, else their number. A `split` column may say train, val or test. Unless
    --group names a column, one with a common name of a group is proposed.
    Raises: DataError if the table lacks a column, a cell is empty, or files are missing.
    """
    text = text_column(table, columns, source)
    is_plain = text is None and _holds_rows(table, columns)
    if is_plain and len(table.columns) > MAX_COLUMNS:
        raise DataError(
            f"{source} has {len(table.columns):,} columns; the maximum is {MAX_COLUMNS:,}. Leave "
            "out those that matter least, or use WarmStartClassifier in Python, which takes more"
        )
    if text is not None or is_plain:
        column = text
    elif table.pictures:
        column = table.pictures.column
    else:
        column = find_column(table.columns, None, PATH_NAMES, "path", source)
    roles = read_roles(table, column, columns, source)
    if roles.label == column:
        what = "texts" if text is not None else "images" if table.pictures else "paths"
        raise DataError(f'{source}: "{column}" holds the {what}; name another column with --label')
    labels = read_labels(table, roles, columns, source)
    label_names = several(columns.label, table.columns) or (roles.label,)

    if text is not None:
        ids, load, missing = _texts(table, text, source)
    elif is_plain:
        payloads = row_payloads(table, (*label_names, roles.group, roles.split), source)
        ids, load, missing = list(payloads), payloads.__getitem__, {}
    elif table.pictures:
        ids, load, missing = _embedded(table.pictures, table, source, files)
    else:
        ids, load, missing = _referenced(table, str(column), source, files)
    splits, groups = splits_of(table, roles.split, source), groups_of(table, roles.group, source)
    cells = zip(ids, labels.texts, splits, groups, strict=True)
    rows = tuple(
        Row(id=id, label=label, split=split, group=group)
        for number, (id, label, split, group) in enumerate(cells)
        if number not in missing
    )

    modality: Modality[Any] = TEXT if text is not None else TABLE if is_plain else IMAGE
    nouns = modality.nouns if modality is not IMAGE else media_of(row.id for row in rows).nouns
    problems: tuple[Finding, ...] = ()
    if modality is IMAGE:
        reasons = {f"{escaped(ids[n])} ({table.where(n)})": why for n, why in missing.items()}
        sentence = f"{nouns.count(len(reasons))} that cannot be found left out."
        problems = unreadable(reasons, sentence)
    elif missing:
        sentence = f"{count(len(missing), table.unit)} without a text left out."
        empty = tuple(ids[number] for number in missing)
        problems = (Finding(kind="unreadable", sentence=sentence, items=empty),)
    if not roles.group:
        problems += propose_columns(table, (roles.path, *label_names, roles.split), source)
    examples = "rows" if is_plain else f'{nouns.many} from "{column}"'
    by_group = f', groups from "{roles.group}"' if roles.group else ""
    listed = "in" if text is not None else "of" if is_plain else "listed in"
    return Listing(
        name=name,
        kind=modality.kind,
        layout=f'{PurePosixPath(source).name}: {examples}, labels from "{roles.label}"{by_group}',
        title=f"{nouns.count(len(rows))} {listed} {source}",
        rows=rows,
        load=load,
        wording=Wording.of_classes(
            source, "its rows" if is_plain else "its row", modality.nouns.one
        ),
        is_table=True,
        label_problem=labels.problem,
        problems=problems,
        n_harmless=len(missing) if text is not None else 0,
        form=labels.form,
        outputs=labels.outputs,
    )


def _referenced(table: Table, column: str, source: str, files: ReferencedFiles) -> _Examples:
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
    return ids, lambda id: files.load(_relative(id)), missing


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


def _embedded(pictures: Pictures, table: Table, source: str, files: ReferencedFiles) -> _Examples:
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

    return ids, load, missing


def _relative(id: str) -> str:
    return str(PurePosixPath(id.replace("\\", "/") if "/" not in id else id))


# ---- Tables of plain columns.

_N_ROWS = 20  # rows that are read to recognise file names
# The network that reads a table takes memory by the square of them: 1 GB at 8,000.
MAX_COLUMNS = 8000


def _holds_rows(table: Table, columns: Columns) -> bool:
    """Whether the rows themselves are the examples: --kind table, or no column names files."""
    if columns.kind != "auto":
        return columns.kind == TABLE.kind
    names = {column.casefold() for column in table.columns}
    if table.pictures or not names.isdisjoint(PATH_NAMES) or len(names) < 2:
        return False
    return not any(
        cell and suffix(cell.strip()) in IMAGE.suffixes
        for column in table.columns
        for cell in table.texts(column)[:_N_ROWS]
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
    common name; else the only column of running words.
    Raises: DataError if --text names none, or --kind text leaves several to choose from.
    """
    if columns.text is not None:
        return find_column(table.columns, columns.text, (), "text", source)
    if columns.kind not in ("auto", TEXT.kind):
        return None
    by_fold = {column.casefold(): column for column in table.columns}
    if columns.kind == "auto" and (table.pictures or not by_fold.keys().isdisjoint(PATH_NAMES)):
        return None
    matches = [by_fold[name] for name in TEXT_NAMES if name in by_fold]
    free = [column for column in matches if column not in (columns.label, columns.group)]
    if matches:
        return (free or matches)[0]  # a column used twice is an error with its own message
    others = [c for c in table.columns if c not in (columns.label, columns.group)]
    others = [c for c in others if c.casefold() not in (*LABEL_NAMES, "split")]
    if columns.kind != TEXT.kind and len(others) > MAX_OTHER_COLUMNS + 1:
        return None  # many columns are a table of measurements, some of which are words
    texts = [c for c in others if _is_words(table.texts(c))]
    if len(texts) == 1:
        return texts[0]
    if columns.kind != TEXT.kind and not texts:
        return None
    names = first_few(texts or table.columns, 20)
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


def _texts(table: Table, column: str, source: str) -> _Examples:
    """Texts; an empty one is left out."""
    width = len(str(max(table.lines)))
    ids = [f"{line:0{width}}" for line in table.lines]
    payloads: dict[str, bytes] = {}
    for number, (id, cell) in enumerate(zip(ids, table.texts(column), strict=True)):
        if cell is None:
            raise DataError(
                f'{source} {table.where(number)}: "{column}" is not a text; give one per row'
            )
        payloads[id] = payload_of(cell)
    empty = {number: "is empty" for number, id in enumerate(ids) if not payloads[id]}
    return ids, payloads.__getitem__, empty


# ---- The types of columns, inferred from training rows: numbers, categories, or left out.

MOSTLY = 0.8  # share of numbers above which a text among them is a typo, not a category
EMPTY = 0.95  # share of missing values from which a column is useless
VALUES = 30  # categories that get a slot each; further ones, the rare, share the slot of "none"
MIN_ROWS = 3  # rows that a category needs for its own slot
SPANS = 4  # between knots: quarters of the rows
LEFT_OUT = "left-out"
_KINDS = (*get_args(ColumnKind), LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """The columns that a network takes, and findings about the others."""

    columns: tuple[ColumnRecord, ...]
    findings: tuple[Finding, ...]
    choices: tuple[ColumnPlan, ...]  # of every column, with its reason


class ColumnSetting(NamedTuple):
    """The kind that the user set for a column; error messages begin with `origin`."""

    kind: str
    origin: str


@dataclass(frozen=True)
class _Cells:
    """One column of the training rows; `lines` say where each cell stands."""

    source: str
    name: str
    cells: Sequence[str]
    lines: Sequence[str]

    @cached_property
    def present(self) -> list[str]:
        return [cell.strip() for cell in self.cells if not is_missing(cell)]

    @cached_property
    def words(self) -> list[str]:
        """Present cells that are not numbers."""
        return [cell for cell in self.present if number_of(cell) is None]

    @property
    def is_numeric(self) -> bool:
        """Whether its cells are numbers, apart from typos."""
        return len(self.words) <= (1 - MOSTLY) * len(self.present)

    def where(self, cell: str) -> str:
        return self.lines[[c.strip() for c in self.cells].index(cell)]

    def error(self, problem: str, remedy: str) -> DataError:
        return DataError(f'{self.source}: "{self.name}" {problem}; {remedy}')


def type_columns(
    rows: Sequence[Mapping[str, str]],
    lines: Sequence[str],
    source: str,
    settings: Mapping[str, ColumnSetting] | None = None,
) -> Typed:
    """Tell numbers from categories, and leave out columns that cannot describe a new row.

    `rows` are the training rows, `lines` say where each stands, `settings` gives the kind of
    some columns: "number", "category" or "left-out". A column of numbers stays one, however
    few values it has: a network sees each of a few values by its knots. Left out: columns
    that are constant, almost always missing, or different in each row.
    Raises: DataError for numbers that are not written as such, for infinite ones, if no
    column remains, and for a setting of an unknown kind or column.
    """
    settings = settings or {}
    names = list(rows[0]) if rows else []
    for name, (kind, origin) in settings.items():
        if not name:
            raise DataError(f"{origin}: it names no column; write --set column.NAME={kind}")
        if name not in names:
            raise DataError(
                f"{origin}: {source} has no such column. It has: {first_few(names, 20)}."
            )
        if kind not in _KINDS:
            raise DataError(f"{origin}: a column is number, category or {LEFT_OUT}.")
    columns: list[ColumnRecord] = []
    choices: list[ColumnPlan] = []
    left_out: dict[str, list[str]] = {}
    for name in names:
        column = _Cells(source, name, [row[name] for row in rows], lines)
        setting = settings[name].kind if name in settings else None
        reason = _why_left_out(column, setting)
        if reason:
            left_out.setdefault(reason, []).append(name)
        else:
            columns.append(_column_record(column, setting))
        kind = LEFT_OUT if reason else columns[-1].kind
        choices.append(ColumnPlan(name=name, kind=_choice(column, kind, reason, setting)))
    if not columns:
        why = "; ".join(f"{first_few(group, 3)} {reason}" for reason, group in left_out.items())
        raise DataError(f"{source} has no column to learn from ({why}); add one")
    findings = tuple(
        Finding(
            kind="columns",
            sentence=f"{count(len(group), 'column')} {is_are(len(group))} left out: {reason}.",
            items=tuple(group),
        )
        for reason, group in left_out.items()
    )
    return Typed(columns=tuple(columns), findings=findings, choices=tuple(choices))


def _choice(column: _Cells, kind: str, reason: str, setting: str | None) -> Choice:
    """A column's kind, with what the rule would have chosen."""
    if setting is None:
        because = reason or f"its cells are {'numbers' if kind == 'number' else 'words'}"
        return Choice(value=kind, because=because, source="rule", rule=kind)
    rule = "number" if column.is_numeric else "category"
    if _why_left_out(column, None):
        rule = LEFT_OUT
    return Choice(value=kind, because="your choice", source="user", rule=rule)


def _why_left_out(column: _Cells, setting: str | None) -> str:
    """Why a column cannot describe a new row; "" if it may."""
    if setting is not None:
        return "as you chose" if setting == LEFT_OUT else ""
    cells, n = column.present, len(column.cells)
    if len(cells) <= (1 - EMPTY) * n:
        return "almost always missing"
    n_values = len(set(cells))
    if n_values == 1 and len(cells) == n:
        return "the same in every row"
    if not column.words:
        numbers = [cast(float, number_of(cell)) for cell in cells]
        is_index = len(numbers) > 2 and all(b - a == 1 for a, b in itertools.pairwise(numbers))
        return "it only counts the rows" if is_index else ""
    is_name = n_values == len(cells) > 2 or n_values > max(n / 2, VALUES)
    is_text = is_name and not column.is_numeric
    return "another text in nearly every row" if is_text and not _notation(column) else ""


def _notation(column: _Cells) -> str:
    """How numbers are written that cannot be read: with "commas" or "signs"; "" for words."""
    if column.words and all(map(has_commas, column.words)):
        return "commas"
    return "signs" if column.words and all(map(has_sign, column.words)) else ""


def _column_record(column: _Cells, setting: str | None) -> ColumnRecord:
    if setting == "category":
        return _category(column)
    words = column.words
    if setting is None and (notation := _notation(column)):
        raise column.error(
            f"has numbers with {notation} ({words[0]!r}, {column.where(words[0])})",
            "write them like 1234.5, or, if they are names, "
            f"add --set column.{column.name}=category",
        )
    if words and (column.is_numeric or setting == "number"):
        raise column.error(
            f"holds numbers, but {words[0]!r} in {column.where(words[0])}",
            f"correct it, leave it empty, or add --set column.{column.name}=category",
        )
    return _category(column) if words else _number(column)


def _category(column: _Cells) -> ColumnRecord:
    cells = column.present
    common = [value for value, n in Counter(cells).most_common(VALUES) if n >= MIN_ROWS]
    return ColumnRecord(
        name=column.name,
        kind="category",
        values=tuple(sorted(common or set(cells))[:VALUES]),
        has_missing=len(cells) < len(column.cells),
    )


def _number(column: _Cells) -> ColumnRecord:
    cells = column.present
    values = np.array([float(cell) for cell in cells])
    if not np.isfinite(values).all():
        cell = cells[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise column.error(
            f"is {cell} in {column.where(cell)}",
            "give a number, or leave it empty where it is not known",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not math.isfinite(std):
        raise column.error("holds numbers too large to compute with", "give them in larger units")
    std = std or 1.0
    return ColumnRecord(
        name=column.name,
        kind="number",
        mean=mean,
        std=std,
        knots=knots((values - mean) / std),
        has_missing=len(cells) < len(column.cells),
    )


def knots(scaled: np.ndarray) -> tuple[float, ...]:
    """Distinct quantiles that split values into quarters (Gorishniy et al. 2022, §3.2)."""
    values = np.unique(scaled)
    if len(values) > SPANS + 1:
        values = np.unique(np.quantile(scaled, np.linspace(0, 1, SPANS + 1)))
    return tuple(float(value) for value in np.round(values, 6))
