"""The laws over transformers' encoders of images, and folders of our own exports as starts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tiny_image_encoder
import warmstart
from hue_images import fill
from warmstart.cli.main import main
from warmstart.errors import ModelError
from warmstart.features.batches import normalised
from warmstart.modalities.registry import modality_of
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.records.network import Ledger
from warmstart.records.run_folder import read_json

transformers = pytest.importorskip("transformers", reason="pip install 'warmstart[text]'")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {
        kind: tiny_image_encoder.encoder(root / kind, kind) for kind in tiny_image_encoder.KINDS
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("seen")
    fill(root / "photos" / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "photos" / "test", {"blue": 4, "green": 4, "red": 4}, seed=1)
    return root / "photos"


def opened(folder, size=None):
    base = load(f"transformers:{folder}", inputs=InputOptions(size=size) if size else None)
    return base, cut(base.module, base.record.preprocessing)


def test_images_are_fed_as_the_folder_says_or_else_as_the_encoder_learnt(encoders, tmp_path):
    prep = load(str(encoders["vit"])).record.preprocessing
    assert (prep.size, prep.squash, prep.interpolation) == ((32, 32), True, "bilinear")
    assert (prep.mean, prep.std) == (
        pytest.approx((0.4, 0.5, 0.6)),
        pytest.approx((0.2, 0.25, 0.3)),
    )
    for kind, mean in (("vit", 0.5), ("dinov2", 0.485), ("clip_vision_model", 0.48145466)):
        folder = tiny_image_encoder.encoder(tmp_path / kind, kind, feeding=None)
        assert load(str(folder)).record.preprocessing.mean[0] == mean


def test_a_classifiers_body_and_half_of_a_model_of_images_and_texts_are_read(tmp_path):
    config = transformers.ViTConfig(**tiny_image_encoder.SIZES, intermediate_size=48, num_labels=5)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "classifier")
    _, network = opened(tmp_path / "classifier")
    images = torch.randn(2, 3, 32, 32)
    own = transformers.ViTForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        wanted = own(images, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(
            network.logits(images), own.vit.layernorm(wanted)[:, 0], atol=1e-5, rtol=1e-5
        )
    sides = {"vision_config": {**tiny_image_encoder.SIZES, "intermediate_size": 48}}
    both = transformers.SiglipModel(
        transformers.SiglipConfig(
            **sides,
            text_config={**tiny_image_encoder.SIZES, "intermediate_size": 48, "vocab_size": 99},
        )
    ).eval()
    both.save_pretrained(tmp_path / "both")
    _, network = opened(tmp_path / "both")
    with torch.no_grad():
        wanted = both.vision_model(images).pooler_output
        torch.testing.assert_close(network.logits(images), wanted, atol=1e-5, rtol=1e-5)


def lose(tensors):
    del tensors["encoder.layer.1.output.dense.weight"]


def spoil(tensors):
    tensors["layernorm.bias"][3] = torch.nan


def edited(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: edited(f, lose), "is missing; copy the folder again"),
        (lambda f: edited(f, spoil), "layernorm.bias"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "is damaged"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"size": "x"}'), "is damaged"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"size": -4}'), "is damaged"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "vit", "hidden_size": "x"}'),
            "cannot be built",
        ),
    ],
)
def test_a_damaged_folder_is_one_line(encoders, tmp_path, damage, says):
    folder = shutil.copytree(encoders["vit"], tmp_path / "vit")
    damage(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load(f"transformers:{folder}")
    assert "\n" not in str(caught.value)


# ---- whole runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(encoders, photos, tmp_path_factory):
    """A run of each family that trained its last layer, from the folder's name alone."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return {
            kind: warmstart.fit(
                photos,
                base=f"transformers:{encoders[kind]}",
                budget="fast",
                strategy="last:1",
                lr=1e-5,
                settings={"training.epochs": 2.7778},
                out=root / kind,
            )
            for kind in ("vit", "dinov2", "siglip_vision_model")
        }


