"""Rows by content: what a dict would say, in a small part of its memory."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.features import cache
from warmstart.features.cache import KEY_BYTES, NOWHERE, RowIndex

# Few contents, so that many come again; some begin with the same eight bytes.
CONTENTS = [f"{head:02x}" * 8 + f"{tail:02x}" * 24 for head in (0, 7, 255) for tail in range(5)]
steps = st.lists(st.tuples(st.sampled_from([*CONTENTS, None]), st.booleans(), st.booleans()))


@given(rows=steps, n_unsorted=st.integers(0, 6))
def test_rows_are_found_as_by_a_dict(rows, n_unsorted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_UNSORTED", n_unsorted)
        index, plain = RowIndex(), {}
        for row, (content, is_verified, is_damaged) in enumerate(rows):
            index.add([content], [row + 100], is_verified=is_verified)
            if content is None:
                continue
            plain[content] = row
            assert index.are_verified(index.find([content])).tolist() == [is_verified]
            if is_damaged:
                index.mark(index.find([content]), np.array([False]))
                del plain[content]
        assert len(index) == len(rows)
        result = index.find(CONTENTS)
        assert result.tolist() == [plain.get(content, NOWHERE) for content in CONTENTS]
        assert (index.crcs(result[result >= 0]) == result[result >= 0] + 100).all()


def test_a_row_without_a_content_is_not_one_whose_content_is_zeros(monkeypatch):
    monkeypatch.setattr(cache, "_UNSORTED", 1)
    index = RowIndex()
    for content in ("00" * KEY_BYTES, None, "02" * KEY_BYTES):
        index.add([content], [0], is_verified=True)
    assert index.find(["00" * KEY_BYTES]).tolist() == [0]


def test_many_rows_take_little_memory():
    names = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(30_000)]
    tracemalloc.start()
    index = RowIndex()
    index.add(names, range(30_000), is_verified=True)
    rows = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert rows < 130 * 30_000  # a dict and a set take 400
    assert (index.find(names) == np.arange(30_000)).all()
