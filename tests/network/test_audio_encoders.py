"""Encoders of log-mel frames: from samples to the outputs of transformers, block by block."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import tiny_audio_encoder
from warmstart.errors import ModelError
from warmstart.network.audio_encoders import kaldi
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import fresh
from warmstart.records.inputs import WaveInputs

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CLIP = WaveInputs(sample_rate=16_000, seconds=0.2, is_scaled=False)


def base_of(design, **options):
    return load(f"transformers:{tiny_audio_encoder.folder_of(design, **options)}")


def clips(n=3200):
    samples = torch.randn(2, n, generator=torch.Generator().manual_seed(1))
    return 0.1 * samples * torch.linspace(0, 1, n)


def expected(design, samples):
    """What the feature extractor and the encoder of the library give, as a vector."""
    place = tiny_audio_encoder.folder_of(design)
    model = transformers.AutoModel.from_pretrained(place).eval()
    is_ast = design.startswith("ast")
    extractor = transformers.ASTFeatureExtractor if is_ast else transformers.WhisperFeatureExtractor
    make = extractor.from_pretrained(place)
    fed = make(list(samples.numpy()), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        if is_ast:
            return model(fed["input_values"]).pooler_output
        return model.encoder(fed["input_features"]).last_hidden_state.mean(dim=1)


@pytest.mark.parametrize("n", [800, 3200, 8000])  # shorter, and longer, than what was learnt from
@pytest.mark.parametrize("design", tiny_audio_encoder.SEEN)
def test_blocks_compose_to_what_transformers_gives(design, n):
    base, samples = base_of(design), clips(n)
    network = cut(base.module, WaveInputs(sample_rate=16_000, seconds=n / 16_000, is_scaled=False))
    with torch.no_grad():
        torch.testing.assert_close(
            network.features(samples), expected(design, samples), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(base.module(samples), network.features(samples))
    first = "frames" if design == "whisper" else "patches"
    assert [block.name for block in network.blocks] == [first, "layer.1", "layer.2"]
    assert {block.layout for block in network.record.blocks} == {"NLC"}


@pytest.mark.parametrize("design", tiny_audio_encoder.SEEN)
def test_frames_are_fed_in_as_the_folder_says(design):
    record = base_of(design).record
    assert record.preprocessing == WaveInputs(sample_rate=16_000, seconds=1.0, is_scaled=False)
    again = fresh(record.arch, {}, record.preprocessing)
    again.load_state_dict(base_of(design).module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(clips()), base_of(design).module(clips()))


@pytest.mark.parametrize("design", ["ast", "whisper"])
def test_the_encoder_is_loaded_from_beneath_an_output(design):
    whole, alone = base_of(design, with_output=True), base_of(design)
    shapes = {name: tensor.shape for name, tensor in alone.module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in whole.module.state_dict().items()} == shapes
    assert not any("decoder" in name for name in shapes)


def test_a_clip_without_a_single_frame_is_one_line():
    short = WaveInputs(sample_rate=16_000, seconds=0.02, is_scaled=False)
    with pytest.raises(ModelError, match="clips of 320 samples are too short for this encoder"):
        cut(base_of("ast").module, short)


@pytest.mark.parametrize(
    ("design", "settings"),
    [
        ("ast", {"mean": "loud"}),
        ("ast", {"std": 0}),
        ("whisper", {"n_fft": 4.5}),
    ],
)
def test_frames_that_make_no_sense_are_one_line(tmp_path, design, settings):
    place = shutil.copytree(tiny_audio_encoder.folder_of(design), tmp_path / "odd")
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    (name,) = settings
    with pytest.raises(ModelError, match=f"has {name} .*; copy the folder again"):
        load(f"transformers:{place}")


def test_frames_are_made_in_full_numbers_whatever_a_training_multiplies_in():
    make, samples = kaldi(16_000, 16), clips()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = make(samples)
    assert halved.dtype == torch.float32
    assert torch.equal(halved, make(samples))
