"""Rows by content: what a dict would say, in a small part of its memory."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.features import cache_file
from warmstart.features.cache_file import KEY_BYTES, NOWHERE, RowIndex

# Few contents, so that many come again; some begin with the same eight bytes.
CONTENTS = [f"{head:02x}" * 8 + f"{tail:02x}" * 24 for head in (0, 7, 255) for tail in range(5)]
steps = st.lists(st.tuples(st.sampled_from([*CONTENTS, None]), st.booleans(), st.booleans()))


@given(taken=steps, loose=st.integers(0, 6))
def test_rows_are_found_as_by_a_dict(taken, loose):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_file, "_LOOSE", loose)
        ours, plain = RowIndex(), {}
        for row, (content, is_sound, is_damaged) in enumerate(taken):
            ours.add([content], [row + 100], is_sound=is_sound)
            if content is None:
                continue
            plain[content] = row
            assert ours.are_sound(ours.find([content])).tolist() == [is_sound]
            if is_damaged:
                ours.mark(ours.find([content]), np.array([False]))
                del plain[content]
        assert len(ours) == len(taken)
        found = ours.find(CONTENTS)
        assert found.tolist() == [plain.get(content, NOWHERE) for content in CONTENTS]
        assert (ours.crcs(found[found >= 0]) == found[found >= 0] + 100).all()


def test_a_row_without_a_content_is_not_one_whose_content_is_zeros(monkeypatch):
    monkeypatch.setattr(cache_file, "_LOOSE", 1)
    ours = RowIndex()
    for content in ("00" * KEY_BYTES, None, "02" * KEY_BYTES):
        ours.add([content], [0], is_sound=True)
    assert ours.find(["00" * KEY_BYTES]).tolist() == [0]


def test_many_rows_take_little_memory():
    names = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(30_000)]
    tracemalloc.start()
    ours = RowIndex()
    ours.add(names, range(30_000), is_sound=True)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 130 * 30_000  # a dict and a set take 400
    assert (ours.find(names) == np.arange(30_000)).all()
