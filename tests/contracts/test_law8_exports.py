"""Law 8: an export gives the model's logits in a clean process; one that does not leaves nothing.

The product makes that check itself before it writes; test_runs.py asks each export's own script.
Here are the libraries that others load a format with, and what must fail.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper

import tables
import tiny
import warmstart
from hue_images import fill
from warmstart.errors import ExportError
from warmstart.exporting import graph
from warmstart.features.batches import normalised
from warmstart.modalities.registry import modality_of
from warmstart.records.answer import Exported
from warmstart.records.run_folder import read_json


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run that trained a layer of a timm network."""
    root = tmp_path_factory.mktemp("law8")
    fill(root / "photos" / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "photos" / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        run = warmstart.fit(
            root / "photos",
            base=tiny.weights(root),
            arch=tiny.ARCH,
            budget="fast",
            lr=1e-6,
            strategy="last:1",
            settings={"training.epochs": 5.5556, "input.size": 64},
            out=root / "run",
        )
    assert run.summary.shipped.strategy == "last:1"
    return run


def noise(run, n=5):
    """Images of noise, the same as the network takes them, and the run's logits."""
    prep = run.predictor.bundle.record.preprocessing
    pixels = modality_of(prep).noise(n, prep)
    inputs = normalised(pixels, prep).contiguous()
    with torch.inference_mode():
        return pixels, inputs, run.model(inputs).numpy()


def same(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-3, rtol=0)


def test_a_program_of_torch(made, tmp_path):
    run = made("convnet head")[1]
    warmstart.export(run, "torch", out=tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for n in (1, 5):
        _, inputs, wanted = noise(run, n)
        same(program(inputs)[0].detach(), wanted)


@pytest.mark.slow
def test_openvino(made, tmp_path):
    openvino = pytest.importorskip("openvino")
    run = made("attention last:1")[1]
    warmstart.export(run, "openvino", out=tmp_path / "out", pixels=True)
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "out" / "model.xml", "CPU", f32)
    for n in (1, 5):
        pixels, _, wanted = noise(run, n)
        same(compiled([pixels])["logits"], wanted)


def test_timm_and_transformers_hold_a_single_layer_head_on_the_trained_layers(tuned, tmp_path):
    transformers = pytest.importorskip("transformers")
    exported = warmstart.export(tuned, "timm", out=tmp_path / "timm")
    module = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    backbone, state = tuned.model.backbone.state_dict(), module.state_dict()
    assert all(torch.equal(state[name], backbone[name]) for name in state if name in backbone)
    _, inputs, wanted = noise(tuned)
    if exported.single_layer is None:  # the run's own head reads the last layer alone
        same(module(inputs).detach(), wanted)
    else:
        assert exported.single_layer.estimate.method == "holdout"  # its layers had seen the rest
        card = (tmp_path / "timm" / "README.md").read_text("utf-8")
        assert "single-layer head, not the run's own" in card
    warmstart.export(tuned, "transformers", out=tmp_path / "hub")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hub").eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(inputs).logits, module(inputs))
    assert list(loaded.config.id2label.values()) == ["blue", "green", "red"]


def test_a_script_takes_the_columns_of_a_row_by_their_names(made, tmp_path):
    run, out = made("rows head")[1], tmp_path / "onnx"
    warmstart.export(run, "onnx", out=out)
    shuffled = [[site, age, dose] for age, dose, site, _ in tables.rows(5, seed=8)]
    shuffled.append(["south", "old", "1"])
    path = tables.write(tmp_path / "new.csv", shuffled, ("site", "age", "dose"))
    command = [sys.executable, "-I", str(out / "predict.py"), str(path)]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [one for one in run.predictor.predict([path]) if one.label]
    for answer, line in zip(answers, job.stdout.splitlines(), strict=True):
        assert f"{answer.label} {answer.probability:.1%}" in line
    assert len(answers) == 5
    assert "line 7 cannot be read" in job.stderr


# ---- what does not agree leaves nothing --------------------------------------------------------


def corrupted(source, title, real=graph.onnx_graph):
    """The graph with one number of one weight changed."""
    made = onnx.load_from_string(real(source, title))
    tensor = max(made.graph.initializer, key=lambda t: len(t.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 50.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return made.SerializeToString()


@pytest.mark.parametrize("options", [{}, {"int8": True}], ids=["float", "int8"])
def test_a_corrupted_graph_is_refused_and_nothing_is_left(made, tmp_path, monkeypatch, options):
    run = made("convnet head")[1]
    before = tiny.bytes_of(run.path)
    monkeypatch.setattr(graph, "onnx_graph", corrupted)
    with pytest.raises(ExportError, match="disagrees with the model"):
        warmstart.export(run, "onnx", out=tmp_path / "deep" / "out", **options)
    assert [p.name for p in tmp_path.rglob("*")] == ["deep"]
    assert tiny.bytes_of(run.path) == before


def test_a_run_is_only_read_and_the_record_is_the_one_handed_back(made, tmp_path):
    run = made("convnet head")[1]
    before = tiny.bytes_of(run.path)
    exported = warmstart.export(run, "onnx", out=tmp_path / "out", pixels=True)
    assert read_json(tmp_path / "out" / "export.json", Exported) == exported
    assert tiny.bytes_of(run.path) == before
