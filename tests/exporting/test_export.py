"""`warmstart export`: what it writes, what it refuses, what it says."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

import tiny
import warmstart
from hue_images import fill
from warmstart.cli.main import main
from warmstart.errors import ExportError, ModelError, RunFolderError, UsageError
from warmstart.events import follow
from warmstart.exporting import format
from warmstart.exporting.export import ExportOptions, steps
from warmstart.exporting.graph import ExportSource
from warmstart.exporting.registry import FORMATS
from warmstart.network.external_classifier import InputHandling, open_onnx
from warmstart.records.inputs import Preprocessing
from warmstart.records.run_folder import read_json, write_json

ALWAYS = {"README.md", "export.json", "labels.json", "predict.py", "preprocess.json"}


def names(folder):
    return {path.name for path in folder.iterdir()}


# ---- what is written ---------------------------------------------------------------------


def test_onnx_in_the_run_with_everything_beside_it(own_run, capsys):
    assert main(["export", str(own_run), "--to", "onnx"]) == 0
    out = own_run / "export" / "onnx"
    assert names(out) == {"model.onnx", *ALWAYS}
    shown = capsys.readouterr().out
    assert shown.startswith(f"Export    {out}")
    assert "without warmstart" in shown
    assert f"python {out / 'predict.py'} photo.jpg" in " ".join(shown.split())
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: onnx\n")
    assert "model-index:" in card
    assert "type: accuracy" in card
    assert json.loads((out / "labels.json").read_text()) == ["blue", "green", "red"]


def test_json_has_the_record_and_its_place(finished, tmp_path, capsys):
    words = ["export", str(finished.path), "--to", "torch", "--out", str(tmp_path / "out")]
    assert main([*words, "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["to"], record["path"]) == ("torch", str(tmp_path / "out"))
    assert record["agreement"]["images"] == "run"
    assert record["files"]["model.pt2"] > 1000
    assert names(tmp_path / "out") == {"model.pt2", *ALWAYS}


def test_pixels_are_scaled_inside(finished, tmp_path):
    record = warmstart.export(finished, "onnx", out=tmp_path / "out", pixels=True)
    assert "uint8" in record.inputs
    output = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (entry,) = output.get_inputs()
    assert (entry.name, entry.type) == ("pixels", "tensor(uint8)")
    path = next((finished.path.parents[1] / "split" / "test" / "red").iterdir())
    (answer,) = finished.predict([path])
    from warmstart.modalities.image import IMAGE

    prep = finished.predictor.bundle.record.preprocessing
    result = output.run(
        ["probabilities"], {"pixels": IMAGE.encode(path.read_bytes(), "", prep)[None]}
    )
    scores = dict(zip(finished.predictor.labels, result[0][0], strict=True))
    assert scores == pytest.approx(answer.scores, abs=1e-4)


def test_eight_bits_come_with_what_they_cost(finished, tmp_path, capsys):
    words = ["export", str(finished.path), "--to", "onnx", "--int8", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "8 bits" in shown
    assert "15 test images" in " ".join(shown.split())
    record = json.loads((tmp_path / "o" / "export.json").read_text())
    assert record["quantized"]["images"] == "test"
    assert record["agreement"]["tolerance"] is None
    assert "## 8-bit numbers" in (tmp_path / "o" / "README.md").read_text()


def test_our_own_audit_reads_what_is_exported(finished, tmp_path):
    warmstart.export(finished, "onnx", out=tmp_path / "out")
    result = open_onnx(tmp_path / "out" / "model.onnx", InputHandling())
    prep = finished.predictor.bundle.record.preprocessing
    assert result.labels == ("blue", "green", "red")
    assert result.preprocessing.mean == pytest.approx(prep.mean)
    assert result.preprocessing.std == pytest.approx(prep.std)


def test_a_twin_is_told_of_with_its_figure(finished, tmp_path, capsys):
    words = ["export", str(finished.path), "--to", "timm", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert names(tmp_path / "out") == {"model.safetensors", "config.json", *ALWAYS}
    if record["single_layer"] is None:
        pytest.skip("the run's own head listens to the last tap alone")
    assert "Single-layer head: " in shown
    assert "out of fold" in shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"value: {record['single_layer']['estimate']['value']:.4f}" in card


def test_events_tell_of_the_work(finished, tmp_path):
    seen = []
    wanted = ExportOptions(to=FORMATS["onnx"], out=tmp_path / "out")
    path, _ = follow(steps(finished.path, wanted), seen.append)
    assert path == tmp_path / "out"
    assert [event.kind for event in seen if event.stage == "deliver"] == ["begin", "end"]


def test_images_that_have_moved_can_be_named(own_run, finished, tmp_path):
    place = shutil.copytree(finished.path.parents[1] / "split", tmp_path / "moved")
    (own_run / "request.json").unlink()
    record = warmstart.export(own_run, "onnx", out=tmp_path / "a", data=place)
    assert record.agreement.images == "run"
    record = warmstart.export(own_run, "onnx", out=tmp_path / "b")
    assert record.agreement.images == "noise"
    assert "images of noise" in (tmp_path / "b" / "README.md").read_text()
    with pytest.raises(ExportError, match="--int8 is calibrated on"):
        warmstart.export(own_run, "onnx", out=tmp_path / "c", int8=True)
    assert not (tmp_path / "c").exists()


# ---- networks of one's own ---------------------------------------------------------------


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
    seen = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert seen.size["shortest_edge"] == 32


def test_other_channels_and_added_blocks_and_low_rank_updates(photos, tmp_path):
    settings = {"training.epochs": 2, "input.channels": 1}
    run = tiny.fit(
        photos,
        strategy="last:1+add",
        settings=settings,
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


# ---- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "export needs a format: --to onnx"),
        ("--to tflite", "--to tflite is not one of onnx, torch, timm, transformers, openvino"),
        ("--to timm --int8", "--int8 needs --to onnx, not timm"),
        ("--to timm --pixels", "timm has its own; remove it"),
        ("--to onnx --out a.onnx", "an export is a folder"),
        ("--format onnx", "Here it is --to onnx"),
        ("--to onnx --quantize", "Here it is --int8"),
    ],
)
def test_a_misuse_is_one_line_and_writes_nothing(own_run, words, says, capsys, monkeypatch):
    monkeypatch.chdir(own_run.parent)
    assert main(["export", str(own_run), *words.split()]) == 2
    err = capsys.readouterr().err
    assert says in err.replace("Here it is --to.", "Here it is --to onnx")
    assert not (own_run / "export").exists()


def test_a_place_in_use_is_left_alone(finished, tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match="exists and is not empty"):
        warmstart.export(finished, "onnx", out=tmp_path)
    assert names(tmp_path) == {"a"}


def test_what_is_no_run_is_told(finished, tmp_path):
    with pytest.raises(UsageError, match="export\\(\\) needs a run or the path of its folder"):
        warmstart.export(3, "onnx")
    with pytest.raises(RunFolderError, match="does not exist"):
        warmstart.export(tmp_path / "nowhere", "onnx")
    with pytest.raises(UsageError, match="--to coreml is not one of"):
        warmstart.export(finished, "coreml")


def test_a_library_that_is_missing_is_named_with_what_to_install(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(format, "find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(ExportError, match=r"openvino, which is not .* `pip install .*openvino`"):
        warmstart.export(finished, "openvino", out=tmp_path / "out")
    monkeypatch.setattr(format, "find_spec", lambda name: None if name == "transformers" else name)
    with pytest.raises(ExportError, match=r"which is not .* `pip install .*transformers .*`"):
        warmstart.export(finished, "transformers", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_torchvision_network_is_none_of_timms(own_run, tmp_path):
    path = own_run / "model" / "config.json"
    from warmstart.records.answer import ModelRecord

    record = read_json(path, ModelRecord)
    from dataclasses import replace

    source = ExportSource(None, replace(record, arch="torchvision:resnet18"), None)
    with pytest.raises(ExportError, match="is a torchvision network, which timm cannot"):
        FORMATS["timm"].check_possible(source)
    write_json(path, record)


def test_the_wrong_images_are_not_taken_for_the_runs(finished, tmp_path):
    other = fill(tmp_path / "other" / "train", {"blue": 12, "green": 12, "red": 12}, seed=9).parent
    record = warmstart.export(finished, "onnx", out=tmp_path / "out", data=other)
    assert record.agreement.images == "noise"
    assert np.isfinite(record.agreement.difference)
