"""CSV, TSV and JSON lines; cells of any kind become texts."""

from __future__ import annotations

import datetime
import decimal
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.parsing import parse, text_of
from warmstart.errors import DataError

ROWS = [("0.png", "cat"), ("1.png", "dog"), ("2.png", "cat")]
CSV = "path,label\n0.png,cat\n1.png,dog\n2.png,cat"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV),
        ("t.csv", CSV.replace(",", ";")),
        ("t.csv", CSV.replace("\n", "\r\n") + "\r\n\r\n"),
        ("t.tsv", CSV.replace(",", "\t")),
        ("t.jsonl", "\n".join(json.dumps({"path": p, "label": k}) for p, k in ROWS) + "\n"),
    ],
)
def test_every_dialect_gives_the_same_rows(name, text):
    table = parse(text.encode(), name)
    columns = map(table.texts, ("path", "label"))
    assert [*zip(*columns, strict=True)] == ROWS
    assert table.columns == ("path", "label")


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("t.csv", "", "t.csv is empty; its first line should be: path,label"),
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", "label,label", 'two columns "label"'),
        ("t.csv", CSV + "\na,b,c", "line 5 has 3 cells, the first line 2"),
        ("t.csv", CSV + '\n"4.png,cat', "unexpected end of data"),
        ("t.csv", CSV.encode("utf-16"), "is UTF-16; save it again as UTF-8 (Excel: CSV UT"),
        ("t.csv", CSV.encode("utf-16-le"), "is UTF-16; save it again as UTF-8"),
        ("t.csv", CSV + "\n\0.png,cat", "line 5 holds a NUL byte, which is not text"),
        ("t.csv", CSV.encode() + b"\n4.png,caf\xe9", "is not UTF-8 (byte"),
        ("t.tsv", CSV, "has no tabs but commas; call it .csv, or separate cells by tabs"),
        ("t.jsonl", '{"path": "0.png"}\nnope\n', "line 2 is not JSON"),
        ("t.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("t.jsonl", '["a"]', "line 1 is not a JSON object"),
        ("t.jsonl", '{"path": "0.png"}\n{"path": "im', "may be cut off; copy it aga"),
        ("t.jsonl", '{"path": "a", "label": "a"}\n{"path": "b"}', 'line 2 has no "label"'),
        ("t.jsonl", "\n\n", "has no rows"),
    ],
)
def test_tables_that_do_not_fit(name, text, part):
    with pytest.raises(DataError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), name)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "text,label\n" + "some words here,a\n" * 50_000),
        ("t.tsv", "a\tb\tlabel\n" + "1\t2\tx\n" * 100_000),
        ("t.jsonl", '{"text": "' + "x" * 4_000_000 + '", "label": "a"}\n'),
        ("t.jsonl", '{"text": [' + "[]," * 200_000 + '[]], "label": "a"}\n'),
    ],
)
def test_a_table_that_does_not_fit_into_memory(monkeypatch, name, text):
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 10_000_000)
    with pytest.raises(DataError, match=rf"{name} takes about .* memory when it is read, and 5 MB"):
        parse(text.encode(), name)


def test_a_table_of_many_columns_is_read_once_a_column():
    """Looking up the place of a column in each row made 20,000 columns take minutes."""

    class Name(str):
        n_compared = 0

        def __eq__(self, other):
            Name.n_compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [f"c{n}" for n in range(500)]
    table = parse("\n".join([",".join(names), *[",".join(["1"] * 500)] * 40]).encode(), "t.csv")
    for name in names:
        table.texts(Name(name))
    assert Name.n_compared <= 2 * len(names)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (type("NAType", (), {})(), ""),
        (np.float32(2), "2"),
        (float("inf"), "inf"),
        (np.int64(-3), "-3"),
        (np.str_("cat"), "cat"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2024, 2, 3), "2024-02-03"),
        (b"cat", None),
        (["cat"], None),
        ({"a": 1}, None),
    ],
)
def test_items(item, text):
    assert text_of(item) == text


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_read_the_same_as_int_and_float(number):
    assert text_of(number) == text_of(float(number)) == str(number)
