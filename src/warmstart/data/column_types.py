"""What the columns of a table are, as its training rows tell: numbers, categories, or no use."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast, get_args

import numpy as np

from warmstart.data.dataset import some
from warmstart.errors import DataError
from warmstart.modalities.table import has_commas, has_sign, is_missing, number_of
from warmstart.nouns import count, is_are
from warmstart.records.data import Finding
from warmstart.records.inputs import ColumnKind, ColumnRecord
from warmstart.records.plan import Choice, ColumnPlan

MOSTLY = 0.8  # share of numbers above which a text among them is a slip, not a category
EMPTY = 0.95  # share of missing values from which a column tells nothing
VALUES = 30  # categories that get a slot each; further ones, the rare, share that of none
LEAST = 3  # rows that a category needs for a slot of its own
SPANS = 4  # between knots: quarters of the rows
LEFT_OUT = "left-out"
_KINDS = (*get_args(ColumnKind), LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """The columns that a network takes, and what to say of the others."""

    columns: tuple[ColumnRecord, ...]
    findings: tuple[Finding, ...]
    choices: tuple[ColumnPlan, ...]  # of every column, with its reason


class ColumnSetting(NamedTuple):
    """The kind that a person gave a column, and where: `origin` begins an error."""

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
    def filled(self) -> list[str]:
        """Those that are not missing."""
        return [cell.strip() for cell in self.cells if not is_missing(cell)]

    @cached_property
    def strange(self) -> list[str]:
        """Those that are no numbers."""
        return [cell for cell in self.filled if number_of(cell) is None]

    def fail(self, found: str, cure: str) -> DataError:
        return DataError(f'{self.source}: "{self.name}" {found}; {cure}')


def type_columns(
    rows: Sequence[Mapping[str, str]],
    lines: Sequence[str],
    source: str,
    asked: Mapping[str, ColumnSetting] | None = None,
) -> Typed:
    """Tell numbers from categories, and leave out what can tell nothing of a new row.

    `rows` are those of the training part, `lines` say where each stands, `asked` gives the
    kind of some columns: "number", "category" or "left-out". A column of numbers stays one,
    however few values it has: a network sees each of a few values by its knots. Left out:
    columns that are constant, almost always missing, or different in each row.
    Raises: DataError for numbers that are not written as such, for infinite ones, where
    no column is left, and for a kind or a column that is not there.
    """
    asked = asked or {}
    names = list(rows[0]) if rows else []
    _check_asked(asked, names, source)
    columns: list[ColumnRecord] = []
    choices: list[ColumnPlan] = []
    left: dict[str, list[str]] = {}
    for name in names:
        column = _Cells(source, name, [row[name] for row in rows], lines)
        wanted = asked[name].kind if name in asked else None
        reason = _useless(column, wanted)
        if reason:
            left.setdefault(reason, []).append(name)
        else:
            columns.append(_typed(column, wanted))
        kind = LEFT_OUT if reason else columns[-1].kind
        choices.append(ColumnPlan(name=name, kind=_choice(column, kind, reason, wanted)))
    if not columns:
        why = "; ".join(f"{some(group, 3)} {reason}" for reason, group in left.items())
        raise DataError(f"{source} has no column to learn from ({why}); add one")
    findings = tuple(map(_finding, left, left.values()))
    return Typed(columns=tuple(columns), findings=findings, choices=tuple(choices))


def _check_asked(asked: Mapping[str, ColumnSetting], names: Sequence[str], source: str) -> None:
    for name, (kind, origin) in asked.items():
        if not name:
            raise DataError(f"{origin}: it names no column; write --set column.NAME={kind}")
        if name not in names:
            raise DataError(f"{origin}: {source} has no such column. It has: {some(names, 20)}.")
        if kind not in _KINDS:
            raise DataError(f"{origin}: a column is number, category or {LEFT_OUT}.")


def _choice(column: _Cells, kind: str, reason: str, asked: str | None) -> Choice:
    """A column's kind, with what the rule would have said."""
    if asked is None:
        because = reason or f"its cells are {'numbers' if kind == 'number' else 'words'}"
        return Choice(value=kind, because=because, source="rule", rule=kind)
    ruled = LEFT_OUT if _useless(column, None) else "number"
    if ruled == "number" and not _is_number(column):
        ruled = "category"
    return Choice(value=kind, because="your choice", source="user", rule=ruled)


