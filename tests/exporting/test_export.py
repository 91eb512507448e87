"""`warmstart export`: what it writes and refuses, and that it stands in its place whole."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

import tiny
import warmstart
from hue_images import fill
from warmstart.cli.main import main
from warmstart.errors import ExportError, ModelError, RunFolderError, UsageError
from warmstart.exporting import FORMATS, export, format
from warmstart.exporting.export import ask, compare, free_folder, staged
from warmstart.exporting.graph import ExportSource
from warmstart.exporting.predict_script import NAME
from warmstart.modalities.image import IMAGE
from warmstart.network.external_classifier import InputHandling, open_classifier
from warmstart.records.answer import ModelRecord
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import read_json

ALWAYS = {"README.md", "export.json", "labels.json", "predict.py", "preprocess.json"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_command_writes_the_model_with_everything_beside_it(own_run, capsys):
    assert main(["export", str(own_run), "--to", "onnx"]) == 0
    out = own_run / "export" / "onnx"
    assert names(out) == {"model.onnx", *ALWAYS}
    shown = capsys.readouterr().out
    assert shown.startswith(f"Export    {out}")
    assert f"python {out / 'predict.py'} photo.jpg" in " ".join(shown.split())
    assert json.loads((out / "labels.json").read_text()) == ["blue", "green", "red"]
    # Our own audit reads it.
    prep = read_json(own_run / "model" / "config.json", ModelRecord).preprocessing
    audited = open_classifier(str(out / "model.onnx"), None, InputHandling())
    assert audited.labels == ("blue", "green", "red")
    assert audited.preprocessing.mean == pytest.approx(prep.mean)
    assert audited.preprocessing.std == pytest.approx(prep.std)


def test_json_has_the_record_and_its_place(finished, tmp_path, capsys):
    words = ["export", str(finished.path), "--to", "torch", "--out", str(tmp_path / "out")]
    assert main([*words, "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["to"], record["path"]) == ("torch", str(tmp_path / "out"))
    assert record["agreement"]["images"] == "run"
    assert names(tmp_path / "out") == {"model.pt2", *ALWAYS}


def test_pixels_are_scaled_inside(finished, tmp_path):
    record = warmstart.export(finished, "onnx", out=tmp_path / "out", pixels=True)
    assert "uint8" in record.inputs
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    path = next((finished.path.parents[1] / "split" / "test" / "red").iterdir())
    prep = finished.predictor.bundle.record.preprocessing
    pixels = IMAGE.encode(path.read_bytes(), "", prep)
    probabilities = session.run(["probabilities"], {"pixels": pixels[None]})[0][0]
    (answer,) = finished.predict([path])
    scores = dict(zip(finished.predictor.labels, probabilities, strict=True))
    assert scores == pytest.approx(answer.scores, abs=1e-4)


def test_eight_bits_come_with_what_they_cost(finished, tmp_path, capsys):
    words = ["export", str(finished.path), "--to", "onnx", "--int8", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "8 bits" in shown
    assert "15 test images" in shown
    record = json.loads((tmp_path / "o" / "export.json").read_text())
    assert record["quantized"]["images"] == "test"
    assert record["agreement"]["tolerance"] is None
    assert "## 8-bit numbers" in (tmp_path / "o" / "README.md").read_text()


def test_images_that_have_moved_can_be_named_and_others_are_not_taken_for_them(
    own_run, finished, tmp_path
):
    place = shutil.copytree(finished.path.parents[1] / "split", tmp_path / "moved")
    other = fill(tmp_path / "other" / "train", {"blue": 12, "green": 12, "red": 12}, seed=9).parent
    (own_run / "request.json").unlink()
    for data, images in ((place, "run"), (other, "noise"), (None, "noise")):
        out = tmp_path / f"out-{images}-{data is None}"
        record = warmstart.export(own_run, "onnx", out=out, data=data)
        assert record.agreement.images == images
    with pytest.raises(ExportError, match="--int8 is calibrated on"):
        warmstart.export(own_run, "onnx", out=tmp_path / "c", int8=True)
    assert not (tmp_path / "c").exists()


# ---- Networks of one's own.


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"), {"blue": 10, "red": 10})


def test_a_network_of_transformers_is_exported_as_its_own(photos, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    torch.manual_seed(0)
    own = transformers.ViTForImageClassification(config).eval()
    run = tiny.fit(photos, base=copy.deepcopy(own), out=tmp_path / "run")
    warmstart.export(run, "transformers", out=tmp_path / "out")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert type(loaded).__name__ == "ViTForImageClassification"
    assert loaded.config.id2label == {0: "blue", 1: "red"}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.size["shortest_edge"] == 32


def test_other_channels_and_added_blocks(photos, tmp_path):
    run = tiny.fit(
        photos,
        strategy="last:1+add",
        settings={"training.epochs": 2, "input.channels": 1},
        out=tmp_path / "run",
        preprocessing=Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    record = warmstart.export(run, "onnx", out=tmp_path / "out", pixels=True)
    assert "(N, 32, 32, 1)" in record.inputs
    assert record.agreement.images == "run"


def test_a_network_of_ones_own_must_be_given_again(photos, tmp_path):
    run = tiny.fit(photos, out=tmp_path / "run")
    with pytest.raises(ModelError, match="pass an instance of it as `network`"):
        warmstart.export(run.path, "onnx", out=tmp_path / "out")
    record = warmstart.export(run.path, "onnx", out=tmp_path / "out", network=tiny.network())
    assert record.agreement.same_labels == record.agreement.n
    with pytest.raises(ExportError, match="is your own network, which timm cannot rebuild"):
        warmstart.export(run, "timm", out=tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


# ---- What is refused.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "export needs a format: --to onnx"),
        ("--to tflite", "--to tflite is not one of onnx"),
        ("--to timm --int8", "--int8 needs --to onnx, not timm"),
        ("--to timm --pixels", "timm has its own; remove it"),
        ("--to onnx --out a.onnx", "an export is a folder"),
        ("--format onnx", "Here it is --to"),
        ("--to onnx --quantize", "Here it is --int8"),
    ],
)
def test_a_misuse_is_one_line_and_writes_nothing(own_run, words, says, capsys, monkeypatch):
    monkeypatch.chdir(own_run.parent)
    assert main(["export", str(own_run), *words.split()]) == 2
    assert says in capsys.readouterr().err
    assert not (own_run / "export").exists()


def test_what_is_no_run_or_has_no_place_is_refused(finished, tmp_path):
    with pytest.raises(UsageError, match="needs a run or the path"):
        warmstart.export(3, "onnx")
    with pytest.raises(RunFolderError, match="does not exist"):
        warmstart.export(tmp_path / "nowhere", "onnx")
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match="exists and is not empty"):
        warmstart.export(finished, "onnx", out=tmp_path)
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("name", ["openvino", "transformers"])
def test_a_library_that_is_missing_is_named_with_what_to_install(finished, name, monkeypatch):
    monkeypatch.setattr(format, "find_spec", lambda one: None if one == name else one)
    with pytest.raises(ExportError, match=rf"{name}, which is not .* `pip install .*{name}"):
        warmstart.export(finished, name)


def test_a_torchvision_network_is_none_of_timms(finished):
    record = replace(finished.predictor.bundle.record, arch="torchvision:resnet18")
    with pytest.raises(ExportError, match="is a torchvision network, which timm cannot"):
        FORMATS["timm"].check_possible(ExportSource(None, record, None))


# ---- Its folder stands in its place whole, or not at all; nothing there is ever overwritten.


def test_the_default_is_in_the_run_and_numbered(tmp_path):
    assert free_folder(tmp_path, "onnx", None) == tmp_path / "export" / "onnx"
    for name in ("onnx", "onnx-2"):
        (tmp_path / "export" / name / "a").mkdir(parents=True)
    assert free_folder(tmp_path, "onnx", None) == tmp_path / "export" / "onnx-3"


def test_a_place_in_use_is_refused(tmp_path):
    used, file, link = tmp_path / "used", tmp_path / "file", tmp_path / "link"
    (used / "a").mkdir(parents=True)
    file.touch()
    (tmp_path / "empty").mkdir()
    link.symlink_to(tmp_path / "empty")
    for place in (used, file, link):
        with pytest.raises(UsageError, match="exists and is not empty; nothing was changed"):
            free_folder(tmp_path, "onnx", place)
    with pytest.raises(UsageError, match=r"an export is a folder .* such as .*model-onnx\."):
        free_folder(tmp_path, "onnx", tmp_path / "model.onnx")
    assert free_folder(tmp_path, "onnx", tmp_path / "empty") == tmp_path / "empty"


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "empty"])
def test_what_was_made_is_moved_when_it_is_whole(tmp_path, is_there):
    place, umask = tmp_path / "deep" / "place", os.umask(0o27)
    if is_there:
        place.mkdir(parents=True)
    try:
        with staged(place) as output:
            (output / "model").write_text("weights")
            assert not (place / "model").exists()
    finally:
        os.umask(umask)
    assert (place / "model").read_text() == "weights"
    assert names(place.parent) == {"place"}
    assert place.stat().st_mode & 0o777 == 0o750


def test_after_an_error_nothing_is_left_and_a_place_taken_meanwhile_stays_as_it_is(tmp_path):
    place = tmp_path / "place"

    def fail():
        with staged(place) as output:
            (output / "model").touch()
            raise ZeroDivisionError

    def race():
        with staged(place) as output:
            (output / "model").touch()
            (place / "other").mkdir(parents=True)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"cannot be written .*; nothing was changed"):
        race()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "other"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="name another"), staged(tmp_path / "file" / "place"):
        pass


# ---- The check in a process of its own, on scripts that are right, wrong and broken.

PREP = Preprocessing(size=(4, 4), resize=4, mean=(0.5,) * 3, std=(0.25,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
LOGITS = PIXELS.mean(axis=(1, 2)) / 50
HONEST = """
import numpy as np

