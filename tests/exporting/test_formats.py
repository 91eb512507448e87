"""Folders for the hub: what timm and transformers read in them."""

import json

import pytest
import timm
import torch

from warmstart.errors import ExportError
from warmstart.exporting.timm import timm_config, write_timm
from warmstart.exporting.transformers import Transformers, processor
from warmstart.records.inputs import Preprocessing

PREP = Preprocessing(size=(32, 32), resize=36, mean=(0.4,) * 3, std=(0.3,) * 3)
TOLD = {"arch": "lcnet_035", "labels": ("x", "y", "z"), "prep": PREP, "options": {}, "more": {}}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("lcnet_035", num_classes=3).eval()


def test_timm_loads_its_folder(module, tmp_path):
    write_timm(module, tmp_path, **TOLD)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X), module(X))
    fed = timm.data.resolve_data_config({}, model=again)
    assert tuple(fed["input_size"]) == (3, 32, 32)
    assert tuple(fed["mean"]) == PREP.mean
    assert again.pretrained_cfg["label_names"] == ["x", "y", "z"]
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_transformers_loads_the_same_with_its_name(module, tmp_path):
    transformers = pytest.importorskip("transformers")
    write_timm(module, tmp_path, **TOLD | {"more": Transformers.config})
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X).logits, module(X))
    assert again.config.id2label == {0: "x", 1: "y", 2: "z"}


@pytest.mark.parametrize("side", [32, 64, 96, 224, 256, 299])
@pytest.mark.parametrize("more", [0, 1, 5, 32, 73])
def test_timm_resizes_as_we_do(side, more):
    prep = Preprocessing(size=(side, side), resize=side + more, mean=(0.5,), std=(0.5,))
    share = timm_config(prep)["crop_pct"]
    assert int(side / share) == side + more


def test_processors_of_transformers():
    whole = processor(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,), squash=True))
    assert (whole["image_processor_type"], whole["size"]) == (
        "ViTImageProcessor",
        {"height": 8, "width": 8},
    )
    with pytest.raises(ExportError, match="no image processor of transformers squashes"):
        processor(Preprocessing(size=(8, 8), resize=9, mean=(0.5,), std=(0.5,), squash=True))
    assert json.loads(json.dumps(processor(PREP)))["resample"] == 3
