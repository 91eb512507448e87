"""Inputs of training: pixels, and outputs of the frozen blocks, computed once and read again."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobs
from tiny import PREP, network
from warmstart.errors import DataError, TrainingError
from warmstart.events import follow
from warmstart.features.engine import EngineError
from warmstart.modalities.image import IMAGE
from warmstart.network.cut import FrozenPrefix
from warmstart.network.feature_layers import feature_layers
from warmstart.planning.schedule import schedule
from warmstart.records.network import FeatureLayer
from warmstart.training import batches
from warmstart.training.augmentations import (
    Augmentations,
    numbered_augmentation,
)
from warmstart.training.batches import PixelFile, cache_activations, cached_batches, read_pixels


@pytest.fixture
def training_data(pictures):
    return jobs.training_data(pictures)


def test_live_inputs_are_augmentations_of_the_prepared_pictures(training_data, pictures):
    plan = jobs.planned(
        training_data, "full", ("training.crop=0.4", "training.color_jitter=0.3"), seed=5
    )
    source = jobs.source(training_data, plan)
    assert source.cut == 0
    rows, numbers = np.array([3, 30, 3, 0]), np.array([0, 1, 7, 2])
    (found,) = source.batch(rows, numbers, ())
    assert found.is_contiguous(memory_format=torch.channels_last)
    for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        example = training_data.labelled.learn[row]
        image = IMAGE.encode((pictures / example.id).read_bytes(), example.id, PREP)
        seen = numbered_augmentation(
            image, example.sha256, int(number), Augmentations(0.4, True, 0.3), 5
        )
        slow = (torch.from_numpy(seen).double() / 255 - 0.5) / 0.5
        torch.testing.assert_close(
            found[place].double(), slow.permute(2, 0, 1), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(source.batch(rows, numbers, ())[0], found)  # pixels were not written to


class CacheFile:
    """Rows that tell whose they are: 100 * augmentation + content, then feature layers."""

    def __init__(self, view, broken=()):
        self.view, self.broken, self.asked = view, set(broken), 0

    def fetch(self, hashes):
        self.asked += 1
        if self.broken & set(hashes):
            raise KeyError(next(iter(self.broken & set(hashes))))
        base = np.array([100 * self.view + int(h) for h in hashes], np.float16)
        return base[:, None] + np.arange(7, dtype=np.float16) / 8


def stored(broken=()):
    passed = []

    def again(number, content):
        passed.append((number, content))
        return CacheFile(number).fetch([content])[0]

    cache_files = tuple(CacheFile(view, broken if view == 1 else ()) for view in range(3))
    labelled = SimpleNamespace(learn=[SimpleNamespace(sha256=str(n)) for n in range(20)])
    columns = {
        FeatureLayer(block=1, pool="avg"): slice(4, 5),
        FeatureLayer(block=2, pool="grid2"): slice(5, 7),
    }
    return cached_batches(cache_files, labelled, 2, (2, 1, 2), columns, again), passed


@given(
    asked=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2)), min_size=1, max_size=20),
    broken=st.sets(st.integers(0, 19), max_size=5),
)
def test_stored_inputs_come_in_the_order_asked_for_whatever_is_damaged(asked, broken):
    source, passed = stored(frozenset(str(n) for n in broken))
    rows, numbers = (np.array(column) for column in zip(*asked, strict=True))
    feature_layers = [
        FeatureLayer(block=2, pool="grid2"),
        FeatureLayer(block=2, pool="neck"),
        FeatureLayer(block=3, pool="avg"),
        FeatureLayer(block=1, pool="avg"),
    ]
    main, grid, low = source.batch(rows, numbers, feature_layers)
    assert (main.dtype, main.shape[1:]) == (torch.float32, (2, 1, 2))
    base = torch.tensor([100.0 * view + row for row, view in asked])
    expected = base[:, None] + torch.arange(7) / 8
    assert torch.equal(main.flatten(1), expected[:, :4])
    assert torch.equal(grid, expected[:, 5:7])
    assert torch.equal(low, expected[:, 4:5])
    lost = [(view, str(row)) for row, view in asked if view == 1 and row in broken]
    assert passed == lost  # only what is damaged is made again


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


@pytest.mark.parametrize("reserves", [True, False])
def test_a_file_that_may_not_grow_names_the_folder(spill, monkeypatch, reserves):
    """A limit that the system itself enforces, also where nothing can be reserved."""
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate")
    decoded, (soft, hard) = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            PixelFile((decoded.append(1) or image for image in noise(20)), noise(20).shape)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(spill)
    assert bool(decoded) != reserves  # where it can, it fails before anything is decoded
    assert not [*spill.iterdir()]


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


def test_an_image_that_changed_since_it_was_read_is_an_error(training_data, pictures):
    (pictures / "red" / "003.png").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"red/003.png changed while the run was going on"):
        read_pixels(training_data.collection, training_data.labelled.learn, PREP)
    (pictures / "red" / "003.png").unlink()
    with pytest.raises(DataError, match=r"red/003.png can no longer be read"):
        read_pixels(training_data.collection, training_data.labelled.learn, PREP)


def cached_source(training_data, plan):
    """What is stored, and what was told meanwhile."""
    events = []
    return follow(cache_activations(training_data, plan, schedule(plan)), events.append), events


def passed(events):
    """How many images were passed; None where nothing was."""
    begun = [e for e in events if e.values.get("title") == "Augmentations" and e.kind == "begin"]
    return begun[0].of if begun else None


def everything(source, n, augmentations, wanted):
    """All rows of all augmentations, (augmentations, n, …) each input."""
    rows = np.arange(n)
    found = [source.batch(rows, np.full(n, view), wanted) for view in range(augmentations)]
    return [torch.stack(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("strategy", ["last:1", "head+add"])
def test_what_is_stored_is_what_the_frozen_layers_give_for_each_augmentation(
    training_data, strategy
):
    plan = jobs.planned(training_data, strategy, ("training.color_jitter=0.2",), seed=4)
    source, _ = cached_source(training_data, plan)
    live = jobs.planned(training_data, "full", ("training.color_jitter=0.2",), seed=4)
    images = jobs.source(training_data, live)
    cut = source.cut
    assert cut == plan.training.split_at.value == {"last:1": 1, "head+add": 2}[strategy]
    wanted = feature_layers(training_data.extracted.network.record)[:1]
    prefix = FrozenPrefix(training_data.extracted.network, cut, wanted)
    rows = np.array([0, 17, 35, 3, 17])
    for view in range(5):
        numbers = np.full(5, view)
        with torch.inference_mode():
            expected = prefix(*images.batch(rows, numbers, ()))
        found = source.batch(rows, numbers, wanted)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = source.batch(rows, np.zeros(5, int), wanted)
    assert not torch.allclose(plain[0], found[0])


def test_more_augmentations_are_added_to_those_that_there_are(training_data, monkeypatch):
    for change in ("training.augmentations=2", "training.color_jitter=0.3"):
        cached_source(training_data, jobs.planned(training_data, "last:1", (change,)))
    passes, make = [], batches.make_engine

    def counting(*arguments):
        run = make(*arguments)
        return lambda images: passes.append(len(images)) or run(images)

    monkeypatch.setattr(batches, "make_engine", counting)
    more = jobs.planned(training_data, "last:1", ("training.augmentations=3",))
    cached_source(training_data, more)
    assert sum(passes) == 36  # one more of each image, and none made otherwise counts


def test_where_nothing_varies_the_images_are_passed_once_as_they_are(training_data, tmp_path):
    plan = jobs.planned(training_data, "last:1", (*jobs.PLAIN, "training.augmentations=4"))
    cached_source(training_data, plan)
    assert len(rows_files(tmp_path)) == 1


def test_an_interrupted_pass_goes_on_where_it_was(training_data, tmp_path):
    plan = jobs.planned(training_data, "last:1")
    steps = cache_activations(training_data, plan, schedule(plan))
    while next(steps).kind != "step":
        pass
    steps.close()
    source, events = cached_source(training_data, plan)
    assert passed(events) == 4  # 32 of 36 had been passed
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    whole, _ = cached_source(training_data, plan)
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, whole)), strict=True):
        assert torch.equal(ours, theirs)


def test_images_with_the_same_bytes_are_passed_once(pictures):
    payload = (pictures / "blue" / "000.png").read_bytes()
    for number in range(3):
        (pictures / "blue" / f"copy-{number}.png").write_bytes(payload)
    training_data = jobs.training_data(pictures)
    source, events = cached_source(training_data, jobs.planned(training_data, "last:1"))
    assert passed(events) == 36
    (main,) = everything(source, 39, 3, ())
    same = [
        e.sha256 == training_data.labelled.learn[0].sha256 for e in training_data.labelled.learn
    ]
    assert sum(same) == 4
    assert (main[:, same] == main[:, :1]).all()


def rows_files(tmp_path):
    """The files of stored rows that hold activations, the largest of the store."""
    files = [p for p in (tmp_path / "cache").glob("*.rows") if p.stat().st_size]
    return [p for p in files if '"activations"' in p.with_suffix(".json").read_text()]


def test_rows_that_are_lost_while_training_goes_on_are_made_again(
    training_data, tmp_path, monkeypatch
):
    plan = jobs.planned(training_data, "last:1")
    source, _ = cached_source(training_data, plan)
    wanted = feature_layers(training_data.extracted.network.record)[:1]
    before = everything(source, 36, 5, wanted)
    for path in rows_files(tmp_path):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    made = []
    make = batches.make_engine
    monkeypatch.setattr(batches, "make_engine", lambda *a: made.append(a[0]) or make(*a))
    for ours, theirs in zip(before, everything(source, 36, 5, wanted), strict=True):
        assert torch.equal(ours, theirs)
    assert made == ["torch"]


def test_half_precision_halves_the_files_and_comes_close(training_data, tmp_path):
    whole, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    full = sum(p.stat().st_size for p in rows_files(tmp_path))
    source, _ = cached_source(
        training_data, jobs.planned(training_data, "last:1", ("training.cache_dtype=float16",))
    )
    assert sum(p.stat().st_size for p in rows_files(tmp_path)) == full * 3 // 2
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, whole)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert not torch.equal(ours, theirs)


def louder(by):
    """The network with a first layer whose outputs are `by` times as large."""

    def make():
        module = network()
        with torch.no_grad():
            module.norm.weight *= by
            module.norm.bias *= by
            module.second.weight /= by
        return module

    return make


def test_what_half_precision_cannot_hold_is_refused(pictures, tmp_path):
    training_data = jobs.training_data(pictures, louder(1e6))
    half = jobs.planned(training_data, "last:1", ("training.cache_dtype=float16",))
    says = (
        r"the frozen blocks return 7.35e\+05, which float16 cannot hold; use --set training.cache"
    )
    with pytest.raises(TrainingError, match=says):
        cached_source(training_data, half)
    assert rows_files(tmp_path) == []
    source, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    assert source.batch(np.arange(3), np.ones(3, int), ())[0].abs().max() > 1e5


def test_augmentations_of_which_the_frozen_layers_give_no_number_are_refused(
    training_data, monkeypatch
):
    real = batches.make_engine

    def make(*arguments):
        run = real(*arguments)
        return lambda images: [rows * np.float32(np.nan) for rows in run(images)]

    monkeypatch.setattr(batches, "make_engine", make)
    says = (
        r"return nan for augmentation 0 of some images; use weaker augmentations \(--set training"
    )
    with pytest.raises(TrainingError, match=says):
        cached_source(training_data, jobs.planned(training_data, "last:1"))


@pytest.mark.parametrize("engine", ["traced", "onnxruntime", "openvino"])
def test_the_engine_of_the_plan_passes_the_augmentations(training_data, engine):
    pytest.importorskip("openvino") if engine == "openvino" else None
    usual, _ = cached_source(training_data, jobs.planned(training_data, "last:1"))
    plan = jobs.planned(training_data, "last:1")
    other = jobs.with_engine(plan, engine)
    source, events = cached_source(training_data, other)
    assert passed(events) == 36
    assert not [e for e in events if e.kind == "note"]
    for ours, theirs in zip(*(everything(s, 36, 5, ()) for s in (source, usual)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_where_the_engine_cannot_run_the_frozen_layers_torch_does(training_data, monkeypatch):
    real = batches.make_engine

    def make(name, *arguments):
        if name == "onnxruntime":
            raise EngineError("ONNX Runtime disagrees with torch at tap 1")
        return real(name, *arguments)

    monkeypatch.setattr(batches, "make_engine", make)
    plan = jobs.with_engine(jobs.planned(training_data, "last:1"), "onnxruntime")
    source, events = cached_source(training_data, plan)
    (note,) = [e for e in events if e.kind == "note"]
    assert note.values == {
        "title": "Engine",
        "text": "ONNX Runtime disagrees with torch at tap 1; torch is used instead",
    }
    assert len(source.batch(np.arange(4), np.ones(4, int), ())[0]) == 4
