"""Columns of a table as a network takes them (data.json, model/preprocess.json)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))  # cells, in lower case
SPAN = 8.0  # standard deviations at which a number is cut off: one wild value is not the row
ColumnKind = Literal["number", "category"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRecord:
    """One column, as the training rows have it.

    A number x is given as (x - mean) / std, cut off at ±8, one that is missing as 0. A category
    is 1 in the slot of its value; a value that is none of `values` fills no slot. Where
    training rows lacked some, one more slot is 1 where the value is missing. `knots` are
    quantiles in scaled units, between which a network sees how far a number has come.
    """

    name: str
    kind: ColumnKind
    mean: float = 0.0
    std: float = 1.0
    knots: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    has_missing: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the numbers that a row has for it.

        >>> ColumnRecord(name="cp", kind="category", values=("a", "b"), has_missing=True).slots
        ('cp = a', 'cp = b', 'cp is missing')
        """
        own = (self.name,) if self.kind == "number" else self._values
        return (*own, f"{self.name} is missing") if self.has_missing else own

    @property
    def bins(self) -> tuple[str, ...]:
        """Names of the spans between knots.

        >>> ColumnRecord(name="age", kind="number", knots=(-1.0, 0.0, 1.0)).bins
        ('age, span 1', 'age, span 2')
        """
        return tuple(f"{self.name}, span {n}" for n in range(1, len(self.knots)))

    @property
    def _values(self) -> tuple[str, ...]:
        return tuple(f"{self.name} = {value}" for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInputs:
    """How a row of a table becomes a vector (width,) float32: its columns, one after the other."""

    columns: tuple[ColumnRecord, ...]

    kind: ClassVar[Literal["table"]] = "table"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def slots(self) -> tuple[str, ...]:
        """What each number of the vector is."""
        return tuple(slot for column in self.columns for slot in column.slots)

    @property
    def bins(self) -> tuple[str, ...]:
        """What each number is that the network adds to the vector: one for each span."""
        return tuple(name for column in self.columns for name in column.bins)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded row: (width,)."""
        return (len(self.slots),)
