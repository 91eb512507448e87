"""Classifiers of other tools: weights, folders of timm and transformers, ONNX files, names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from torch import nn

from external_models import Colours, onnx_file
from small_networks import seeded
from tiny import PREP, network
from warmstart.errors import ModelError
from warmstart.network.architectures import IMAGENET
from warmstart.network.external_classifier import (
    InputHandling,
    from_module,
    imagenet_names,
    is_hub_folder,
    open_classifier,
    parse_names,
    read_names,
    unique,
)
from warmstart.network.hub import from_processor, read_folder

SMALL = InputHandling(size=(32, 32))


X = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(module, path):
    torch.save({"state_dict": {f"module.{n}": t for n, t in module.state_dict().items()}}, path)
    return path


def lcnet(n_classes):
    return seeded(lambda: timm.create_model("lcnet_035", num_classes=n_classes))


def expected(**options):
    return Colours(**options)(X).detach().numpy()


@pytest.mark.parametrize("arch", ["timm:lcnet_035", "torchvision:squeezenet1_1"])
def test_a_file_answers_as_the_network_it_came_from(tmp_path, arch):
    squeezenet = torchvision.models.squeezenet1_1
    module = lcnet(6) if arch.startswith("timm") else seeded(lambda: squeezenet(num_classes=6))
    result = open_classifier(str(saved(module, tmp_path / "best.pth")), arch, SMALL)
    scores, vectors = result.answer(X)
    assert (result.outputs, scores.shape, len(vectors)) == (6, (5, 6), 5)
    np.testing.assert_allclose(scores, module(X).detach(), atol=1e-4)
    assert result.preprocessing.size == (32, 32)
    assert "best.pth" in result.title
    assert result.labels == ()
    (tmp_path / "labels.json").write_text(json.dumps([*"abcdef"]))
    assert open_classifier(str(tmp_path / "best.pth"), arch, SMALL).labels == (*"abcdef",)


def test_the_vector_is_what_the_classifier_sees():
    module = network()
    result = from_module(module, "net", "net", PREP, "PREP")
    scores, vectors = result.answer(X)
    np.testing.assert_allclose(module.out(torch.from_numpy(vectors)).detach(), scores, atol=1e-5)
    assert result.answer(X[:1])[0].shape == (1, 5)


def test_a_published_base_model_keeps_its_own_classes():
    result = open_classifier("lite0", None, InputHandling(size=(64, 64)))
    assert (result.outputs, result.is_imagenet) == (1000, True)
    assert result.answer(torch.zeros(1, 3, 64, 64))[0].shape == (1, 1000)
    assert result.preprocessing.resize == 73  # as much of a margin as at 224


def test_options_override_the_preprocessing_and_the_rest_stays():
    prep = InputHandling(mean=(0.5,), std=(0.1, 0.2, 0.3)).over(IMAGENET)
    assert prep == replace(IMAGENET, mean=(0.5,) * 3, std=(0.1, 0.2, 0.3))
    assert InputHandling().over(IMAGENET) == IMAGENET
    for name in ("mean", "std"):
        with pytest.raises(ModelError, match=f"--{name} has 2 numbers, the model takes 3"):
            InputHandling(**{name: (0.5, 0.5)}).over(IMAGENET)


def graph(path, nodes, shape, out, initializers=()):
    floats = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", floats, shape)]
    outputs = [helper.make_tensor_value_info("y", floats, out)]
    body = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=8), path)
    return path


def test_mistakes_are_refused(tmp_path):
    path = saved(lcnet(2), tmp_path / "best.pt")
    with pytest.raises(ModelError, match="add --arch timm:NAME, torchvision:NAME or transformers"):
        open_classifier(str(path), None, InputHandling())
    with pytest.raises(ModelError, match="check --arch"):
        open_classifier(str(path), "timm:resnet18", InputHandling())
    one = nn.Sequential(Colours(), nn.Linear(3, 1))
    with pytest.raises(ModelError, match="gives one number an image"):
        from_module(one, "one", "one", PREP, "PREP")


def test_an_onnx_file_that_is_no_classifier_of_images_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="does not exist"):
        open_classifier(str(path), None, InputHandling())
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be run by ONNX Runtime"):
        open_classifier(str(path), None, InputHandling())
    same = [helper.make_node("Identity", ["x"], ["y"])]
    for shape, message in (
        (["n", 4], "does not take one batch of images"),
        (["n", 7, 8, 8], "takes 7 channels; pictures have"),
        (["n", 3, 8, 8], "has no output of one score a class"),
    ):
        with pytest.raises(ModelError, match=message):
            open_classifier(str(graph(path, same, shape, shape)), None, InputHandling())
    with pytest.raises(ModelError, match="images of 32 x 32 px only; omit --size"):
        open_classifier(str(onnx_file(path, side=32)), None, InputHandling(size=(64, 64)))
    with pytest.raises(ModelError, match=r"m\.onnx gives one number an image"):
        open_classifier(str(onnx_file(path, order=(0,))), None, InputHandling())
    flat = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    sizes = [helper.make_tensor("s", TensorProto.INT64, [2], [3, 12])]
    graph(path, flat, ["n", 3, "h", "w"], ["n", 12], sizes)
    with pytest.raises(ModelError, match=r"cannot take images of 224 x 224 px .* --size"):
        open_classifier(str(path), None, InputHandling())
    assert open_classifier(str(path), None, InputHandling(size=(2, 2))).outputs == 12


def timm_folder(path, **more):
    module = lcnet(3)
    path.mkdir(exist_ok=True)
    save_file(module.state_dict(), path / "model.safetensors")
    fed = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.8}
    config = {"architecture": "lcnet_035", "num_classes": 3, "pretrained_cfg": fed}
    (path / "config.json").write_text(json.dumps(config | more))
    return path, module


def test_a_folder_of_timm(tmp_path):
    path, module = timm_folder(tmp_path / "net", label_names=["ant", "bee", "cat"])
    assert is_hub_folder(path)
    result = open_classifier(str(path), None, InputHandling())
    assert result.labels == ("ant", "bee", "cat")
    assert result.labels_from == "label_names in its config.json"
    assert (result.preprocessing.size, result.preprocessing.resize) == ((32, 32), 40)
    assert result.preprocessing.mean == (0.5,) * 3
    np.testing.assert_allclose(result.answer(X)[0], module(X).detach(), atol=1e-4)
    timm_folder(path)
    (path / "labels.json").write_text('["x", "y", "z"]')
    assert open_classifier(str(path), None, InputHandling()).labels == ("x", "y", "z")


def test_weights_in_several_files(tmp_path):
    path, module = timm_folder(tmp_path / "net")
    state = load_file(path / "model.safetensors")
    names = sorted(state)
    (path / "model.safetensors").unlink()
    for number, block in enumerate((names[::2], names[1::2])):
        save_file({name: state[name] for name in block}, path / f"{number}.safetensors")
    index = {name: f"{place % 2}.safetensors" for place, name in enumerate(names)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert read_folder(path).keys() == module.state_dict().keys()
    bad = index | {names[0]: "../0.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": bad}))
    with pytest.raises(ModelError, match="outside the folder"):
        read_folder(path)


def test_damaged_folders_are_refused(tmp_path):
    path, _ = timm_folder(tmp_path / "net")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors or pytorch_model.bin"):
        open_classifier(str(path), None, InputHandling())
    for text, message in (
        ("{", "is damaged"),
        ("[]", "holds no settings"),
        ('{"a":' * 100_000, "is damaged"),
        ('{"model_type": "vit", "inner": {"num_hidden_layers": -1}}', "says num_hidden_layers -1,"),
        ('{"hidden_size": 10000000}', "says hidden_size 10,000,000, which no network has"),
    ):
        (path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            is_hub_folder(path)


PROCESSORS = {
    "vit": ({"size": {"height": 32, "width": 32}}, ((32, 32), 32, True)),
    "cropped": (
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        ((32, 32), 40, False),
    ),
    "numbers alone": ({"size": 40, "crop_size": 32}, ((32, 32), 40, False)),
    "convnext": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ((224, 224), 256, False)),
    "large convnext": ({"size": {"shortest_edge": 384}, "crop_pct": 0.95}, ((384, 384), 384, True)),
}


@pytest.mark.parametrize(("config", "expected"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_sides_of_a_processor(config, expected):
    result = from_processor({"do_center_crop": "crop_size" in config, **config})
    assert (result.size, result.resize, result.squash) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [0.3] * 3, "image_std": [0.7] * 3},
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
        {"do_normalize": False},
    ],
)
def test_values_of_a_processor(config):
    """Against the arithmetic that transformers does."""
    result = from_processor({"size": 32, **config})
    x = 77.0
    value = x * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else x
    value -= 1.0 if config.get("rescale_offset") else 0.0
    if config.get("do_normalize", True):
        value = (value - config["image_mean"][0]) / config["image_std"][0]
    assert (x / 255 - result.mean[0]) / result.std[0] == pytest.approx(value)


@pytest.fixture
def vit(tmp_path):
    """A tiny ViT as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
    config = transformers.ViTConfig(**sizes, id2label={0: "ant", 1: "bee", 2: "cat"})
    module = seeded(lambda: transformers.ViTForImageClassification(config))
    module.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit", module


