"""Cells of a table as numbers: missing values, numbers, a row as a vector."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError
from warmstart.modalities.modality import Form, Modality, suffixes_of
from warmstart.nouns import Nouns
from warmstart.records.inputs import MISSING, SPAN, Kind, TableInputs

_COMMAS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?|[+-]?\d+,\d+")


def is_missing(cell: str) -> bool:
    """Whether the value of a cell is missing."""
    return cell.strip().lower() in MISSING


def number_of(cell: str) -> float | None:
    """The number in a cell, infinite ones included; None for anything else."""
    text = cell.strip()
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def has_commas(cell: str) -> bool:
    """Whether a cell is a number with a decimal comma, or commas between thousands."""
    return _COMMAS.fullmatch(cell.strip()) is not None


def has_sign(cell: str) -> bool:
    """Whether a cell is a number with a percent or currency sign."""
    number = cell.strip().strip("%€$£¥ ")
    return number != cell.strip() and number_of(number) is not None


def pack(cells: Mapping[str, str]) -> bytes:
    """A row as bytes, which are its content and are hashed."""
    return json.dumps(dict(cells), sort_keys=True, ensure_ascii=False).encode()


def unpack(payload: bytes) -> dict[str, str]:
    """The row that `pack` made into bytes."""
    cells: dict[str, str] = json.loads(payload)
    return cells


def encode_row(payload: bytes, name: str, inputs: TableInputs) -> NDArray[np.float32]:
    """One row as input of the network; `name` is for messages. Shapes: returns (width,) float32.

    Raises: DataError if a column is missing, or a cell of a numeric one is not a number.
    """
    cells, values = unpack(payload), np.zeros(inputs.shape, np.float32)
    at = 0
    for column in inputs.columns:
        if column.name not in cells:
            raise DataError(
                f'{name} has no column "{column.name}", which the network takes; add it, empty '
                "where its values are not known"
            )
        cell, slots = cells[column.name].strip(), values[at : at + len(column.slots)]
        at += len(column.slots)
        if is_missing(cell):
            if column.has_missing:
                slots[-1] = 1.0
        elif column.kind == "category":
            if cell in column.values:
                slots[column.values.index(cell)] = 1.0
        else:
            value = number_of(cell)
            if value is None or not math.isfinite(value):
                raise DataError(
                    f'{name}: "{column.name}" is {cell!r}, and it holds numbers; correct it, '
                    "or leave it empty"
                )
            slots[0] = np.clip((value - column.mean) / column.std, -SPAN, SPAN)
    return values


DECODER = 1  # raise it when `encode_row` changes


class TableModality(Modality[TableInputs]):
    """Rows of a table."""

    kind: Kind = "table"
    input_name = "rows"
    hub_name = "tabular"
    example = "table"
    has_base_models = False
    networks = ("table",)
    form: Form = "rows"
    suffixes = suffixes_of("csv tsv jsonl parquet")
    default_base = "scratch"
    base_example = "a run that learnt from one"
    nouns = Nouns(
        one="row",
        picture="row",
        an="a row",
        plain="plain columns",
        changed="the same but for a value",
        typed="new.csv",
        quoted='"new.csv"',
        new="new.csv",
        several="new.csv",
        labelled="more.csv",
        accept=".csv,.tsv,text/csv",
    )

    def encode(self, payload: bytes, name: str, inputs: TableInputs) -> NDArray[np.float32]:
        return encode_row(payload, name, inputs)

    def metadata(self, inputs: TableInputs) -> dict[str, Any]:
        columns = [
            {"name": one.name, "kind": one.kind, "values": list(one.values)}
            for one in inputs.columns
        ]
        return {"columns": columns}

    def decoder(self, inputs: TableInputs) -> str:
        return f"cells {DECODER}"


TABLE = TableModality()
