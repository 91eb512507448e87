"""Encoders of sounds: the outputs of transformers, cut by design, read from folders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_audio_encoder
from warmstart.errors import ModelError
from warmstart.network.feature_layers import feature_layers
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import fresh
from warmstart.records.inputs import WaveInputs


def base_of(place):
    return load(f"transformers:{place}")


@pytest.mark.parametrize("design", tiny_audio_encoder.DESIGNS)
def test_blocks_compose_to_what_transformers_gives(design):
    place = tiny_audio_encoder.folder_of(design)
    base = base_of(place)
    network = cut(base.module, base.record.preprocessing)
    whole = transformers.AutoModel.from_pretrained(place).eval()
    clips = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = whole(clips).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(network.features(clips), expected)
        torch.testing.assert_close(base.module(clips), expected)
    assert [block.name for block in network.blocks] == ["frames", "positions", "layer.1", "layer.2"]
    assert {block.layout for block in network.record.blocks} == {"NLC"}
    assert [layer.name for layer in feature_layers(network.record)][:2] == ["1.avg", "2.avg"]


def test_the_encoder_is_loaded_from_beneath_an_output():
    place = tiny_audio_encoder.folder_of(with_output=True)
    own = base_of(place).module.encoder.state_dict()
    weights = load_file(place / "model.safetensors")
    assert "lm_head.weight" in weights
    name = "encoder.layers.0.attention.k_proj.weight"
    torch.testing.assert_close(own[name], weights[f"wav2vec2.{name}"])


def test_weight_norm_of_older_versions_is_read(tmp_path):
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "older")
    tensors = load_file(place / "model.safetensors")
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert older.keys() != tensors.keys()
    save_file(older, place / "model.safetensors")
    assert base_of(place).record.sha256 == base_of(tiny_audio_encoder.folder_of()).record.sha256


def test_the_record_describes_the_clips(tmp_path):
    record = base_of(tiny_audio_encoder.folder_of()).record
    assert record.preprocessing == WaveInputs(sample_rate=8000, seconds=1.0, is_scaled=True)
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "bare")
    (place / "preprocessor_config.json").unlink()
    assert base_of(place).record.preprocessing.sample_rate == 16_000


def test_a_design_is_built_again_from_its_line():
    base = base_of(tiny_audio_encoder.folder_of("wav2vec2-stable"))
    again = fresh(base.record.arch, {}, base.record.preprocessing)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in base.module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"model_type": "sew"}, "holds a sew; supported encoders are, of texts"),
        ("config.json", {"model_type": "wav2vec2", "hidden_size": "x"}, "encoder cannot be built"),
        ("config.json", {"model_type": "wav2vec2"}, "the network needs"),
        ("preprocessor_config.json", {"sampling_rate": "high"}, "has sampling_rate 'high'"),
        ("preprocessor_config.json", [1], "holds no settings"),
    ],
)
def test_damaged_folders_are_one_line(tmp_path, file, settings, message):
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "damaged")
    (place / file).write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=message) as caught:
        base_of(place)
    assert "\n" not in str(caught.value)


def test_clips_without_a_single_frame_are_one_line():
    module = base_of(tiny_audio_encoder.folder_of()).module
    short = WaveInputs(sample_rate=8000, seconds=0.005, is_scaled=True)
    with pytest.raises(ModelError, match="clips of 40 samples are too short for this encoder"):
        cut(module, short)


def test_a_folder_without_weights_says_so(tmp_path):
    place = shutil.copytree(tiny_audio_encoder.folder_of(), tmp_path / "bare")
    (place / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        base_of(place)
