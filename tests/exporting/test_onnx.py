"""Graphs and programs of a small network: any batch, named outputs, what it says of itself."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tiny
from warmstart.errors import ExportError
from warmstart.exporting.graph import (
    metadata_of,
    save_program,
    to_onnx,
    to_program,
    wrap_model,
)
from warmstart.exporting.openvino import write_ir
from warmstart.exporting.quantize import quantize_graph, run, seconds_each, session

LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module", params=["images", "pixels"])
def served(request):
    return wrap_model(tiny.network("convolutions"), tiny.PREP, request.param == "pixels")


@pytest.fixture(scope="module")
def graph(served):
    return to_onnx(served, metadata_of(served, LABELS, "nets"))


def expected(served, inputs):
    with torch.no_grad():
        return [out.numpy() for out in served(inputs)]


def test_the_graph_gives_both_outputs_for_any_batch(served, graph):
    output = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in output.get_inputs()] == [served.input_name]
    for n in (1, 2, 7):
        inputs = served.example(n)
        result = output.run(["logits", "probabilities"], {served.input_name: inputs.numpy()})
        for ours, theirs in zip(expected(served, inputs), result, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_it_says_what_it_is(served, graph):
    record = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    assert json.loads(record["labels"]) == list(LABELS)
    assert json.loads(record["preprocessing"])["size"] == [32, 32]
    assert ("mean" in record) == (served.input_name == "images")


def test_the_program_gives_the_same_and_holds_no_code(served, tmp_path):
    save_program(to_program(served), tmp_path / "model.pt2", {"labels": json.dumps(LABELS)})
    kept = {"metadata.json": ""}
    again = torch.export.load(tmp_path / "model.pt2", extra_files=kept).module()
    assert json.loads(kept["metadata.json"]) == {"labels": json.dumps(LABELS)}
    for n in (1, 2, 7):
        inputs = served.example(n)
        for ours, theirs in zip(expected(served, inputs), again(inputs), strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)


def test_openvino_reads_the_graph(served, graph, tmp_path):
    openvino = pytest.importorskip("openvino")
    write_ir(graph, tmp_path / "model.xml", {"labels": "[]"})
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    output = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", f32)
    inputs = served.example(3)
    logits, _ = expected(served, inputs)
    np.testing.assert_allclose(output([inputs.numpy()])["logits"], logits, atol=1e-4)
    assert output.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    with pytest.raises(ExportError, match="OpenVINO cannot read the network"):
        write_ir(b"no graph", tmp_path / "other.xml", {})


def test_eight_bits_are_smaller_and_nearly_right(served, graph):
    batches = [served.example(8).numpy()]
    small = quantize_graph(graph, batches, served.input_name)
    output, before = session(small), session(graph)
    result, wanted = run(output, batches[0]), run(before, batches[0])
    assert 0 < np.abs(result - wanted).max() < 0.2 * np.abs(wanted).max()
    kinds = {node.op_type for node in onnx.load_from_string(small).graph.node}
    assert "QuantizeLinear" in kinds
    assert min(seconds_each(output, before, batches[0][:1], 3)) > 0
    with pytest.raises(ExportError, match="cannot quantize this network to 8 bits"):
        quantize_graph(b"no graph", batches, served.input_name)


class Branching(nn.Module):
    """What it does depends on the values that it sees."""

    def forward(self, x):
        values = x.flatten(1)[:, :5]
        return values if values.sum() > 0 else -values


def test_a_network_that_branches_on_values_is_no_program():
    with pytest.raises(ExportError, match="export cannot capture"):
        to_program(wrap_model(Branching(), tiny.PREP))


class Strange(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, x):
        return torch.special.bessel_j0(x.flatten(1)[:, :5])


def test_an_operator_without_an_onnx_form_is_told():
    with pytest.raises(ExportError, match=r"has no form in ONNX .*; try --to torch"):
        to_onnx(wrap_model(Strange(), tiny.PREP), {})
