"""Law 8: an export gives the model's logits in a clean process; one that does not leaves nothing.

The product makes that check itself before it writes. Here it is made again, by other means: on
other images, in batches of other sizes, by the library alone.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import numpy_helper

import tiny
import warmstart
from hue_images import fill
from warmstart.errors import ExportError
from warmstart.exporting import graph
from warmstart.features.batches import normalised
from warmstart.modalities.registry import modality_of
from warmstart.records.answer import Exported
from warmstart.records.run_folder import read_json

OWN = ("convolutions", "attention", "layers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("law8")
    fill(root / "photos" / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "photos" / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    return root


@pytest.fixture(scope="module")
def runs(place):
    """One finished run from each of the user's own networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(place / "cache"))
        return {
            kind: tiny.fit(place / "photos", kind=kind, out=place / "runs" / kind) for kind in OWN
        }


@pytest.fixture(scope="module")
def tuned(place):
    """A run that trained a layer of a timm network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(place / "cache"))
        run = warmstart.fit(
            place / "photos",
            base=tiny.weights(place),
            arch=tiny.ARCH,
            budget="fast",
            lr=1e-6,
            strategy="last:1",
            settings={"training.epochs": 5.5556, "input.size": 64},
            out=place / "runs" / "tuned",
        )
    assert run.summary.shipped.strategy == "last:1"
    return run


def logits(run, pixels):
    with torch.inference_mode():
        prep = run.predictor.bundle.record.preprocessing
        return run.model(normalised(pixels, prep)).numpy()


def pixels_for(run, n):
    inputs = run.predictor.bundle.record.preprocessing
    return modality_of(inputs).noise(n, inputs)


def inputs_for(run, n):
    prep = run.predictor.bundle.record.preprocessing
    return normalised(pixels_for(run, n), prep).contiguous()


def same(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", OWN)
def test_onnx_of_a_network_of_ones_own(runs, kind, tmp_path):
    run, out = runs[kind], tmp_path / "out"
    told = warmstart.export(run, "onnx", out=out)
    assert told.agreement.images == "run"
    assert told.agreement.difference <= told.agreement.tolerance == 1e-3
    made = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 5):
        found = made.run(["logits"], {"images": inputs_for(run, n).numpy()})[0]
        same(found, logits(run, pixels_for(run, n)))


@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_a_program_of_torch(runs, kind, tmp_path):
    run, out = runs[kind], tmp_path / "out"
    warmstart.export(run, "torch", out=out)
    program = torch.export.load(out / "model.pt2").module()
    for n in (1, 5):
        same(program(inputs_for(run, n))[0].detach(), logits(run, pixels_for(run, n)))


def test_openvino(runs, tmp_path):
    openvino = pytest.importorskip("openvino")
    run, out = runs["attention"], tmp_path / "out"
    warmstart.export(run, "openvino", out=out, pixels=True)
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.Core().compile_model(out / "model.xml", "CPU", f32)
    for n in (1, 5):
        same(made([pixels_for(run, n)])["logits"], logits(run, pixels_for(run, n)))


def test_timm_holds_a_twin_of_trained_layers(tuned, tmp_path):
    out = tmp_path / "out"
    told = warmstart.export(tuned, "timm", out=out)
    module = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    inputs = inputs_for(tuned, 5)
    assert module(inputs).shape == (5, 3)
    backbone = tuned.model.backbone.state_dict()
    assert all(
        torch.equal(t, backbone[name])
        for name, t in module.state_dict().items()
        if name in backbone
    )
    if told.single_layer is None:  # the run's own head listens to the last tap alone
        same(module(inputs).detach(), logits(tuned, pixels_for(tuned, 5)))
    else:
        assert told.single_layer.estimate.method == "holdout"  # its layers had seen all the rest
        assert "single-layer head, not the run's own" in (out / "README.md").read_text()


def test_transformers_loads_what_timm_does(tuned, tmp_path):
    transformers = pytest.importorskip("transformers")
    warmstart.export(tuned, "transformers", out=tmp_path / "a")
    warmstart.export(tuned, "timm", out=tmp_path / "b")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "a").eval()
    plain = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    with torch.inference_mode():
        inputs = inputs_for(tuned, 5)
        torch.testing.assert_close(loaded(inputs).logits, plain(inputs))
    assert list(loaded.config.id2label.values()) == ["blue", "green", "red"]


def test_the_script_answers_for_a_file_without_warmstart(runs, place, tmp_path):
    run, out = runs["convolutions"], tmp_path / "out"
    warmstart.export(run, "onnx", out=out)
    path = place / "photos" / "test" / "green" / "002.png"
    hidden = "import sys, runpy; sys.modules['warmstart'] = None; "
    code = f"{hidden}sys.argv = ['predict.py', {str(path)!r}]; "
    code += f"runpy.run_path({str(out / 'predict.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (answer,) = run.predict([path])
    assert f"{answer.label} {answer.probability:.1%}" in done.stdout


# ---- what does not agree leaves nothing --------------------------------------------------


def corrupted(source, title, real=graph.onnx_graph):
    """The graph with one number of one weight changed."""
    made = onnx.load_from_string(real(source, title))
    tensor = max(made.graph.initializer, key=lambda t: len(t.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 50.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return made.SerializeToString()


@pytest.mark.parametrize("options", [{}, {"int8": True}], ids=["float", "int8"])
def test_a_corrupted_graph_is_refused_and_nothing_is_left(runs, tmp_path, monkeypatch, options):
    monkeypatch.setattr(graph, "onnx_graph", corrupted)
    before = tiny.bytes_of(runs["convolutions"].path)
    with pytest.raises(ExportError, match="disagrees with the model"):
        warmstart.export(runs["convolutions"], "onnx", out=tmp_path / "deep" / "out", **options)
    assert [p.name for p in tmp_path.rglob("*")] == ["deep"]
    assert tiny.bytes_of(runs["convolutions"].path) == before


def test_a_run_is_only_read(runs, tmp_path):
    run = runs["layers"]
    before = tiny.bytes_of(run.path)
    warmstart.export(run, "onnx", out=tmp_path / "out")
    assert tiny.bytes_of(run.path) == before


def test_the_record_is_the_one_that_was_handed_back(runs, tmp_path):
    told = warmstart.export(runs["layers"], "onnx", out=tmp_path / "out", pixels=True)
    assert read_json(tmp_path / "out" / "export.json", Exported) == told
