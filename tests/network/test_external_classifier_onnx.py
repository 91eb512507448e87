"""ONNX files: any batch, layout and kind of number, and what their metadata says."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from external_models import Colours, onnx_file
from warmstart.errors import ModelError
from warmstart.network.architectures import IMAGENET
from warmstart.network.external_classifier import InputHandling, open_onnx

X = torch.rand(5, 3, 32, 32)
SMALL = InputHandling(size=(32, 32))


def expected():
    return Colours()(X).detach().numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 1},
        {"batch": 4},
        {"side": 32},
        {"shape": ["n", 32, 32, 3]},
        {"shape": ["n", "h", "w", 3]},
    ],
)
def test_it_answers_as_the_network_whatever_its_shape(tmp_path, options):
    result = open_onnx(onnx_file(tmp_path / "m.onnx", **options), SMALL)
    assert result.outputs == 3
    assert result.preprocessing.size == (32, 32)
    np.testing.assert_allclose(result.answer(X)[0], expected(), atol=1e-4)


def test_what_torch_exports_is_read(tmp_path):
    torch.onnx.export(
        Colours(),
        (torch.zeros(2, 3, 32, 32),),
        tmp_path / "m.onnx",
        dynamo=False,
        dynamic_axes={"x": {0: "n"}},
        input_names=["x"],
    )
    result = open_onnx(tmp_path / "m.onnx", InputHandling())
    np.testing.assert_allclose(result.answer(X)[0], expected(), atol=1e-4)


def test_half_precision_and_bytes(tmp_path):
    half = open_onnx(onnx_file(tmp_path / "h.onnx", kind=TensorProto.FLOAT16), SMALL)
    np.testing.assert_allclose(half.answer(X)[0], expected(), atol=0.05)
    whole = open_onnx(onnx_file(tmp_path / "b.onnx", kind=TensorProto.UINT8), SMALL)
    assert whole.preprocessing_from == "8-bit inputs, and your options"
    assert whole.preprocessing.std == (1 / 255,) * 3
    pixels = (X * 255).round()
    np.testing.assert_allclose(whole.answer(pixels)[0] / 255, expected(), atol=0.1)


def test_probabilities_become_scores_of_the_same_softmax(tmp_path):
    result = open_onnx(onnx_file(tmp_path / "p.onnx", softmax=True, sharpness=3.0), SMALL)
    logits = Colours(sharpness=3.0)(X).detach()
    np.testing.assert_allclose(
        np.exp(result.answer(X)[0]), logits.softmax(dim=1).numpy(), atol=1e-5
    )


def test_the_metadata_is_used_and_options_win(tmp_path):
    metadata = {
        "names": "{0: 'ant', 1: 'bee', 2: 'cat'}",
        "imgsz": "[48, 64]",
        "mean": "0.5",
        "std": "[0.25, 0.25, 0.25]",
    }
    result = open_onnx(onnx_file(tmp_path / "m.onnx", metadata=metadata), InputHandling())
    assert (result.labels, result.labels_from) == (("ant", "bee", "cat"), "'names' in its metadata")
    prep = result.preprocessing
    assert (prep.size, prep.mean, prep.std) == ((48, 64), (0.5,) * 3, (0.25,) * 3)
    assert result.preprocessing_from == "its metadata"
    overridden = open_onnx(tmp_path / "m.onnx", InputHandling(mean=(0.0,))).preprocessing
    assert (overridden.mean, overridden.std) == ((0.0,) * 3, (0.25,) * 3)


def test_without_metadata_it_is_the_habit_of_imagenet(tmp_path):
    path = onnx_file(tmp_path / "m.onnx", metadata={"labels": "ant, bee, cat", "mean": "?"})
    result = open_onnx(path, InputHandling())
    assert result.preprocessing == IMAGENET
    assert result.preprocessing_from == "ImageNet's defaults"
    assert result.labels == ("ant", "bee", "cat")
    plain = onnx_file(tmp_path / "n.onnx")
    (tmp_path / "labels.json").write_text(json.dumps(["x", "y", "z"]))
    assert open_onnx(plain, InputHandling()).labels == ("x", "y", "z")


def grey(path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["m", "m"], ["y"], axis=1),
    ]
    return graph(path, nodes, ["n", 1, 8, 8], ["n", 2])


def graph(path, nodes, shape, out, kind=TensorProto.FLOAT):
    graph_proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
    )
    model = helper.make_model(
        graph_proto, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, path)
    return path


def test_grey_pictures_have_one_mean(tmp_path):
    prep = open_onnx(grey(tmp_path / "g.onnx"), InputHandling()).preprocessing
    assert (prep.channels, prep.size) == (1, (8, 8))
    assert prep.mean[0] == pytest.approx(np.mean(IMAGENET.mean))


def test_mistakes_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="does not exist"):
        open_onnx(path, InputHandling())
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be run by ONNX Runtime"):
        open_onnx(path, InputHandling())
    same = [helper.make_node("Identity", ["x"], ["y"])]
    with pytest.raises(ModelError, match="does not take one batch of images"):
        open_onnx(graph(path, same, ["n", 4], ["n", 4]), InputHandling())
    with pytest.raises(ModelError, match="takes 7 channels; pictures have"):
        open_onnx(graph(path, same, ["n", 7, 8, 8], ["n", 7, 8, 8]), InputHandling())
    with pytest.raises(ModelError, match="has no output of one score a class"):
        open_onnx(graph(path, same, ["n", 3, 8, 8], ["n", 3, 8, 8]), InputHandling())
    with pytest.raises(ModelError, match="images of 32 x 32 px only; omit --size"):
        open_onnx(onnx_file(path, side=32), InputHandling(size=(64, 64)))
    with pytest.raises(ModelError, match=r"m\.onnx gives one number an image"):
        open_onnx(onnx_file(path, order=(0,)), InputHandling())
    flat = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    fixed = helper.make_graph(
        flat,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor("s", TensorProto.INT64, [2], [3, 12])],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(fixed, opset_imports=opset, ir_version=8), path)
    with pytest.raises(ModelError, match=r"cannot take images of 224 x 224 px .* --size"):
        open_onnx(path, InputHandling())
    assert open_onnx(path, InputHandling(size=(2, 2))).outputs == 12
