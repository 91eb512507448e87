"""Law 8 before any file is written: graphs and programs of many networks say what they say."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from networks import FORKS, KINDS, Forked, cut_once, inputs_for

from warmstart.errors import ExportError
from warmstart.exporting.graph import ExportSource, onnx_graph, to_program
from warmstart.network.added import graft, make_block
from warmstart.network.ensemble import add_ensemble_branch
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.records.answer import ModelRecord
from warmstart.records.network import FeatureLayer

GRAPHS = (
    "tf_efficientnet_lite0",
    "vit_tiny",
    "convnext_atto",
    "swin_tiny",
    "torchvision_resnet18",
    "mlp",
    "residual",
    "odd_norms",
)
PROGRAMS = ("tf_efficientnet_lite0", "vit_tiny", "residual")
BRANCHING = ("wandering", "answer")


def model_of(network, wanted):
    width = sum(layer_width(network.record, layer) for layer in wanted)
    drawn = torch.Generator().manual_seed(2)
    return assemble(
        network, wanted, torch.randn(3, width, generator=drawn) / width**0.5, torch.zeros(3)
    )


def source_of(name, model):
    record = ModelRecord(
        task="classify",
        arch=f"module:{name}",
        base=name,
        base_sha256="",
        head="late",
        penalty=1.0,
        feature_layers=model.scan.feature_layers,
        classes=("a", "b", "c"),
        preprocessing=KINDS[name].inputs,
    )
    return ExportSource(model, record, None)


def agrees(name, model):
    """The graph on batches of 1 and 5 images that nobody traced it with."""
    graph = onnx_graph(source_of(name, model), name)
    made = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for n in (1, 5):
        inputs = inputs_for(name, n)
        with torch.inference_mode():
            wanted = model(inputs).numpy()
        found = made.run(["logits"], {"images": inputs.numpy()})[0]
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_with_a_head_of_all_taps(name):
    _, network = cut_once(name)
    agrees(name, model_of(network, feature_layers(network.record)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_with_a_head_of_all_taps(name):
    _, network = cut_once(name)
    model = model_of(network, feature_layers(network.record))
    program = to_program(source_of(name, model).exported())
    kept = io.BytesIO()
    torch.export.save(program, kept)
    kept.seek(0)
    again = torch.export.load(kept).module()
    for n in (1, 5):
        inputs = inputs_for(name, n)
        with torch.inference_mode():
            torch.testing.assert_close(again(inputs)[0], model(inputs), atol=1e-3, rtol=0)


def test_a_graph_of_two_networks_in_one():
    _, network = cut_once("resnet18")
    both = add_ensemble_branch(network, network.backbone, 5)
    last = len(network.blocks)
    wanted = (
        FeatureLayer(block=last, pool="neck"),
        FeatureLayer(block=last, pool="neck", of="base"),
    )
    agrees("resnet18", model_of(both, wanted))


def test_a_graph_with_added_blocks():
    _, network = cut_once("resnet18")
    block = make_block(network.record.blocks[-1], torch.Generator().manual_seed(0))
    grown = graft(network, [block])
    agrees("resnet18", model_of(grown, feature_layers(grown.record)))


@pytest.mark.parametrize("name", BRANCHING)
def test_a_forward_that_branches_on_values_is_refused_not_frozen(name):
    _, network = cut_once(name)
    model = model_of(network, feature_layers(network.record))
    with pytest.raises(ExportError, match="branches on the values of an image"):
        onnx_graph(source_of(name, model), name)


@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "forward"])
@pytest.mark.parametrize("how", FORKS)
def test_a_fork_is_refused_however_it_is_taken_and_wherever_it_stands(how, is_inside, to, capfd):
    """Neither the model's nor the export's answers tell: the images at hand take one side."""
    prep = KINDS["residual"].inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = cut(Forked(FORKS[how], is_inside).eval(), prep)
    model = model_of(network, feature_layers(network.record))
    source = source_of("residual", model)
    with pytest.raises(ExportError, match="branches on the values of an image") as caught:
        onnx_graph(source, "forked") if to == "onnx" else to_program(source.exported())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # torch tells of its graphs


def test_a_question_about_the_size_of_an_image_is_no_fork():
    """That is the same for all that a model is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = cut(Forked(lambda x: x.shape[-1] > 4, True).eval(), KINDS["residual"].inputs)
    agrees("residual", model_of(network, feature_layers(network.record)))
