"""New rows of tables, and tensors, as a finished model takes them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.cells import pack
from warmstart.data.collection import some
from warmstart.data.objects import Frame, frame_table
from warmstart.data.parsing import Table, text_of
from warmstart.data.rowtable import row_payloads
from warmstart.data.sources import open_table
from warmstart.data.tensors import as_values
from warmstart.errors import DataError
from warmstart.records import Inputs, TableInputs, TensorInputs


@dataclass(frozen=True, slots=True)
class Named:
    """An example that has no file of its own: its name in answers, the bytes that stand for it."""

    name: str
    payload: bytes


def opened(inputs: Any, wanted: Inputs) -> Sequence[Any]:
    """What was given to be answered, one by one: rows of a table, tensors; others as they are.

    Rows come as paths of tables, as a DataFrame, or as mappings from column to value.
    Raises: DataError for a table that cannot be read, or lacks a column that the model takes.
    """
    if isinstance(wanted, TableInputs):
        return list(_rows(inputs, wanted))
    if isinstance(wanted, TensorInputs):
        return [_tensor(item, f"#{place}") for place, item in enumerate(inputs)]
    found: Sequence[Any] = inputs
    return found


def _rows(inputs: Any, wanted: TableInputs) -> Iterator[Named]:
    if isinstance(inputs, Frame) and not isinstance(inputs, Mapping):
        yield from _of_table(frame_table(inputs), "the DataFrame", wanted)
        return
    for place, item in enumerate([inputs] if isinstance(inputs, (str, Path, Mapping)) else inputs):
        if isinstance(item, (str, Path)):
            yield from _of_table(open_table(Path(item).expanduser(), str(item)), str(item), wanted)
        elif isinstance(item, Mapping):
            yield Named(f"#{place}", pack({str(k): text_of(v) or "" for k, v in item.items()}))
        else:
            raise DataError(
                f"#{place} is of type {type(item).__name__}; give tables by their path, a "
                "DataFrame, or rows as mappings from column to value"
            )


def _of_table(table: Table, shown: str, wanted: TableInputs) -> Iterator[Named]:
    lost = [column.name for column in wanted.columns if column.name not in table.columns]
    if lost:
        raise DataError(
            f"{shown} has no column {some([repr(name) for name in lost], 3)}, which the model "
            f"takes; it has: {some(table.columns, 20)}. Add it, empty where it is not known"
        )
    for id, payload in row_payloads(table, (), shown).items():
        yield Named(f"{shown} {id}", payload)


def _tensor(item: Any, name: str) -> Named:
    """A tensor, or a pair of one and its class, as a data set gives it."""
    values = item[0] if isinstance(item, tuple) and len(item) == 2 else item
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, as_values(values, name), allow_pickle=False)
    return Named(name, buffer.getvalue())
