"""Thumbnails: put from any thread, kept across crashes, made once for every base model."""

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from warmstart.features import cache, extraction
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import ThumbnailKey
from warmstart.features.extraction import ThumbnailWriter

KEY = ThumbnailKey(decoder="pillow 11", draft=32, version=1)
NAMES = [hashlib.sha256(bytes([i])).hexdigest() for i in range(40)]
WIDTH = 7


def thumbnail(name):
    """A thumbnail that the content alone decides."""
    return np.frombuffer(bytes.fromhex(name)[:WIDTH], np.uint8)


def book_at(root, key=KEY):
    return ThumbnailWriter(FeatureCache(root), key)


def filled(root, names=NAMES):
    writer = book_at(root)
    for name in names:
        writer.put(name, thumbnail(name))
    writer.flush()
    return writer


def test_thumbnails_come_back_in_the_requested_order(tmp_path):
    writer = filled(tmp_path)
    requested = [NAMES[7], NAMES[0], NAMES[7]]
    result = writer.read(requested)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, [thumbnail(name) for name in requested])
    assert writer.read([]).shape[0] == 0


def test_what_is_missing_is_named_once_in_order(tmp_path):
    writer = filled(tmp_path, NAMES[:3])
    writer.put(NAMES[5], thumbnail(NAMES[5]))  # not on disk yet, and not missing either
    requested = [NAMES[9], NAMES[1], NAMES[5], NAMES[8], NAMES[9]]
    assert writer.missing(requested) == [NAMES[9], NAMES[8]]


def test_reading_flushes_and_what_is_not_there_is_a_key_error(tmp_path):
    writer = book_at(tmp_path)
    writer.put(NAMES[0], thumbnail(NAMES[0]))
    np.testing.assert_array_equal(writer.read(NAMES[:1]), [thumbnail(NAMES[0])])
    with pytest.raises(KeyError, match=NAMES[1]):
        writer.read(NAMES[:2])


def test_many_threads_put_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_FLUSH", 3)  # so that they write at once, too
    writer = book_at(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: writer.put(name, thumbnail(name)), NAMES * 3))
    assert writer.missing(NAMES) == []
    np.testing.assert_array_equal(writer.read(NAMES), [thumbnail(name) for name in NAMES])
    np.testing.assert_array_equal(
        book_at(tmp_path).read(NAMES), [thumbnail(name) for name in NAMES]
    )


def test_a_killed_process_loses_the_last_few_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_FLUSH", 10)
    writer = book_at(tmp_path)
    for name in NAMES[:25]:
        writer.put(name, thumbnail(name))
    del writer  # killed: nothing is flushed
    again = book_at(tmp_path)
    assert again.missing(NAMES[:25]) == NAMES[20:25]
    np.testing.assert_array_equal(again.read(NAMES[:20]), [thumbnail(name) for name in NAMES[:20]])


@pytest.mark.parametrize("suffix", cache.SUFFIXES)
def test_a_torn_file_is_made_again(tmp_path, suffix):
    filled(tmp_path)
    (path,) = tmp_path.glob(f"{KEY.digest}{suffix}")
    path.write_bytes(path.read_bytes()[:-5])
    writer = book_at(tmp_path)
    for name in writer.missing(NAMES):
        writer.put(name, thumbnail(name))
    np.testing.assert_array_equal(writer.read(NAMES), [thumbnail(name) for name in NAMES])


def test_a_flipped_bit_is_seen(tmp_path):
    filled(tmp_path)
    (path,) = tmp_path.glob(f"{KEY.digest}.rows")
    rows = bytearray(path.read_bytes())
    rows[3 * WIDTH] ^= 1
    path.write_bytes(rows)
    assert book_at(tmp_path).missing(NAMES) == [NAMES[3]]


@pytest.mark.parametrize("other", [{"decoder": "pillow 12"}, {"draft": 64}, {"version": 2}])
def test_another_decoder_draft_or_version_is_another_book(tmp_path, other):
    filled(tmp_path)
    assert book_at(tmp_path, replace(KEY, **other)).missing(NAMES) == NAMES


def test_two_writers_of_one_kind_see_each_others_thumbnails(tmp_path):
    one, other = book_at(tmp_path), book_at(tmp_path)
    one.put(NAMES[0], thumbnail(NAMES[0]))
    one.flush()
    other.put(NAMES[0], thumbnail(NAMES[0]))
    other.put(NAMES[1], thumbnail(NAMES[1]))
    np.testing.assert_array_equal(other.read(NAMES[:2]), [thumbnail(name) for name in NAMES[:2]])


def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path, monkeypatch):
    writer = filled(tmp_path, NAMES[:2])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.put(NAMES[2], thumbnail(NAMES[2]))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_all", full)
        with pytest.raises(OSError, match="No space"):
            writer.flush()
    assert book_at(tmp_path).missing(NAMES[:3]) == [NAMES[2]]
