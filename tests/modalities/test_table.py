"""Cells as numbers, rows as vectors."""

import pytest

from warmstart.errors import DataError
from warmstart.modalities.table import encode_row, has_commas, is_missing, number_of, pack, unpack
from warmstart.records.inputs import ColumnRecord, TableInputs

AGE = ColumnRecord(name="age", kind="number", mean=50.0, std=10.0, has_missing=True)
SITE = ColumnRecord(name="site", kind="category", values=("north", "south"))
INPUTS = TableInputs(columns=(AGE, SITE))


def encoded(**cells):
    return encode_row(pack(cells), "line 2", INPUTS).tolist()


def test_a_row_is_scaled_numbers_then_a_slot_for_each_category():
    assert INPUTS.slots == ("age", "age is missing", "site = north", "site = south")
    assert encoded(age="60", site="south") == [1.0, 0.0, 0.0, 1.0]


def test_what_is_missing_is_the_mean_and_says_so_and_a_new_category_fills_no_slot():
    assert encoded(age=" N/A ", site="west") == [0.0, 1.0, 0.0, 0.0]
    assert encoded(age="", site="") == [0.0, 1.0, 0.0, 0.0]


def test_wild_numbers_are_cut_off():
    assert encoded(age="1e30", site="north")[0] == 8.0


def test_columns_that_the_network_does_not_take_are_ignored():
    assert encoded(age="60", site="north", shoe="43") == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("cell", ["sixty", "inf", "1_000"])
def test_what_is_no_number_is_refused(cell):
    with pytest.raises(DataError, match=r'line 2: "age" is .*, and it holds numbers; correct it'):
        encoded(age=cell, site="north")


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(DataError, match='line 2 has no column "site", which the network takes'):
        encoded(age="60")


def test_rows_are_packed_in_one_order():
    assert pack({"b": "é", "a": "1"}) == pack({"a": "1", "b": "é"})
    assert unpack(pack({"b": "é"})) == {"b": "é"}


def test_words_for_missing_and_numbers_with_commas():
    assert [is_missing(cell) for cell in ("", "?", "nan", "0", "north")] == [True] * 3 + [False] * 2
    assert [number_of(cell) for cell in ("3", "-1e2", "inf", "x")] == [3, -100, float("inf"), None]
    assert [has_commas(cell) for cell in ("1,5", "12,345", "1,234.5", "x,y", "3")] == [
        True,
        True,
        True,
        False,
        False,
    ]
