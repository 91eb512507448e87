"""Law 8 before any file is written: graphs and programs of many networks say what they say."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from networks import (
    FORKS,
    KINDS,
    TEXT_ENCODERS,
    Forked,
    cut_once,
    each,
    inputs_for,
    model_of,
    opened,
)

from warmstart.errors import ExportError
from warmstart.exporting.graph import ExportSource, onnx_graph, to_program
from warmstart.network.feature_layers import feature_layers
from warmstart.network.partition import cut
from warmstart.network.surgery import add_ensemble_branch, graft, make_block
from warmstart.records.answer import ModelRecord
from warmstart.records.network import FeatureLayer

IMAGES = ("tf_efficientnet_lite0", "vit_tiny", "convnext_atto", "swin_tiny")
IMAGES += ("torchvision_resnet18", "mlp", "residual", "odd_norms")
OTHERS = ("rows", "signals", "tokens", "wav2vec2", "bert-windows", *TEXT_ENCODERS)
BRANCHES = "branches on the values of an image"


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
        preprocessing=opened(name)[1],
    )
    return ExportSource(model.requires_grad_(False), record, None)


def agrees(name, model, is_program=False):
    """The graph or program on batches of 1 and 5 examples that nobody traced it with."""
    source, batches = source_of(name, model), [inputs_for(name, 1), inputs_for(name, 5)]
    if name in TEXT_ENCODERS:
        batches.append(batches[1][3:, :6])
    if is_program:
        kept = io.BytesIO()
        torch.export.save(to_program(source.exported()), kept)
        kept.seek(0)
        program = torch.export.load(kept).module()
    else:
        graph = onnx_graph(source, name)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for inputs in batches:
        with torch.inference_mode():
            wanted = model(inputs).numpy()
        if is_program:
            found = program(inputs)[0].detach().numpy()
        else:
            (found,) = session.run(["logits"], {session.get_inputs()[0].name: inputs.numpy()})
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


@each([*IMAGES, *OTHERS])
def test_a_graph_with_a_head_on_all_feature_layers(name):
    _, network = cut_once(name)
    agrees(name, model_of(network, feature_layers(network.record)))


@each(["tf_efficientnet_lite0", "vit_tiny", "residual", *OTHERS])
def test_a_program_with_a_head_on_all_feature_layers(name):
    _, network = cut_once(name)
    agrees(name, model_of(network, feature_layers(network.record)), is_program=True)


def test_a_graph_of_an_ensemble_and_of_added_blocks():
    _, network = cut_once("resnet18")
    own = FeatureLayer(block=len(network.blocks), pool="neck")
    beside = FeatureLayer(block=len(network.blocks), pool="neck", of="base")
    agrees("resnet18", model_of(add_ensemble_branch(network, network.backbone, 5), (own, beside)))
    block = make_block(network.record.blocks[-1], torch.Generator().manual_seed(0))
    grown = graft(network, [block])
    agrees("resnet18", model_of(grown, feature_layers(grown.record)))


@pytest.mark.parametrize("name", ["wandering", "answer"])
def test_a_forward_that_branches_on_values_is_refused_not_frozen(name):
    _, network = cut_once(name)
    with pytest.raises(ExportError, match=BRANCHES):
        onnx_graph(source_of(name, model_of(network)), name)


def forked(choose, is_inside):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_of(cut(Forked(choose, is_inside).eval(), KINDS["residual"].inputs))


@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "forward"])
@pytest.mark.parametrize("how", FORKS)
def test_a_fork_is_refused_however_it_is_taken_and_wherever_it_stands(how, is_inside, to, capfd):
    """Neither the model's nor the export's answers tell: the images at hand take one side."""
    source = source_of("residual", forked(FORKS[how], is_inside))
    with pytest.raises(ExportError, match=BRANCHES) as caught:
        onnx_graph(source, "forked") if to == "onnx" else to_program(source.exported())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # torch tells of its graphs


def test_a_question_about_the_size_of_an_image_is_no_fork():
    """That is the same for all that a model is given."""
    agrees("residual", forked(lambda x: x.shape[-1] > 4, True))
