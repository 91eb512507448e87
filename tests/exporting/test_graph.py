"""Graphs of a small network in every format: what a graph says of itself, 8 bits, refusals.

That graphs and programs give the model's logits is law 8, in `contracts`.
"""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tiny
from warmstart.errors import ExportError
from warmstart.exporting import FORMATS
from warmstart.exporting.graph import ExportSource, onnx_graph, to_onnx, to_program, wrap_model
from warmstart.exporting.openvino import write_ir
from warmstart.exporting.quantize import quantize_graph, run, seconds_each, session


@pytest.fixture(scope="module", params=[False, True], ids=["images", "pixels"])
def source(request, finished):
    predictor = finished.predictor
    return ExportSource(predictor.model, predictor.bundle.record, None, request.param)


@pytest.fixture(scope="module")
def graph(source):
    return onnx_graph(source, "nets")


def test_the_graph_gives_both_outputs_and_says_what_it_is(source, graph):
    network = source.exported()
    loaded = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = network.example(7)
    with torch.no_grad():
        expected = [out.numpy() for out in network(inputs)]
    outputs = loaded.run(["logits", "probabilities"], {network.input_name: inputs.numpy()})
    for ours, theirs in zip(expected, outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    record = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    assert json.loads(record["labels"]) == ["blue", "green", "red"]
    assert ("mean" in record) == (network.input_name == "images")


def test_the_program_holds_its_metadata(source, tmp_path):
    FORMATS["torch"].write(tmp_path, source, "nets")
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["metadata.json"]) == source.metadata("nets")


def test_openvino_reads_the_graph(source, graph, tmp_path):
    openvino = pytest.importorskip("openvino")
    write_ir(graph, tmp_path / "model.xml", {"labels": "[]"})
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", f32)
    inputs = source.exported().example(3).numpy()
    logits = run(session(graph), inputs)
    np.testing.assert_allclose(compiled([inputs])["logits"], logits, atol=1e-3)
    with pytest.raises(ExportError, match="OpenVINO cannot read the network"):
        write_ir(b"no graph", tmp_path / "other.xml", {})


def test_eight_bits_are_smaller_and_nearly_right(source, graph):
    network = source.exported()
    batch = network.example(8).numpy()
    small = quantize_graph(graph, [batch], network.input_name)
    after, before = session(small), session(graph)
    logits, expected = run(after, batch), run(before, batch)
    assert 0 < np.abs(logits - expected).max() < np.abs(expected).max()
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(small).graph.node}
    assert min(seconds_each(after, before, batch[:1], 3)) > 0
    with pytest.raises(ExportError, match="cannot quantize this network to 8 bits"):
        quantize_graph(b"no graph", [batch], network.input_name)


class Branching(nn.Module):
    """What it does depends on the values that it sees."""

    def forward(self, x):
        values = x.flatten(1)[:, :5]
        return values if values.sum() > 0 else -values


class Strange(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, x):
        return torch.special.bessel_j0(x.flatten(1)[:, :5])


def test_a_network_without_a_form_is_refused():
    with pytest.raises(ExportError, match="export cannot capture"):
        to_program(wrap_model(Branching(), tiny.PREP))
    with pytest.raises(ExportError, match=r"has no form in ONNX .*; try --to torch"):
        to_onnx(wrap_model(Strange(), tiny.PREP), {})
