"""The types of table columns, inferred from training rows: numbers, categories, or left out."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast, get_args

import numpy as np

from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.modalities.table import has_commas, has_sign, is_missing, number_of
from warmstart.nouns import count, is_are
from warmstart.records.data import Finding
from warmstart.records.inputs import ColumnKind, ColumnRecord
from warmstart.records.plan import Choice, ColumnPlan

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