def answer(pixels):
    logits = pixels.mean(axis=(1, 2)) / 50
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits, e / e.sum(axis=1, keepdims=True)
"""
BAD = {
    "another answer": (HONEST.replace("/ 50", "/ 50 + [0, 0, 0.01]"), "a logit differs by 0.01"),
    "other shapes": (HONEST.replace("/ 50", "/ 50; logits = logits[:, :2]"), "gives"),
    "no numbers": (HONEST.replace("/ 50", "* np.nan"), "no numbers"),
    "one alone": (HONEST.replace("/ 50", "/ 50 + (len(pixels) == 1)"), "differs by 1"),
    "smaller batch": (HONEST.replace("/ 50", "/ 50 + (len(pixels) == 3)"), "differs by 1"),
    "probabilities": (HONEST.replace("logits, e", "logits, 0.5 * e"), "not those of its logits"),
    "warmstart": ("import warmstart\n" + HONEST, "does not run without warmstart"),
    "broken": (HONEST + "\nraise SystemExit('no such library')", "no such library"),
    "processor": (
        HONEST + "\ndef processor(image, return_tensors):\n    import torch\n"
        "    return {'pixel_values': torch.zeros(1, 3, 4, 4)}",
        "prepares images differently",
    ),
}


def checked(folder, script, **options):
    (folder / NAME).write_text(script)
    return compare(ask(folder, PIXELS), LOGITS, "run", PREP, **options)


def test_an_honest_script_agrees(tmp_path):
    result = checked(tmp_path, HONEST)
    assert (result.n, result.same_labels, result.images) == (5, 5, "run")
    assert result.difference < 1e-6
    rounded = checked(tmp_path, HONEST.replace("/ 50", "/ 50 + [0, 0, 0.01]"), tolerance=None, n=2)
    assert (rounded.n, rounded.tolerance) == (2, None)
    assert rounded.difference == pytest.approx(0.01)


@pytest.mark.parametrize(("script", "says"), BAD.values(), ids=BAD.keys())
def test_everything_else_is_refused(tmp_path, script, says):
    with pytest.raises(ExportError, match=rf"{says}.*nothing was written\."):
        checked(tmp_path, script)


def test_a_script_that_never_ends_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_MINUTES", 1 / 60)
    with pytest.raises(ExportError, match="gave no answer in"):
        checked(tmp_path, "while True:\n    pass")