def test_a_folder_of_transformers(vit, capsys):
    path, module = vit
    capsys.readouterr()
    result = open_classifier(str(path), None, InputHandling())
    assert capsys.readouterr() == ("", "")
    assert result.labels == ("ant", "bee", "cat")
    assert result.preprocessing.size == (32, 32)
    assert result.preprocessing_from == "ImageNet's defaults"
    np.testing.assert_allclose(result.answer(X)[0], module(X).logits.detach(), atol=1e-4)
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.1] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert open_classifier(str(path), None, InputHandling()).preprocessing.mean == pytest.approx(
        (0.1,) * 3
    )
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="no image classifier of type 'bert'"):
        open_classifier(str(path), None, InputHandling())


def test_a_file_of_weights_for_such_a_design_keeps_its_own_outputs(vit, tmp_path):
    path, module = vit
    state = {n: t.clone() for n, t in module.state_dict().items()}
    state["classifier.weight"], state["classifier.bias"] = torch.ones(5, 16), torch.zeros(5)
    torch.save(state, tmp_path / "best.pt")
    result = open_classifier(str(tmp_path / "best.pt"), f"transformers:{path}", InputHandling())
    assert (result.outputs, result.labels) == (5, ())
    del state["classifier.bias"]
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(ModelError, match=r"classifier.bias is missing; check --arch"):
        open_classifier(str(tmp_path / "best.pt"), f"transformers:{path}", InputHandling())
    with pytest.raises(ModelError, match="transformers:no/such is not on this machine"):
        open_classifier(str(tmp_path / "best.pt"), "transformers:no/such", InputHandling())