@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip_vision_model"])
def test_law_5_and_8_a_run_is_loaded_again_and_exported(tuned, photos, tmp_path, kind):
    run = tuned[kind]
    again = warmstart.load(run.path)
    paths = sorted((photos / "test").rglob("*.png"))
    answers = [one.scores for one in run.predict(paths)]
    for ours, theirs in zip(answers, again.predict(paths), strict=True):
        assert ours == pytest.approx(theirs.scores, abs=1e-6)
    rows = read_json(run.path / "weights_ledger.json", Ledger).rows
    assert {row.fate for row in rows if "embeddings." in row.tensor} <= {"frozen", "unchanged"}
    prep = run.predictor.bundle.record.preprocessing
    inputs = normalised(modality_of(prep).noise(5, prep), prep).contiguous()
    with torch.inference_mode():
        wanted = run.model(inputs).numpy()
    for to in ("onnx", "torch"):
        told = warmstart.export(run, to, out=tmp_path / to)
        assert told.agreement.same_labels == told.agreement.n
    made = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    found = made.run(["logits"], {"images": inputs.numpy()})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


def test_a_run_of_another_image_size_is_a_start_too(encoders, photos, tmp_path):
    run = warmstart.fit(
        photos,
        base=str(encoders["vit"]),
        budget="fast",
        settings={"input.size": 48},
        out=tmp_path / "a",
    )
    assert run.predictor.bundle.record.preprocessing.size == (48, 48)
    next_one = warmstart.fit(photos, base=run.path, budget="fast", out=tmp_path / "b")
    assert next_one.predictor.bundle.record.arch == run.predictor.bundle.record.arch


# ---- our own exports ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_run(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("timm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return warmstart.fit(
            photos,
            base=tiny.weights(root),
            arch=tiny.ARCH,
            budget="fast",
            settings={"input.size": 64},
            out=root / "run",
        )


@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_a_folder_that_we_exported_is_a_start(timm_run, photos, tmp_path, to, capsys):
    folder = tmp_path / "exported"
    warmstart.export(timm_run, to, out=folder)
    base = load(str(folder))
    assert (base.record.arch, base.record.classes) == (tiny.ARCH, 3)
    own, usual = timm_run.predictor.bundle.record.preprocessing, base.record.preprocessing
    assert (usual.size, usual.resize) == (own.size, own.resize)
    body = timm_run.model.backbone.state_dict()
    for name, tensor in base.module.state_dict().items():
        if name in body:
            assert torch.equal(tensor, body[name])
    assert main(
        [
            "fit",
            str(photos),
            "--base",
            str(folder),
            "--budget",
            "fast",
            "-q",
            "--out",
            str(tmp_path / "run"),
        ]
    ) in (0, 3)
    for name in (f"transformers:{folder}", f"timm:{folder}"):
        assert load(name).record.sha256 == base.record.sha256
    if (tmp_path / "run" / "model").is_dir():
        assert warmstart.load(tmp_path / "run").labels == ("blue", "green", "red")
    assert "Traceback" not in capsys.readouterr().err


def test_an_exported_network_of_transformers_is_a_start(photos, tmp_path):
    config = transformers.ViTConfig(**tiny_image_encoder.SIZES, intermediate_size=48, num_labels=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = transformers.ViTForImageClassification(config).eval()
    run = tiny.fit(photos, base=own, out=tmp_path / "run")
    warmstart.export(run, "transformers", out=tmp_path / "exported")
    base = load(str(tmp_path / "exported"))
    assert base.record.arch.startswith("vision:vit")
    assert base.record.preprocessing.mean == pytest.approx((0.5,) * 3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda config: config | {"architecture": "no_such_net"}, "has no network 'no_such_net'"),
        (lambda config: config | {"pretrained_cfg": {"input_size": "x"}}, "is damaged"),
        (lambda config: config | {"pretrained_cfg": {"crop_pct": "y"}}, "is damaged"),
        (lambda config: config | {"architecture": "resnet18"}, "copy the folder again"),
    ],
)
def test_a_damaged_export_is_one_line(timm_run, tmp_path, damage, says):
    folder = tmp_path / "exported"
    warmstart.export(timm_run, "timm", out=folder)
    path = folder / "config.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ModelError, match=says) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
