"""Pixels for training: what the data holds, in the order it was asked for."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extraction import scene_of
from tiny import PREP
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.training import batches
from warmstart.training.batches import PixelFile, read_pixels


@pytest.fixture
def training_data(pictures):
    return scene_of(pictures, budget="fast")


@pytest.fixture
def spill(monkeypatch, tmp_path):
    """A folder for temporary files; every image goes there."""
    monkeypatch.setattr(batches, "IN_MEMORY", 1000)
    folder = tmp_path / "spill"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(batches, "_is_in_memory", lambda folder: False)
    return folder


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("limit", [batches.IN_MEMORY, 1000])
def test_pixels_are_the_prepared_pictures_row_by_row(training_data, pictures, monkeypatch, limit):
    monkeypatch.setattr(batches, "IN_MEMORY", limit)
    examples = training_data.labelled.learn[::-1]
    found = read_pixels(training_data.collection, examples, PREP)
    assert (len(found), found.shape) == (36, (36, 32, 32, 3))
    whole = found.rows(np.arange(36))
    assert (whole.shape, whole.dtype) == ((36, 32, 32, 3), np.uint8)
    for pixels, example in zip(whole, examples, strict=True):
        payload = (pictures / example.id).read_bytes()
        np.testing.assert_array_equal(pixels, IMAGE.encode(payload, example.id, PREP))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.integers(0, 19), max_size=30), is_small=st.booleans())
def test_rows_come_as_they_are_asked_for(rows, is_small, monkeypatch):
    monkeypatch.setattr(batches, "IN_MEMORY", 1_000_000 if is_small else 1000)
    images, rows = noise(20), np.array(rows, np.int64)
    file = PixelFile(images, images.shape)
    found = file.rows(rows)
    np.testing.assert_array_equal(found, images[rows])
    assert found.flags.writeable
    found[:] = 0  # an array of its own
    np.testing.assert_array_equal(file.rows(rows), images[rows])
    for outside in (20, 10**6):
        with pytest.raises((ValueError, IndexError)):
            file.rows(np.array([outside]))


def test_rows_may_be_read_from_many_threads(spill):
    images = noise(50)
    file = PixelFile(images, images.shape)
    asked = [np.random.default_rng(seed).integers(0, 50, 20) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(asked, pool.map(file.rows, asked), strict=True):
            np.testing.assert_array_equal(found, images[rows])


def test_many_pixels_lie_in_a_file_that_is_gone_with_them(spill):
    n_open = len(os.listdir("/dev/fd"))
    images = noise(20)
    file = PixelFile(iter(images), images.shape)
    assert file.rows(np.arange(20)).any()
    assert not [*spill.iterdir()]
    assert len(os.listdir("/dev/fd")) == n_open + 1
    del file
    assert len(os.listdir("/dev/fd")) == n_open


def test_memory_does_not_grow_with_the_images():
    """Written and read from end to end in a process of its own: 400 MB pass, none stay."""
    code = """
import resource, numpy as np
from warmstart.training.batches import PixelFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
image = np.ones((224, 224, 3), np.uint8)
before = peak()
file = PixelFile((image for _ in range(2650)), (2650, 224, 224, 3))
assert all(file.rows(np.arange(i, i + 32)).all() for i in range(0, 2650 - 32, 32))
print(peak() - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(grown.stdout) < 40e6


def test_a_full_disk_is_met_before_anything_is_decoded_and_names_the_folder(spill, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    images, decoded = noise(20), []
    with pytest.raises(OSError, match="No space left on device") as caught:
        PixelFile((decoded.append(1) or image for image in images), images.shape)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(spill))
    assert not decoded
    assert not [*spill.iterdir()]


@pytest.mark.parametrize("reserves", [True, False])
def test_a_file_that_may_not_grow_names_the_folder(spill, monkeypatch, reserves):
    """A limit that the system itself enforces, also where nothing can be reserved."""
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            PixelFile(noise(20), noise(20).shape)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(spill)


def test_the_folder_is_one_with_context_and_on_a_disk_where_there_is_one(
    spill, monkeypatch, tmp_path
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("WARMSTART_CACHE", str(cache))
    assert batches.folder_with_space(1000) == spill  # there is no cache folder yet
    cache.mkdir()
    assert batches.folder_with_space(1000) == spill
    monkeypatch.setattr(batches, "_is_in_memory", lambda folder: folder == spill)
    assert batches.folder_with_space(1000) == cache
    monkeypatch.setattr(batches, "_free_bytes", lambda folder: 500 if folder == cache else 2000)
    assert batches.folder_with_space(1000) == spill
    monkeypatch.setattr(batches, "_is_in_memory", lambda folder: False)
    monkeypatch.setattr(batches, "_free_bytes", lambda folder: 500 if folder == spill else 2000)
    assert batches.folder_with_space(1000) == cache
    monkeypatch.setattr(batches, "_is_in_memory", lambda folder: folder == cache)
    assert batches.folder_with_space(1000) == cache  # better there than nowhere
    assert batches.folder_with_space(3000) == spill  # none has room: it is the first that says so


def test_what_lies_in_memory_is_told_from_what_lies_on_a_disk(tmp_path):
    assert batches._is_in_memory(Path("/dev/shm")) == os.path.ismount("/dev/shm")
    assert not batches._is_in_memory(Path("/proc"))
    assert batches._free_bytes(tmp_path / "nowhere") == 0


def test_an_image_that_changed_since_it_was_read_is_an_error(training_data, pictures):
    (pictures / "red" / "003.png").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"red/003.png changed while the run was going on"):
        read_pixels(training_data.collection, training_data.labelled.learn, PREP)
    (pictures / "red" / "003.png").unlink()
    with pytest.raises(DataError, match=r"red/003.png can no longer be read"):
        read_pixels(training_data.collection, training_data.labelled.learn, PREP)