def _finding(reason: str, names: Sequence[str]) -> Finding:
    sentence = f"{count(len(names), 'column')} {is_are(len(names))} left out: {reason}."
    return Finding(kind="columns", sentence=sentence, items=tuple(names))


def _useless(column: _Cells, asked: str | None) -> str:
    """Why a column can tell nothing of a new row; nothing where it may."""
    if asked is not None:
        return "as you chose" if asked == LEFT_OUT else ""
    filled, n = column.filled, len(column.cells)
    if len(filled) <= (1 - EMPTY) * n:
        return "almost always missing"
    if len(set(filled)) == 1 and len(filled) == n:
        return "the same in every row"
    numbers = [number_of(cell) for cell in filled]
    if None not in numbers:
        return "it only counts the rows" if _counts(cast(list[float], numbers)) else ""
    is_name = len(set(filled)) == len(filled) > 2 or len(set(filled)) > max(n / 2, VALUES)
    is_text = is_name and numbers.count(None) > (1 - MOSTLY) * len(filled)
    return "another text in nearly every row" if is_text and not _slips(filled) else ""


def _counts(numbers: Sequence[float]) -> bool:
    """Whether numbers go up by one from row to row, as those of an index do."""
    return len(numbers) > 2 and all(b - a == 1 for a, b in itertools.pairwise(numbers))


def _slips(filled: Sequence[str]) -> str:
    """What stands in cells that are meant as numbers: "commas" or "signs"; nothing in others."""
    others = [cell for cell in filled if number_of(cell) is None]
    if others and all(map(has_commas, others)):
        return "commas"
    return "signs" if others and all(map(has_sign, others)) else ""


def _typed(column: _Cells, asked: str | None) -> ColumnRecord:
    filled = column.filled
    if asked == "category":
        return _category(column, filled)
    strange = column.strange
    is_number = _is_number(column)
    if asked is None and (slip := _slips(filled)):
        raise column.fail(
            f"has numbers with {slip} ({strange[0]!r}, {_where(column, strange[0])})",
            "write them like 1234.5, or, if they are names, "
            f"add --set column.{column.name}=category",
        )
    if strange and (is_number or asked == "number"):
        raise column.fail(
            f"holds numbers, but {strange[0]!r} in {_where(column, strange[0])}",
            f"correct it, leave it empty, or add --set column.{column.name}=category",
        )
    return _category(column, filled) if strange else _number(column, filled)


def _is_number(column: _Cells) -> bool:
    """Whether its cells are numbers, slips apart."""
    return len(column.strange) <= (1 - MOSTLY) * len(column.filled)


def _where(column: _Cells, cell: str) -> str:
    places = [c.strip() for c in column.cells]
    return column.lines[places.index(cell)]


def _category(column: _Cells, filled: Sequence[str]) -> ColumnRecord:
    common = [value for value, n in Counter(filled).most_common(VALUES) if n >= LEAST]
    return ColumnRecord(
        name=column.name,
        kind="category",
        values=tuple(sorted(common or set(filled))[:VALUES]),
        has_missing=len(filled) < len(column.cells),
    )


def _number(column: _Cells, filled: Sequence[str]) -> ColumnRecord:
    values = np.array([float(cell) for cell in filled])
    if not np.isfinite(values).all():
        cell = filled[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise column.fail(
            f"is {cell} in {_where(column, cell)}",
            "give a number, or leave it empty where it is not known",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not math.isfinite(std):
        raise column.fail("holds numbers too large to reckon with", "give them in larger units")
    std = std or 1.0
    return ColumnRecord(
        name=column.name,
        kind="number",
        mean=mean,
        std=std,
        knots=knots((values - mean) / std),
        has_missing=len(filled) < len(column.cells),
    )


def knots(scaled: np.ndarray) -> tuple[float, ...]:
    """Quantiles that split values into quarters, those that differ; each value where few differ.

    Piecewise linear encoding: Gorishniy et al. 2022, "On Embeddings for Numerical Features in
    Tabular Deep Learning", §3.2.

    >>> knots(np.array([0.0, 0.0, 1.0, 2.0]))
    (0.0, 1.0, 2.0)
    """
    values = np.unique(scaled)
    if len(values) > SPANS + 1:
        values = np.unique(np.quantile(scaled, np.linspace(0, 1, SPANS + 1)))
    return tuple(float(value) for value in np.round(values, 6))
