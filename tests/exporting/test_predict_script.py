"""predict.py: short, and it prepares images as the product does."""

import runpy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hue_images import draw
from warmstart.exporting import FORMATS
from warmstart.exporting.predict_script import NAME, predict_script
from warmstart.modalities.image import IMAGE
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import write_json

PREP = Preprocessing(size=(32, 24), resize=40, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize("to", FORMATS.values(), ids=FORMATS)
def test_it_has_thirty_odd_lines(to):
    lines = [line for line in predict_script(to, PREP, "images").splitlines() if line.strip()]
    assert len(lines) <= 38
    assert max(map(len, lines)) <= 100


def script(tmp_path, prep):
    """predict.py as a module, its model taken out."""
    text = predict_script(FORMATS["onnx"], prep, "images").replace("import onnxruntime", "")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("session = "))
    (tmp_path / NAME).write_text(text)
    write_json(tmp_path / "labels.json", ["a"])
    write_json(tmp_path / "preprocess.json", prep)
    return runpy.run_path(str(tmp_path / NAME))


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (20, 50), (30, 24)])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("filter", ["bicubic", "nearest"])
def test_images_are_prepared_as_the_model_knows_them(tmp_path, size, squash, filter):
    prep = replace(PREP, squash=squash, interpolation=filter)
    path = tmp_path / "a.png"
    draw(np.random.default_rng(0), 1, 100).resize(size).save(path)
    result = script(tmp_path, prep)["prepare"](path)
    assert np.array_equal(result, IMAGE.encode(path.read_bytes(), "a.png", prep))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "RGB"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_every_mode(tmp_path, mode, channels):
    prep = replace(PREP, mean=(0.5,) * channels, std=(0.25,) * channels)
    path = tmp_path / "a.png"
    picture = draw(np.random.default_rng(0), 1, 64).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((64, 64)))
    picture.convert(mode).save(path)
    result = script(tmp_path, prep)["prepare"](path).astype(int)  # unsigned would wrap
    wanted = IMAGE.encode(path.read_bytes(), "a.png", prep)
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max() <= 1


def test_bands_are_left_to_the_user(tmp_path):
    prep = replace(PREP, mean=(0.5,) * 6, std=(0.25,) * 6)
    with pytest.raises(SystemExit, match="bands: scale each"):
        script(tmp_path, prep)["prepare"]("a.tif")


def test_as_a_command_it_says_how_it_is_used_and_what_it_cannot_read(tmp_path, capsys, monkeypatch):
    assert script(tmp_path, PREP)["LABELS"] == ["a"]
    file = str(tmp_path / NAME)
    monkeypatch.setattr("sys.argv", [file])
    with pytest.raises(SystemExit, match=r"python predict.py photo.jpg"):
        runpy.run_path(file, run_name="__main__")
    (tmp_path / "notes.jpg").write_text("no image")
    monkeypatch.setattr("sys.argv", [file, str(tmp_path / "notes.jpg"), str(tmp_path / "gone.jpg")])
    runpy.run_path(file, run_name="__main__")
    text = capsys.readouterr().err.splitlines()
    assert [line.split(" cannot be read: ")[0][-9:] for line in text] == ["notes.jpg", "/gone.jpg"]
