"""timm and transformers: the same answers from their plain networks and folders, or a refusal."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from warmstart.errors import ExportError
from warmstart.exporting.single_layer_head import is_plain, on_neck
from warmstart.exporting.timm import as_timm, timm_config, write_timm
from warmstart.exporting.transformers import Transformers, as_native, is_native, processor
from warmstart.network.feature_layers import layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import (
    MultiLayerHead,
    add_ensemble_branch,
    assemble,
    graft,
    make_block,
)
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

SMALL = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
SHIFT = torch.tensor([0.3, 0.0, -0.3])


def built(name="resnet18", channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = timm.create_model(name, num_classes=6, in_chans=channels).eval()
    prep = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * channels, std=(0.5,) * channels)
    return cut(module, prep), prep


def warm(network, feature_layers):
    width = sum(layer_width(network.record, layer) for layer in feature_layers)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(3, width, generator=generator)
    return assemble(network, feature_layers, weight, torch.ones(3), 1.7, SHIFT)


def neck(network):
    return FeatureLayer(block=len(network.record.blocks), pool="neck")


def inputs(channels=3):
    return torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 3), ("resnet18", 1), ("mobilenetv3_small_050", 3)]
)
def test_a_head_on_the_neck_is_the_networks_own_output_layer(name, channels):
    network, prep = built(name, channels)
    model = warm(network, [neck(network)])
    assert is_plain(model)
    plain, options = as_timm(model, f"timm:{name}", prep)
    assert options == {"num_classes": 3, **({"in_chans": 1} if channels == 1 else {})}
    again = timm.create_model(name, **options).eval()
    again.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for module in (plain, again):
            torch.testing.assert_close(module(inputs(channels)), model(inputs(channels)))


def test_a_multi_layer_head_is_not_plain_and_its_single_layer_head_is():
    network, prep = built()
    model = warm(network, [FeatureLayer(block=3, pool="grid2"), neck(network)])
    assert not is_plain(model)
    head = MultiLayerHead(torch.ones(3, 512), torch.zeros(3))
    clone = on_neck(model, prep, head)
    assert is_plain(clone)
    assert clone.scan.widths == (512,)
    with torch.no_grad():
        plain, _ = as_timm(clone, "timm:resnet18", prep)
        torch.testing.assert_close(plain(inputs()), clone(inputs()))


def test_the_single_layer_head_of_an_ensemble_has_the_tuned_layers_alone():
    network, prep = built()
    tuned = copy.deepcopy(network)
    with torch.no_grad():
        tuned.backbone.layer4[1].conv2.weight.mul_(1.5)
    both = add_ensemble_branch(tuned, network.backbone, 5)
    model = warm(both, [neck(both), replace(neck(both), of="base")])
    assert not is_plain(model)
    clone = on_neck(model, prep, MultiLayerHead(torch.ones(3, 512), torch.zeros(3)))
    plain, _ = as_timm(clone, "timm:resnet18", prep)
    with torch.no_grad():
        torch.testing.assert_close(plain(inputs()), clone(inputs()))
    assert torch.equal(plain.layer4[1].conv2.weight, tuned.backbone.layer4[1].conv2.weight)


def test_what_timm_cannot_hold_is_refused_with_what_can():
    network, prep = built()
    model = warm(network, [neck(network)])
    with pytest.raises(ExportError, match=r"not from timm; use --to onnx, torch or openvino"):
        as_timm(model, "torchvision:resnet18", prep)
    with pytest.raises(ExportError, match=r"do not fit timm's resnet34"):
        as_timm(model, "timm:resnet34", prep)
    block = make_block(network.record.blocks[-1], torch.Generator().manual_seed(0))
    grown = graft(network, [block])
    with pytest.raises(ExportError, match="added blocks behind the last layer"):
        as_timm(warm(grown, [neck(grown)]), "timm:resnet18", prep)


class Bare(nn.Conv2d):
    """Its outputs are a pooled map: no linear layer gives them."""

    def forward(self, x):
        return super().forward(x).mean((2, 3))


def test_a_network_without_an_output_layer_is_refused():
    network = cut(Bare(3, 5, 3).eval(), SMALL)
    with pytest.raises(ExportError, match="no linear output layer that timm could hold"):
        as_timm(warm(network, [neck(network)]), "timm:resnet18", SMALL)


@pytest.fixture(scope="module")
def vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config).eval()


def test_a_network_of_transformers_gets_the_runs_tensors_and_output(vit):
    network = cut(copy.deepcopy(vit), SMALL)
    model = warm(network, [neck(network)])
    assert is_native(vit)
    assert not is_native(nn.Linear(1, 1))
    assert not is_native(None)
    own = as_native(model, vit, SMALL)
    with torch.no_grad():
        torch.testing.assert_close(own(inputs()).logits, model(inputs()))
    assert own.config.num_labels == 3
    assert vit.config.num_labels == 5  # the user's own is left as it was


# ---- Folders for the hub: what timm and transformers read in them.

PREP = Preprocessing(size=(32, 32), resize=36, mean=(0.4,) * 3, std=(0.3,) * 3)


def test_both_libraries_load_the_folder(tmp_path):
    module = timm.create_model("lcnet_035", num_classes=6).eval()
    labels = tuple("uvwxyz")
    told = {"arch": "lcnet_035", "labels": labels, "prep": PREP, "options": {}}
    write_timm(module, tmp_path, **told, more=Transformers.config)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(inputs()), module(inputs()))
    config = timm.data.resolve_data_config({}, model=again)
    assert (tuple(config["input_size"]), tuple(config["mean"])) == ((3, 32, 32), PREP.mean)
    assert again.pretrained_cfg["label_names"] == list(labels)
    transformers = pytest.importorskip("transformers")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(inputs()).logits, module(inputs()))
    assert again.config.id2label == dict(enumerate(labels))


@pytest.mark.parametrize("side", [32, 64, 96, 224, 256, 299])
@pytest.mark.parametrize("more", [0, 1, 5, 32, 73])
def test_timm_resizes_as_we_do(side, more):
    prep = Preprocessing(size=(side, side), resize=side + more, mean=(0.5,), std=(0.5,))
    share = timm_config(prep)["crop_pct"]
    assert int(side / share) == side + more


def test_processors_of_transformers():
    squashed = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,), squash=True)
    whole = processor(squashed)
    assert whole["image_processor_type"] == "ViTImageProcessor"
    assert whole["size"] == {"height": 8, "width": 8}
    with pytest.raises(ExportError, match="no image processor of transformers squashes"):
        processor(replace(squashed, resize=9))
    assert json.loads(json.dumps(processor(PREP)))["resample"] == 3
