"""Training images by number: only those that are still what the model learnt from."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hue_images import draw, fill
from tiny import fit, network
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import read_json
from warmstart.run.predictor import load
from warmstart.run.reopened import SIDE, Gallery


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


def test_what_has_changed_or_gone_is_not_shown(run, tmp_path):
    gallery, examples = gallery_of(run)
    (tmp_path / "pictures" / examples[0].id).write_bytes(b"something private")
    (tmp_path / "pictures" / examples[1].id).unlink()
    assert gallery.thumbnail(0) is None
    assert gallery.thumbnail(1) is None
    assert gallery.thumbnail(2) is not None
    assert gallery.thumbnail(-1) is None
    assert gallery.thumbnail(len(examples)) is None
    assert gallery.number("../../etc/passwd") is None


def test_data_that_moved_leaves_the_labels(run, tmp_path):
    shutil.move(tmp_path / "pictures", tmp_path / "elsewhere")
    gallery, examples = gallery_of(run)
    assert not gallery.is_there
    assert gallery.thumbnail(0) is None
    assert gallery.label(0) == examples[0].label


@pytest.mark.parametrize("text", ["", "{}", "null", '{"format": 1, "request": {}}'])
def test_a_damaged_request_hides_them(run, text):
    (run / "request.json").write_text(text)
    gallery, _ = gallery_of(run)
    assert not gallery.is_there


def test_a_name_in_data_json_cannot_lead_out_of_the_data(run, tmp_path):
    """An edited data.json could name any file; only with its hash would it be shown."""
    secret = tmp_path / "secret.png"
    draw(np.random.default_rng(99), 0).save(secret)
    told = json.loads((run / "data.json").read_text())
    told["examples"][0]["id"] = "../secret.png"
    (run / "data.json").write_text(json.dumps(told))
    gallery, _ = gallery_of(run)
    assert gallery.thumbnail(0) is None


def test_a_large_picture_becomes_a_small_one(tmp_path):
    fill(tmp_path / "pictures", {"blue": 4, "red": 4})
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "pictures" / "red" / "large.png")
    run = fit(tmp_path / "pictures", out=tmp_path / "run").path
    gallery, _ = gallery_of(run)
    number = gallery.number("red/large.png")
    with Image.open(io.BytesIO(gallery.thumbnail(number))) as small:
        assert small.size == (SIDE, SIDE // 2)


def test_arrays_have_no_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3)).astype(np.uint8)
    run = fit((pixels, ["a", "b"] * 6), out=tmp_path / "run")
    gallery, _ = gallery_of(run.path)
    assert not gallery.is_there
    assert load(run.path, network()).labels