def test_without_transformers_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    monkeypatch.setitem(__import__("sys").modules, "transformers.utils", None)
    path, _ = timm_folder(tmp_path / "net")
    (path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match=r"run `pip install .*transformers"):
        open_classifier(str(path), None, InputHandling())


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 1}, {"batch": 4}, {"side": 32}, {"shape": ["n", 32, 32, 3]}],
)
def test_it_answers_as_the_network_whatever_its_shape(tmp_path, options):
    result = open_classifier(str(onnx_file(tmp_path / "m.onnx", **options)), None, SMALL)
    assert (result.outputs, result.preprocessing.size) == (3, (32, 32))
    np.testing.assert_allclose(result.answer(X)[0], expected(), atol=1e-4)


def test_half_precision_and_bytes(tmp_path):
    half = open_classifier(
        str(onnx_file(tmp_path / "h.onnx", kind=TensorProto.FLOAT16)), None, SMALL
    )
    np.testing.assert_allclose(half.answer(X)[0], expected(), atol=0.05)
    whole = open_classifier(
        str(onnx_file(tmp_path / "b.onnx", kind=TensorProto.UINT8)), None, SMALL
    )
    assert whole.preprocessing_from == "8-bit inputs, and your options"
    assert whole.preprocessing.std == (1 / 255,) * 3
    pixels = (X * 255).round()
    np.testing.assert_allclose(whole.answer(pixels)[0] / 255, expected(), atol=0.1)


