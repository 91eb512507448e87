"""The images of a run, found again and shown; what has changed does not count."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hue_images import draw, fill
from jobs import FEW
from tiny import PREP, fit
from warmstart.errors import DataError, UsageError
from warmstart.modalities.image import IMAGE
from warmstart.network.model_folder import read_bundle
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load
from warmstart.run.reopened import (
    GAP,
    SIDE,
    TILE,
    TITLE,
    Gallery,
    grid,
    reopen,
    show_inputs,
    small_jpeg,
)


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
    with pytest.raises(DataError, match="nowhere does not exist"):
        reopen(finished.path, known, prep, data="nowhere")


@pytest.mark.parametrize("text", [None, "{}", '{"format": 1, "request": {}}'])
def test_a_run_whose_request_is_lost_has_no_images(own_run, known, prep, text):
    (own_run / "request.json").unlink()
    if text is not None:
        (own_run / "request.json").write_text(text)
    images = reopen(own_run, known, prep)
    assert images.load is None
    assert images.some(known.examples, 3) is None
    assert list(images.batches(known.examples)) == []
    assert not Gallery(own_run, known, prep).is_there


def test_a_test_set_from_elsewhere_is_found(tmp_path):
    data = fill(tmp_path / "photos", {"blue": 8, "red": 8})
    later = fill(tmp_path / "later", {"blue": 3, "red": 3}, seed=1)
    run = fit(data, test=later, out=tmp_path / "run")
    record = read_json(run.path / "data.json", DataRecord)
    prep = load(run.path, run.network).bundle.record.preprocessing
    images = reopen(run.path, record, prep)
    assert len(images.some(images.of("test"), 6)) == 6


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that began from a relative path, and its pictures."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "pictures", {"blue": 6, "red": 6})
    return fit("pictures", out=tmp_path / "run").path


def gallery_of(run):
    record = read_json(run / "data.json", DataRecord)
    prep = read_json(run / "model" / "config.json", ModelRecord).preprocessing
    return Gallery(run, record, prep), record.examples


def test_a_thumbnail_shows_the_example_of_that_number(run, monkeypatch):
    monkeypatch.chdir("/")
    gallery, examples = gallery_of(run)
    assert gallery.is_there
    for number, example in enumerate(examples):
        assert gallery.number(example.id) == number
        assert gallery.label(number) == example.label
        with Image.open(io.BytesIO(gallery.thumbnail(number))) as small:
            shown = np.asarray(small.convert("RGB")).mean(axis=(0, 1))
        with Image.open(run.parent / "pictures" / example.id) as whole:
            np.testing.assert_allclose(shown, np.asarray(whole).mean(axis=(0, 1)), atol=3)
    with Image.open(io.BytesIO(small_jpeg(Image.new("RGB", (2000, 1000), "red")))) as small:
        assert small.size == (SIDE, SIDE // 2)


def test_what_has_changed_or_gone_is_not_shown(run, tmp_path):
    gallery, examples = gallery_of(run)
    (tmp_path / "pictures" / examples[0].id).write_bytes(b"something private")
    (tmp_path / "pictures" / examples[1].id).unlink()
    n = len(examples)
    assert [number for number in range(-1, n + 1) if gallery.thumbnail(number)] == [*range(2, n)]
    assert gallery.number("../../etc/passwd") is None
    shutil.move(tmp_path / "pictures", tmp_path / "elsewhere")
    gone, _ = gallery_of(run)
    assert not gone.is_there
    assert gone.thumbnail(2) is None
    assert gone.label(2) == examples[2].label


def test_a_name_in_data_json_cannot_lead_out_of_the_data(run, tmp_path):
    """An edited data.json could name any file; only with its hash would it be shown."""
    secret = tmp_path / "secret.png"
    draw(np.random.default_rng(99), 0).save(secret)
    told = json.loads((run / "data.json").read_text())
    told["examples"][0]["id"] = "../secret.png"
    (run / "data.json").write_text(json.dumps(told))
    gallery, _ = gallery_of(run)
    assert gallery.thumbnail(0) is None


def tiles(picture, depth=1, across=8, n=1):
    """The tiles of a grid, in order, as arrays."""
    result = []
    for cell in range(n):
        left = GAP + cell % across * depth * (TILE + GAP)
        top = GAP + cell // across * (TITLE + TILE + GAP) + TITLE
        for place in range(depth):
            x = left + place * (TILE + GAP)
            result.append(np.asarray(picture.crop((x, top, x + TILE, top + TILE))))
    return result


def enlarged(pixels):
    how = Image.Resampling.NEAREST if max(pixels.shape) < TILE else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((TILE, TILE), how))


def test_images_are_shown_as_the_network_gets_them(finished, pictures):
    paths = sorted(pictures.rglob("*.png"))[::9]
    predictor = load(finished.path)
    picture = predictor.show_inputs(paths)
    prep = predictor.bundle.record.preprocessing
    for path, tile in zip(paths, tiles(picture, n=len(paths)), strict=True):
        seen = IMAGE.encode(path.read_bytes(), path.name, prep)
        np.testing.assert_array_equal(tile, enlarged(seen))
    assert (
        predictor.show_inputs(paths[:2], ["a", "b"]).size
        == grid([[tile_of("red")]] * 2, ["a", "b"]).size
    )
    with pytest.raises(DataError, match="2 inputs have 1 labels"):
        predictor.show_inputs(paths[:2], ["a"])


def test_views_of_training_follow_each_image(pictures, tmp_path):
    run = fit(
        pictures,
        out=tmp_path / "run",
        strategy="last:1",
        settings=(*FEW, "training.augmentations=2", "training.crop=0.5", "training.folds=1"),
    )
    plain, first, second, *others = tiles(run.show_inputs(3), depth=3, across=2, n=3)
    for name, tile in (("blue", plain), ("green", others[0]), ("red", others[3])):
        path = sorted((pictures / name).iterdir())[0]
        seen = enlarged(IMAGE.encode(path.read_bytes(), path.name, PREP))
        np.testing.assert_array_equal(tile, seen)
    assert (first != plain).any()
    assert (second != first).any()


def test_a_run_of_arrays_wants_them_again(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (24, 40, 40, 3), dtype=np.uint8)
    data = X, np.arange(24) % 2
    run = fit(data, out=tmp_path / "run", strategy="head")
    with pytest.raises(UsageError, match="began from Python objects"):
        run.show_inputs()
    assert run.show_inputs(2, data=data).size == run.show_inputs(2, data=data).size
    with pytest.raises(DataError, match="has changed since the run"):
        run.show_inputs(2, data=(255 - X, data[1]))
    with pytest.raises(UsageError, match="n=0: it needs a whole number"):
        run.show_inputs(0)
    record = read_json(run.path / "data.json", DataRecord)
    assert reopen(run.path, record, PREP).load is None
    assert len(reopen(run.path, record, PREP, data=data).some(record.examples, 5)) == 5


def test_a_run_on_data_in_the_home_folder_finds_them_again(finished, own_run, monkeypatch):
    asked = json.loads((own_run / "request.json").read_text())
    home = finished.path.parents[1]
    asked["request"]["data"], asked["place"] = "~/split", "/"
    (own_run / "request.json").write_text(json.dumps(asked))
    monkeypatch.setenv("HOME", str(home))
    assert show_inputs(own_run, n=3).size[0] > TILE


def tile_of(colour, size=(32, 32)):
    return Image.new("RGB", size, colour)


def test_a_long_title_stays_over_its_tile():
    picture = np.asarray(grid([[tile_of("red")], [tile_of("red")]], ["W" * 200, ""]))
    inked = (picture.max(axis=2) < 128).any(axis=0)
    assert inked.any()
    assert not inked[GAP + TILE :].any()
