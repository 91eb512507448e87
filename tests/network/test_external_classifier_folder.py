"""Folders as transformers and timm write them for the Hugging Face hub."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from warmstart.errors import ModelError
from warmstart.network.external_classifier import (
    InputHandling,
    is_hub_folder,
    open_file,
    open_folder,
)
from warmstart.network.hub import from_processor, read_folder, settings

X = torch.randn(2, 3, 32, 32)


def timm_folder(path, **more):
    torch.manual_seed(0)
    module = timm.create_model("lcnet_035", num_classes=3).eval()
    path.mkdir(exist_ok=True)
    save_file(module.state_dict(), path / "model.safetensors")
    fed = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.8}
    config = {"architecture": "lcnet_035", "num_classes": 3, "pretrained_cfg": fed}
    (path / "config.json").write_text(json.dumps(config | more))
    return path, module


def test_a_folder_of_timm(tmp_path):
    path, module = timm_folder(tmp_path / "net", label_names=["ant", "bee", "cat"])
    assert is_hub_folder(path)
    result = open_folder(path, InputHandling())
    assert (result.labels, result.labels_from) == (
        ("ant", "bee", "cat"),
        "label_names in its config.json",
    )
    assert (result.preprocessing.size, result.preprocessing.resize) == ((32, 32), 40)
    assert result.preprocessing.mean == (0.5,) * 3
    assert torch.allclose(torch.from_numpy(result.answer(X)[0]), module(X), atol=1e-4)


def test_names_beside_it_where_the_config_has_none(tmp_path):
    path, _ = timm_folder(tmp_path / "net")
    (path / "labels.json").write_text('["x", "y", "z"]')
    assert open_folder(path, InputHandling()).labels == ("x", "y", "z")


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
        open_folder(path, InputHandling())
    (path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        open_folder(path, InputHandling())
    (path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no settings"):
        open_folder(path, InputHandling())
    (path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match="is damaged"):
        open_folder(path, InputHandling())


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", -1), ("num_hidden_layers", 10**6), ("hidden_size", 10**7)],
)
def test_sizes_that_no_network_has_are_refused_before_anything_is_allocated(tmp_path, name, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "vit", "inner": {name: value}}))
    with pytest.raises(ModelError, match=f"says {name} {value:,}, which no network has"):
        settings(path)


PROCESSORS = {
    "vit": ({"size": {"height": 32, "width": 32}}, ((32, 32), 32, True)),
    "cropped": (
        {
            "size": {"shortest_edge": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
        },
        ((32, 32), 40, False),
    ),
    "numbers alone": ({"size": 40, "crop_size": 32, "do_center_crop": True}, ((32, 32), 40, False)),
    "convnext": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ((224, 224), 256, False)),
    "large convnext": ({"size": {"shortest_edge": 384}, "crop_pct": 0.95}, ((384, 384), 384, True)),
}


@pytest.mark.parametrize(("config", "expected"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_sides_of_a_processor(config, expected):
    result = from_processor(config)
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
    torch.manual_seed(0)
    names = {0: "ant", 1: "bee", 2: "cat"}
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    module = transformers.ViTForImageClassification(config).eval()
    module.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit", module


def test_a_folder_of_transformers(vit, capsys):
    path, module = vit
    capsys.readouterr()
    result = open_folder(path, InputHandling())
    assert capsys.readouterr() == ("", "")
    assert result.labels == ("ant", "bee", "cat")
    assert (result.preprocessing.size, result.preprocessing_from) == (
        (32, 32),
        "ImageNet's defaults",
    )
    assert torch.allclose(torch.from_numpy(result.answer(X)[0]), module(X).logits, atol=1e-4)
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.1] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert open_folder(path, InputHandling()).preprocessing.mean == pytest.approx((0.1,) * 3)


def test_a_file_of_weights_for_such_a_design_keeps_its_own_outputs(vit, tmp_path):
    path, module = vit
    state = {n: t.clone() for n, t in module.state_dict().items()}
    state["classifier.weight"], state["classifier.bias"] = torch.ones(5, 16), torch.zeros(5)
    torch.save(state, tmp_path / "best.pt")
    result = open_file(tmp_path / "best.pt", f"transformers:{path}", InputHandling())
    assert (result.outputs, result.labels) == (5, ())
    del state["classifier.bias"]
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(ModelError, match=r"classifier.bias is missing; check --arch"):
        open_file(tmp_path / "best.pt", f"transformers:{path}", InputHandling())
    with pytest.raises(ModelError, match="transformers:no/such is not on this machine"):
        open_file(tmp_path / "best.pt", "transformers:no/such", InputHandling())


def test_a_model_that_is_for_no_images(vit, tmp_path):
    path, _ = vit
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="no image classifier of type 'bert'"):
        open_folder(path, InputHandling())


def test_without_transformers_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    monkeypatch.setitem(__import__("sys").modules, "transformers.utils", None)
    path, _ = timm_folder(tmp_path / "net")
    (path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match=r"run `pip install .*transformers"):
        open_folder(path, InputHandling())
