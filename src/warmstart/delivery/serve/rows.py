"""A body to the rows of a table in it: JSON by column name, or a CSV file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from warmstart.delivery.serve.inputs import Sent, Takes, files_in, one_or_many, read_json
from warmstart.delivery.serve.problems import Problem
from warmstart.delivery.serve.served import Limits

ROWS = Takes(
    (b"application/json", b"text/csv", b"multipart/form-data"),
    'send application/json such as {"row": {"age": 62}}, or a CSV file as text/csv or in a form',
)
Cells = dict[str, str | int | float | bool | None]


class SentRows(BaseModel):
    """`{"row": {"age": 62, "site": "north"}}` or `{"rows": [{…}, …]}`; null where not known."""

    model_config = ConfigDict(extra="forbid")
    row: Cells | None = None
    rows: list[Cells] = []


def rows_in(content_type: str, body: bytes, limits: Limits) -> list[Sent]:
    """The rows of a body, in order; at least one. Each is JSON: {column: text}.

    Raises: Problem 400, 413, 415 or 422.

    >>> rows_in("application/json", b'{"row": {"age": 62, "dose": null}}', Limits())
    [Sent(name='#0', payload=b'{"age": "62", "dose": ""}')]
    >>> [one.payload for one in rows_in("text/csv", b"age;site\\n62;north\\n", Limits())]
    [b'{"age": "62", "site": "north"}']
    """
    kind, options = ROWS.kind_of(content_type)
    if kind == b"application/json":
        found = _in_json(body)
    elif kind == b"text/csv":
        found = _in_csv(body, "")
    else:
        files = files_in(options.get(b"boundary", b""), body, limits)
        found = [row for file in files for row in _in_csv(file.payload, f"{file.name} ")]
    if not found:
        raise Problem(400, f"no row was sent; {ROWS.ways}")
    if len(found) > limits.rows:
        raise Problem(413, f"more than {limits.rows} rows in one request; send them in several")
    return found


def _in_json(body: bytes) -> list[Sent]:
    asked = read_json(SentRows, body)
    rows = one_or_many("row", asked.row, asked.rows)
    return [_sent(f"#{n}", row.items()) for n, row in enumerate(rows)]


def _in_csv(payload: bytes, name: str) -> list[Sent]:
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(422, f"{name}is no table: it is not UTF-8") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise Problem(422, f"{name}is no table: {error}") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise Problem(422, f"{name}line {number} has another number of cells than the header")
    return [_sent(f"{name}line {number}", row.items()) for number, row in enumerate(rows, 2)]


def _sent(name: str, cells: Iterable[tuple[str, object]] | Mapping[str, object]) -> Sent:
    texts = {column: "" if cell is None else str(cell) for column, cell in dict(cells).items()}
    return Sent(name, json.dumps(texts, ensure_ascii=False).encode())