def test_probabilities_become_scores_of_the_same_softmax(tmp_path):
    result = open_classifier(
        str(onnx_file(tmp_path / "p.onnx", softmax=True, sharpness=3.0)), None, SMALL
    )
    wanted = torch.from_numpy(expected(sharpness=3.0)).softmax(dim=1)
    np.testing.assert_allclose(np.exp(result.answer(X)[0]), wanted, atol=1e-5)


def test_the_metadata_is_used_and_options_win(tmp_path):
    metadata = {
        "names": "{0: 'ant', 1: 'bee', 2: 'cat'}",
        "imgsz": "[48, 64]",
        "mean": "0.5",
        "std": "[0.25, 0.25, 0.25]",
    }
    result = open_classifier(
        str(onnx_file(tmp_path / "m.onnx", metadata=metadata)), None, InputHandling()
    )
    assert (result.labels, result.labels_from) == (("ant", "bee", "cat"), "'names' in its metadata")
    prep = result.preprocessing
    assert (prep.size, prep.mean, prep.std) == ((48, 64), (0.5,) * 3, (0.25,) * 3)
    assert result.preprocessing_from == "its metadata"
    overridden = open_classifier(
        str(tmp_path / "m.onnx"), None, InputHandling(mean=(0.0,))
    ).preprocessing
    assert (overridden.mean, overridden.std) == ((0.0,) * 3, (0.25,) * 3)


def test_without_metadata_it_is_the_habit_of_imagenet(tmp_path):
    path = onnx_file(tmp_path / "m.onnx", metadata={"labels": "ant, bee, cat", "mean": "?"})
    result = open_classifier(str(path), None, InputHandling())
    assert result.preprocessing == IMAGENET
    assert result.preprocessing_from == "ImageNet's defaults"
    assert result.labels == ("ant", "bee", "cat")
    plain = onnx_file(tmp_path / "n.onnx")
    (tmp_path / "labels.json").write_text(json.dumps(["x", "y", "z"]))
    assert open_classifier(str(plain), None, InputHandling()).labels == ("x", "y", "z")


WORDS = st.lists(st.text("abcdefg ü", min_size=1).map(str.strip).filter(bool), min_size=2)


@given(WORDS.map(lambda names: list(dict.fromkeys(names))).filter(lambda names: len(names) > 1))
def test_all_ways_to_write_them_give_the_same(names):
    expected = tuple(names)
    assert parse_names(json.dumps(names)) == expected
    assert parse_names(json.dumps({str(i): name for i, name in enumerate(names)})) == expected
    assert parse_names(repr(dict(enumerate(names)))) == expected
    assert parse_names("\n".join(names) + "\n\n") == expected
    assert parse_names(json.dumps({name: i for i, name in enumerate(names)})) == expected


def test_a_file_with_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nHündchen\n", "utf-8-sig")
    assert read_names(tmp_path / "names.txt") == ("cat", "Hündchen")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\xff", "is no text"),
        (b"\n", "names no classes"),
        (b"cat\ndog\ncat\n", "has 'cat' twice"),
        (b'{"cat": 3}', "names no classes"),
    ],
)
def test_unusable_names_are_refused(tmp_path, content, says):
    path = tmp_path / "names.txt"
    with pytest.raises(ModelError, match="does not exist"):
        read_names(path)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_names(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_names(tmp_path)


def test_each_class_of_imagenet_has_a_name_of_its_own():
    assert len(unique(imagenet_names([]), "ImageNet")) == 1000
    assert imagenet_names(["n02012849", "cat"])[134] == "n02012849"
