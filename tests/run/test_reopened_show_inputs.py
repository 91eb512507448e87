"""What the network sees, as a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from hue_images import fill
from jobs import FEW
from tiny import PREP, fit
from warmstart.api.run import Run, load
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.modalities.image import IMAGE
from warmstart.run.predictor import input_picture
from warmstart.run.reopened import GAP, TILE, TITLE, show_inputs


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


def test_what_is_normalised_and_brought_back_is_what_was_prepared():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(input_picture(pixels, PREP)), pixels)


def test_images_are_shown_as_the_network_gets_them(finished, pictures):
    paths = sorted(pictures.rglob("*.png"))[::9]
    predictor = load(finished.path)
    picture = predictor.show_inputs(paths)
    prep = predictor.bundle.record.preprocessing
    for path, tile in zip(paths, tiles(picture, n=len(paths)), strict=True):
        seen = IMAGE.encode(path.read_bytes(), path.name, prep)
        np.testing.assert_array_equal(tile, enlarged(seen))


def test_labels_are_one_for_each(finished, pictures):
    paths = sorted(pictures.rglob("*.png"))[:2]
    predictor = load(finished.path)
    assert predictor.show_inputs(paths, ["a", "b"]).size == predictor.show_inputs(paths).size
    with pytest.raises(DataError, match="2 inputs have 1 labels"):
        predictor.show_inputs(paths, ["a"])


def test_a_run_shows_its_own_images_a_class_in_turn(pictures, tmp_path):
    run = fit(pictures, out=tmp_path / "run")
    picture = run.show_inputs(3)
    firsts = [sorted((pictures / name).iterdir())[0] for name in ("blue", "green", "red")]
    for path, tile in zip(firsts, tiles(picture, n=3), strict=True):
        seen = IMAGE.encode(path.read_bytes(), path.name, PREP)
        np.testing.assert_array_equal(tile, enlarged(seen))


def test_views_of_training_follow_each_image(pictures, tmp_path):
    run = fit(
        pictures,
        out=tmp_path / "run",
        strategy="last:1",
        settings=(*FEW, "training.augmentations=2", "training.crop=0.5", "training.folds=1"),
    )
    plain, first, second = tiles(run.show_inputs(1), depth=3)
    path = sorted((pictures / "blue").iterdir())[0]
    np.testing.assert_array_equal(plain, enlarged(IMAGE.encode(path.read_bytes(), path.name, PREP)))
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


def test_mistakes(finished, tmp_path):
    with pytest.raises(UsageError, match="n=0: it needs a whole number"):
        finished.show_inputs(0)
    empty = Run(tmp_path, finished.summary)
    with pytest.raises(RunFolderError):
        empty.show_inputs()


def test_a_table_is_found_from_where_the_run_began(tmp_path, monkeypatch):
    fill(tmp_path / "a", {"blue": 8, "red": 8})
    monkeypatch.chdir(tmp_path)
    run = fit("a", out="run")
    opened = Run.open(tmp_path / "run")
    monkeypatch.chdir("/")
    assert opened.show_inputs(2).size == (2 * (TILE + GAP) + GAP, TITLE + TILE + 2 * GAP)
    assert run.summary == opened.summary


def test_a_run_on_data_in_the_home_folder_finds_them_again(finished, own_run, monkeypatch):
    asked = json.loads((own_run / "request.json").read_text())
    home = finished.path.parents[1]
    asked["request"]["data"], asked["place"] = "~/split", "/"
    (own_run / "request.json").write_text(json.dumps(asked))
    monkeypatch.setenv("HOME", str(home))
    assert show_inputs(own_run, n=3).size[0] > TILE
