"""Cells of any kind become texts."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.parsing import text_of


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (type("NAType", (), {})(), ""),
        (np.float32(2), "2"),
        (2.5, "2.5"),
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
