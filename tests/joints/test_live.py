"""Pixels for training, and the second look: what the data holds, in the order it was asked for."""

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
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from looking import scene_of
from tiny import PREP, network
from warmstart.data.prepare import load_image
from warmstart.errors import DataError
from warmstart.features.engine import normalised
from warmstart.joints import live
from warmstart.joints.live import PixelFile, read_pixels, second_look
from warmstart.network.taps import Tapped, taps


@pytest.fixture
def scene(pictures):
    return scene_of(pictures, budget="fast")


@pytest.fixture
def spill(monkeypatch, tmp_path):
    """A folder for temporary files; every image goes there."""
    monkeypatch.setattr(live, "IN_MEMORY", 1000)
    folder = tmp_path / "spill"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(live, "_is_in_memory", lambda folder: False)
    return folder


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("limit", [live.IN_MEMORY, 1000])
def test_pixels_are_the_prepared_pictures_row_by_row(scene, pictures, monkeypatch, limit):
    monkeypatch.setattr(live, "IN_MEMORY", limit)
    examples = scene.arranged.learn[::-1]
    found = read_pixels(scene.collection, examples, PREP)
    assert (len(found), found.shape) == (36, (36, 32, 32, 3))
    whole = found.rows(np.arange(36))
    assert (whole.shape, whole.dtype) == ((36, 32, 32, 3), np.uint8)
    for pixels, example in zip(whole, examples, strict=True):
        payload = (pictures / example.id).read_bytes()
        np.testing.assert_array_equal(pixels, load_image(payload, example.id, PREP))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.integers(0, 19), max_size=30), is_small=st.booleans())
def test_rows_come_as_they_are_asked_for(rows, is_small, monkeypatch):
    monkeypatch.setattr(live, "IN_MEMORY", 1_000_000 if is_small else 1000)
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
from warmstart.joints.live import PixelFile
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


def test_the_folder_is_one_with_room_and_on_a_disk_where_there_is_one(spill, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("WARMSTART_CACHE", str(cache))
    assert live.roomy_folder(1000) == spill  # there is no cache folder yet
    cache.mkdir()
    assert live.roomy_folder(1000) == spill
    monkeypatch.setattr(live, "_is_in_memory", lambda folder: folder == spill)
    assert live.roomy_folder(1000) == cache
    monkeypatch.setattr(live, "_free", lambda folder: 500 if folder == cache else 2000)
    assert live.roomy_folder(1000) == spill
    monkeypatch.setattr(live, "_is_in_memory", lambda folder: False)
    monkeypatch.setattr(live, "_free", lambda folder: 500 if folder == spill else 2000)
    assert live.roomy_folder(1000) == cache
    monkeypatch.setattr(live, "_is_in_memory", lambda folder: folder == cache)
    assert live.roomy_folder(1000) == cache  # better there than nowhere
    assert live.roomy_folder(3000) == spill  # none has room: it is the first that says so


def test_what_lies_in_memory_is_told_from_what_lies_on_a_disk(tmp_path):
    assert live._is_in_memory(Path("/dev/shm")) == os.path.ismount("/dev/shm")
    assert not live._is_in_memory(Path("/proc"))
    assert live._free(tmp_path / "nowhere") == 0


def test_an_image_that_changed_since_it_was_read_is_an_error(scene, pictures):
    (pictures / "red" / "003.png").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"red/003.png changed while the run was going on"):
        read_pixels(scene.collection, scene.arranged.learn, PREP)
    (pictures / "red" / "003.png").unlink()
    with pytest.raises(DataError, match=r"red/003.png can no longer be read"):
        read_pixels(scene.collection, scene.arranged.learn, PREP)


def slow(scene, pictures, wanted, examples):
    """Each tap by the network itself, an image at a time."""
    tapped = Tapped(scene.look.network, wanted).eval()
    rows = []
    for example in examples:
        pixels = load_image((pictures / example.id).read_bytes(), example.id, PREP)
        with torch.inference_mode():
            rows.append([tap[0].numpy() for tap in tapped(normalised(pixels[None], PREP))])
    return {tap: np.stack([row[i] for row in rows]) for i, tap in enumerate(wanted)}


def test_a_second_look_reads_the_networks_taps(scene, pictures):
    wanted = taps(scene.look.network.record)[-2:]
    reader = second_look(scene.look.network, wanted, scene.collection, PREP)
    examples = [scene.arranged.learn[i] for i in (7, 0, 35, 7)]
    read = reader(examples)
    for tap, expected in slow(scene, pictures, wanted, examples).items():
        np.testing.assert_allclose(read(tap), expected, rtol=1e-4, atol=1e-5)


def test_a_second_look_passes_each_image_once(scene, monkeypatch):
    seen = []
    make = live.make_engine

    def counting(*arguments):
        engine = make(*arguments)

        def run(pixels):
            seen.append(len(pixels))
            return engine(pixels)

        return run

    monkeypatch.setattr(live, "make_engine", counting)
    wanted = taps(scene.look.network.record)[-1:]
    reader = second_look(scene.look.network, wanted, scene.collection, PREP)
    assert not seen
    learn = scene.arranged.learn
    first = reader(learn[:20])(wanted[0])
    assert sum(seen) == 20
    both = reader([*learn[10:], *learn[:3]])(wanted[0])
    assert sum(seen) == 36
    np.testing.assert_array_equal(both[:10], first[10:])
    np.testing.assert_array_equal(both[-3:], first[:3])


def test_a_second_look_is_at_the_network_that_it_was_given(scene):
    """Not at the store, which holds what the start was before it was trained."""
    wanted = taps(scene.look.network.record)[-1:]
    learn = scene.arranged.learn
    before = scene.look.reader(learn)(wanted[0]).copy()
    with torch.no_grad():
        for parameter in scene.look.network.trunk.parameters():
            parameter *= 1.5
    after = second_look(scene.look.network, wanted, scene.collection, PREP)(learn)(wanted[0])
    assert before.shape == after.shape
    assert np.abs(after - before).max() > 0.01
    assert network().first.weight.shape == scene.look.network.trunk.first.weight.shape


def test_copies_are_passed_once_and_read_as_often_as_they_stand(pictures):
    payload = (pictures / "blue" / "000.png").read_bytes()
    for number in range(3):
        (pictures / "blue" / f"copy-{number}.png").write_bytes(payload)
    scene = scene_of(pictures, budget="fast")
    wanted = taps(scene.look.network.record)[-1:]
    rows = second_look(scene.look.network, wanted, scene.collection, PREP)(scene.arranged.learn)(
        wanted[0]
    )
    same = [e.sha256 == scene.arranged.learn[0].sha256 for e in scene.arranged.learn]
    assert sum(same) == 4
    assert len(np.unique(rows[same], axis=0)) == 1
