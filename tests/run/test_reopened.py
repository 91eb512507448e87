"""The images of a run, found again; what is not the same any more does not count."""

import shutil

import numpy as np
import pytest

from hue_images import fill
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.network.model_folder import read_bundle
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load
from warmstart.run.reopened import reopen


@pytest.fixture
def known(finished):
    return read_json(finished.path / "data.json", DataRecord)


@pytest.fixture
def prep(finished):
    return read_bundle(finished.path).record.preprocessing


@pytest.fixture
def moved(finished, tmp_path):
    """The run's images in another place, one of them gone, one of them another one."""
    place = tmp_path / "moved"
    shutil.copytree(finished.path.parents[1] / "split", place)
    (place / "train" / "red" / "000.png").unlink()
    shutil.copy(place / "train" / "blue" / "000.png", place / "train" / "red" / "001.png")
    return place


def test_they_are_found_where_the_run_found_them(finished, known, prep):
    images = reopen(finished.path, known, prep)
    first = known.examples[0]
    payload = (finished.path.parents[1] / "split" / first.id).read_bytes()
    assert np.array_equal(images.pixels(first), IMAGE.encode(payload, first.id, prep))
    sizes = [len(pixels) for _, pixels in images.batches(known.examples)]
    assert sum(sizes) == len(known.examples) == 51
    assert max(sizes) == 32
    assert len(images.some(known.examples, 7)) == 7
    assert len(images.some(known.examples, 100)) == 51


def test_only_the_bytes_that_were_learnt_from_count(finished, known, prep, moved):
    images = reopen(finished.path, known, prep, data=str(moved))
    kept = [e.id for batch, _ in images.batches(known.examples) for e in batch]
    assert len(kept) == 49
    assert not {"train/red/000.png", "train/red/001.png"} & set(kept)


def test_a_run_without_its_images_has_none(own_run, known, prep):
    (own_run / "request.json").unlink()
    images = reopen(own_run, known, prep)
    assert images.load is None
    assert images.some(known.examples, 3) is None
    assert list(images.batches(known.examples)) == []


def test_a_place_that_is_named_must_be_there(finished, known, prep):
    with pytest.raises(DataError, match="nowhere does not exist"):
        reopen(finished.path, known, prep, data="nowhere")


def test_arrays_can_be_given_again(finished, prep, tmp_path):
    from tiny import fit

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    x[12:, :, :, 0] //= 4
    y = ["a"] * 12 + ["b"] * 12
    run = fit((x, y), out=tmp_path / "run")
    record = read_json(run.path / "data.json", DataRecord)
    assert reopen(run.path, record, prep).load is None
    again = reopen(run.path, record, prep, data=(x, y))
    assert len(again.some(record.examples, 5)) == 5


def test_a_test_set_from_elsewhere_is_found(tmp_path):
    from tiny import fit

    data = fill(tmp_path / "photos", {"blue": 8, "red": 8})
    later = fill(tmp_path / "later", {"blue": 3, "red": 3}, seed=1)
    run = fit(data, test=later, out=tmp_path / "run")
    record = read_json(run.path / "data.json", DataRecord)
    prep = load(run.path, run.network).bundle.record.preprocessing
    images = reopen(run.path, record, prep)
    assert len(images.some(images.of("test"), 6)) == 6
