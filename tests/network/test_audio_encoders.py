"""Encoders of sounds: the outputs of transformers, block by block, read from folders."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_audio_encoder
import tiny_text_encoder
from warmstart.errors import ModelError
from warmstart.network.audio_encoders import kaldi
from warmstart.network.hub import PROCESSOR
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import fresh
from warmstart.records.inputs import WaveInputs


def base_of(design="wav2vec2", **options):
    return load(f"transformers:{tiny_audio_encoder.folder_of(design, **options)}")


def clips(n):
    samples = torch.randn(2, n, generator=torch.Generator().manual_seed(1))
    return 0.1 * samples * torch.linspace(0, 1, n)


def expected(design, samples):
    """What the feature extractor and the encoder of the library give, as a vector."""
    place = tiny_audio_encoder.folder_of(design)
    model = transformers.AutoModel.from_pretrained(place).eval()
    with torch.no_grad():
        if design not in tiny_audio_encoder.SEEN:
            return model(samples).last_hidden_state.mean(dim=1)
        kind = "AST" if design.startswith("ast") else "Whisper"
        make = getattr(transformers, f"{kind}FeatureExtractor").from_pretrained(place)
        fed = make(list(samples.numpy()), sampling_rate=16_000, return_tensors="pt")
        if kind == "AST":
            return model(fed["input_values"]).pooler_output
        return model.encoder(fed["input_features"]).last_hidden_state.mean(dim=1)


DESIGNS = [*tiny_audio_encoder.DESIGNS, *tiny_audio_encoder.SEEN]


@pytest.mark.parametrize("n", [800, 8000])  # shorter, and longer, than training clips
@pytest.mark.parametrize("design", DESIGNS)
def test_blocks_compose_to_what_transformers_gives_and_are_built_again(design, n):
    base, samples = base_of(design), clips(n)
    inputs = dataclasses.replace(
        base.record.preprocessing, seconds=n / base.record.preprocessing.sample_rate
    )
    network = cut(base.module, inputs)
    again = fresh(base.record.arch, {}, inputs)
    again.load_state_dict(base.module.state_dict())
    with torch.no_grad():
        result = network.features(samples)
        torch.testing.assert_close(result, expected(design, samples), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(base.module(samples), result)
        torch.testing.assert_close(again(samples), result)
    first = {"whisper": ["frames"], "ast": ["patches"], "ast-plain": ["patches"]}
    names = [*first.get(design, ["frames", "positions"]), "layer.1", "layer.2"]
    assert [block.name for block in network.blocks] == names
    assert {block.layout for block in network.record.blocks} == {"NLC"}


@pytest.mark.parametrize("design", ["ast", "whisper", "wav2vec2"])
def test_the_encoder_is_loaded_from_beneath_an_output(design):
    whole, alone = base_of(design, with_output=True), base_of(design)
    shapes = {name: tensor.shape for name, tensor in alone.module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in whole.module.state_dict().items()} == shapes
    weights = load_file(tiny_audio_encoder.folder_of(design, True) / "model.safetensors")
    other = ("classifier.", "model.decoder.")
    name, tensor = [*whole.module.encoder.state_dict().items()][-1]
    own = {n: t for n, t in weights.items() if not n.startswith(other)}
    (stored,) = (t for n, t in own.items() if n.endswith(f".{name}"))
    assert torch.equal(tensor, stored)


def test_an_encoder_refuses_inputs_of_another_kind_and_clips_without_a_frame(tmp_path):
    texts = load(f"transformers:{tiny_text_encoder.encoder(tmp_path)}")
    inputs = base_of().record.preprocessing
    with pytest.raises(ModelError, match="takes texts, and its inputs are clips"):
        cut(texts.module, inputs)
    with pytest.raises(ModelError, match="takes clips, and its inputs are texts"):
        cut(base_of().module, texts.record.preprocessing)
    for design, n in (("ast", 320), ("wav2vec2", 40)):
        short = WaveInputs(sample_rate=16_000, seconds=n / 16_000, is_scaled=False)
        with pytest.raises(ModelError, match=f"clips of {n} samples are too short for this enc"):
            cut(base_of(design).module, short)


def test_frames_are_made_in_full_precision_under_autocast():
    make, samples = kaldi(16_000, 16), clips(3200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = make(samples)
    assert halved.dtype == torch.float32
    assert torch.equal(halved, make(samples))


def test_weight_norm_of_older_versions_is_read(tmp_path):
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "older")
    new = "parametrizations.weight.original"
    older = {
        name.replace(f"{new}0", "weight_g").replace(f"{new}1", "weight_v"): tensor
        for name, tensor in load_file(place / "model.safetensors").items()
    }
    assert any(name.endswith("weight_g") for name in older)
    save_file(older, place / "model.safetensors")
    assert load(f"transformers:{place}").record.sha256 == base_of().record.sha256


def test_the_record_describes_the_clips(tmp_path):
    inputs = WaveInputs(sample_rate=8000, seconds=1.0, is_scaled=True)
    assert base_of().record.preprocessing == inputs
    seen = dataclasses.replace(inputs, sample_rate=16_000, is_scaled=False)
    assert base_of("whisper").record.preprocessing == seen
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "bare")
    (place / "preprocessor_config.json").unlink()
    assert load(f"transformers:{place}").record.preprocessing.sample_rate == 16_000


@pytest.mark.parametrize(
    ("design", "file", "settings", "message"),
    [
        ("wav2vec2", "config.json", {"model_type": "sew"}, "holds a sew; supported encoders are"),
        (
            "wav2vec2",
            "config.json",
            {"model_type": "hubert", "hidden_size": "x"},
            "cannot be built",
        ),
        ("wav2vec2", "config.json", {"model_type": "wav2vec2"}, "the network needs"),
        ("wav2vec2", PROCESSOR, {"sampling_rate": "high"}, "has sampling_rate 'high'"),
        ("wav2vec2", PROCESSOR, [1], "holds no settings"),
        ("ast", PROCESSOR, {"std": 0}, "has std 0; copy the folder again"),
        ("whisper", PROCESSOR, {"n_fft": 4.5}, "has n_fft 4.5; copy the folder again"),
    ],
)
def test_damaged_folders_are_one_line(tmp_path, design, file, settings, message):
    place = shutil.copytree(tiny_audio_encoder.folder_of(design), tmp_path / "damaged")
    (place / file).write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=message) as caught:
        load(f"transformers:{place}")
    assert "\n" not in str(caught.value)
