"""One recording is known again; the same word, note or noise recorded twice is not."""

from __future__ import annotations

import numpy as np
import pytest

from audio_clips import clicks, hiss, tone, wav
from warmstart.modalities.audio import SAME_RECORDING, resample, waveform_similarity

RNG = np.random.default_rng(0)
CLIP = tone(RNG, 440, 0.5)
COPIES = {
    "quieter": wav(CLIP / 5),
    "turned over": wav(-CLIP),
    "at twice the rate": wav(resample(CLIP, 8000, 16_000), 16_000),
    "in 8 bits": wav(CLIP, bits=8),
    "with silence around": wav(np.pad(CLIP, (900, 2000))),
    "a little shorter": wav(CLIP[100:]),
    "on both channels": wav(np.stack([CLIP, CLIP], axis=1)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_like_its_original(copy):
    assert waveform_similarity(wav(CLIP), copy) >= SAME_RECORDING
    assert waveform_similarity(copy, wav(CLIP)) >= SAME_RECORDING


@pytest.mark.parametrize("source", [tone, hiss, clicks])
def test_two_recordings_are_not(source):
    pitches = (440, 452)
    one, other = (wav(source(RNG, pitch, 0.5)) for pitch in pitches)
    assert waveform_similarity(one, other) < 0.8
