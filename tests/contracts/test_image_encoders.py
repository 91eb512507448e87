"""Folders of encoders of images as base models: those of transformers, and our own exports."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from networks import folder_of
from safetensors.torch import load_file, save_file

import tiny
import tiny_image_encoder
import warmstart
from hue_images import fill
from warmstart.cli.main import main
from warmstart.errors import ModelError
from warmstart.network.load import load
from warmstart.network.partition import cut

transformers = pytest.importorskip("transformers", reason="pip install 'warmstart[text]'")
SIZES = {**tiny_image_encoder.SIZES, "intermediate_size": 48}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "test", {"blue": 4, "green": 4, "red": 4}, seed=1)
    return root


def test_images_are_fed_as_the_folder_says_or_else_as_the_encoder_learnt(tmp_path):
    prep = load(str(folder_of("vit"))).record.preprocessing
    assert (prep.size, prep.squash, prep.interpolation) == ((32, 32), True, "bilinear")
    assert prep.mean == pytest.approx((0.4, 0.5, 0.6))
    assert prep.std == pytest.approx((0.2, 0.25, 0.3))
    for kind, mean in (("vit", 0.5), ("dinov2", 0.485), ("clip_vision_model", 0.48145466)):
        folder = tiny_image_encoder.encoder(tmp_path / kind, kind, feeding=None)
        assert load(str(folder)).record.preprocessing.mean[0] == mean


def test_a_classifiers_body_and_half_of_a_model_of_images_and_texts_are_read(tmp_path):
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES)).eval()
    config = transformers.SiglipConfig(vision_config=SIZES, text_config={**SIZES, "vocab_size": 99})
    both = transformers.SiglipModel(config).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = classifier(images, output_hidden_states=True).hidden_states[-1]
        first = classifier.vit.layernorm(hidden)[:, 0]
        pooled = both.vision_model(images).pooler_output
        for name, model, wanted in (("a", classifier, first), ("b", both, pooled)):
            model.save_pretrained(tmp_path / name)
            base = load(f"transformers:{tmp_path / name}")
            network = cut(base.module, base.record.preprocessing)
            torch.testing.assert_close(network.logits(images), wanted, atol=1e-5, rtol=1e-5)


def tensors(change):
    """Changes the weights of a folder."""

    def edit(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return edit


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


FEEDING, CONFIG = "preprocessor_config.json", '{"model_type": "vit", "hidden_size": "x"}'
DAMAGES = [
    (tensors(lambda t: t.pop("encoder.layer.1.output.dense.weight")), "copy the folder again"),
    (tensors(lambda t: t["layernorm.bias"].fill_(torch.nan)), "layernorm.bias"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    (text(FEEDING, "{"), "is damaged"),
    (text(FEEDING, '{"size": "x"}'), "is damaged"),
    (text(FEEDING, '{"size": -4}'), "is damaged"),
    (text("config.json", CONFIG), "cannot be built"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_damaged_folder_is_one_line(tmp_path, damage, says):
    folder = shutil.copytree(folder_of("vit"), tmp_path / "vit")
    damage(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load(f"transformers:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_of_another_image_size_is_a_base_model_too(photos, tmp_path):
    base, size = str(folder_of("vit")), {"input.size": 48}
    run = warmstart.fit(photos, base=base, budget="fast", settings=size, out=tmp_path / "a")
    assert run.predictor.bundle.record.preprocessing.size == (48, 48)
    following = warmstart.fit(photos, base=run.path, budget="fast", out=tmp_path / "b")
    assert following.predictor.bundle.record.arch == run.predictor.bundle.record.arch


# ---- our own exports ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "timm"
    warmstart.export(finished, "timm", out=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_a_folder_that_we_exported_is_a_base_model(finished, photos, tmp_path, to, capsys):
    folder = tmp_path / "exported"
    warmstart.export(finished, to, out=folder)
    base = load(str(folder))
    assert (base.record.arch, base.record.classes) == (tiny.ARCH, 3)
    own, usual = finished.predictor.bundle.record.preprocessing, base.record.preprocessing
    assert (usual.size, usual.resize) == (own.size, own.resize)
    body, state = finished.model.backbone.state_dict(), base.module.state_dict()
    assert all(torch.equal(state[name], body[name]) for name in state if name in body)
    words = ["fit", str(photos), "--base", str(folder), "--budget", "fast", "-q"]
    assert main([*words, "--set", "input.size=64", "--out", str(tmp_path / "run")]) in (0, 3)
    for name in (f"transformers:{folder}", f"timm:{folder}"):
        assert load(name).record.sha256 == base.record.sha256
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_network_of_transformers_is_a_base_model(photos, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES)).eval()
    run = tiny.fit(photos, base=own, out=tmp_path / "run")
    warmstart.export(run, "transformers", out=tmp_path / "exported")
    base = load(str(tmp_path / "exported"))
    assert base.record.arch.startswith("vision:vit")
    assert base.record.preprocessing.mean == pytest.approx((0.5,) * 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "no_such_net"}, "has no network 'no_such_net'"),
        ({"pretrained_cfg": {"input_size": "x"}}, "is damaged"),
        ({"pretrained_cfg": {"crop_pct": "y"}}, "is damaged"),
        ({"architecture": "resnet18"}, "copy the folder again"),
    ],
)
def test_a_damaged_export_is_one_line(exported, tmp_path, change, says):
    folder = shutil.copytree(exported, tmp_path / "exported")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=says) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
