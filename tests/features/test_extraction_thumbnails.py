"""Thumbnails of many examples: read when asked for, the same as all at once."""

import numpy as np
import pytest

from detailed_images import training_data
from extraction import collect, look_at
from warmstart.features import extraction
from warmstart.features.extraction import StoredThumbnails
from warmstart.run.cleaning import near_duplicate_pairs

N = 12


@pytest.fixture(scope="module")
def thumbnailed(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(N):
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        training_data(number, width=90 + 5 * number).save(path)
    training_data(3, width=105).resize((150, 170)).save(root / "b" / "again.jpg")
    collection = collect(root)
    return collection, look_at(collection)[0]


def test_what_is_read_by_rows_is_what_is_kept(thumbnailed, monkeypatch):
    collection, extracted = thumbnailed
    examples = collection.record.examples
    whole = extracted.thumbnails(examples)
    for stored in (100, 5):
        monkeypatch.setattr(extraction, "MAX_IN_MEMORY", stored)
        monkeypatch.setattr(extraction, "_ROWS", 4)
        stored = StoredThumbnails(extracted, examples)
        assert len(stored) == len(stored.grey) == len(examples)
        for rows in (np.array([7, 2, 7]), slice(3, 9), slice(None), np.array([], dtype=int)):
            np.testing.assert_array_equal(stored.grey[rows], whole.grey[rows])
            np.testing.assert_array_equal(stored.colour[rows], whole.colour[rows])
        np.testing.assert_array_equal(stored.of(np.array([4, 1])).border, whole.border[[4, 1]])
        for name in ("width", "height", "n_bytes", "is_colour", "format"):
            np.testing.assert_array_equal(getattr(stored.files, name), getattr(whole, name))
        np.testing.assert_array_equal(
            stored.files.short_side(), np.minimum(whole.width, whole.height)
        )


def test_near_duplicates_of_many_are_those_of_few(thumbnailed, monkeypatch):
    collection, extracted = thumbnailed
    few = near_duplicate_pairs(collection, extracted)
    assert few == (("b/03.png", "b/again.jpg"),)
    monkeypatch.setattr(extraction, "MAX_IN_MEMORY", 5)
    assert near_duplicate_pairs(collection, extracted) == few


def test_many_are_never_read_at_once(thumbnailed, monkeypatch):
    collection, extracted = thumbnailed
    monkeypatch.setattr(extraction, "MAX_IN_MEMORY", 5)
    monkeypatch.setattr(extraction, "_ROWS", 4)
    requested = []
    plain = type(extracted).thumbnails
    monkeypatch.setattr(
        type(extracted),
        "thumbnails",
        lambda self, rows: requested.append(len(rows)) or plain(self, rows),
    )
    stored = StoredThumbnails(extracted, collection.record.examples)
    assert not requested
    assert len(stored.files.width) == N + 1
    assert requested == [4, 4, 4, 1]
    assert stored.files is stored.files
