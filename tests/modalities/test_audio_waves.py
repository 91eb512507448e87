"""Clips as samples: rate, middle, scale, silence."""

from __future__ import annotations

import numpy as np
import pytest

from audio_clips import wav
from warmstart.errors import DataError
from warmstart.modalities.audio import prepare_wave
from warmstart.modalities.registry import modality_of
from warmstart.records.inputs import WaveInputs

INPUTS = WaveInputs(sample_rate=8000, seconds=0.5, is_scaled=True)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rate", [8000, 44_100])
def test_every_clip_has_one_length_and_scale(seconds, rate):
    wave = np.random.default_rng(0).normal(3, 0.2, round(seconds * rate)).astype(np.float32)
    samples = prepare_wave(wave, rate, INPUTS)
    assert samples.shape == INPUTS.shape == (4000,)
    assert samples.dtype == np.float32
    sound = samples[samples != 0]
    assert len(sound) == pytest.approx(min(seconds, 0.5) * 8000, abs=2)
    assert sound.mean() == pytest.approx(0, abs=0.01)
    assert sound.std() == pytest.approx(1, abs=0.01)


def test_the_middle_of_a_long_clip_is_used_as_it_is():
    wave = np.arange(8000, dtype=np.float32)
    plain = WaveInputs(sample_rate=8000, seconds=0.5, is_scaled=False)
    np.testing.assert_array_equal(prepare_wave(wave, 8000, plain), wave[2000:6000])


def test_a_file_is_decoded_and_a_damaged_one_named():
    wave = np.sin(np.arange(4000) / 9)
    samples = modality_of(INPUTS).encode(wav(wave), "a.wav", INPUTS)
    np.testing.assert_allclose(samples, (wave - wave.mean()) / wave.std(), atol=1e-3)
    assert modality_of(INPUTS).decoder(INPUTS).startswith("wave v1, soundfile")
    with pytest.raises(DataError, match=r"b\.wav is silent"):
        modality_of(INPUTS).encode(wav(np.zeros(400)), "b.wav", INPUTS)
