"""Log-mel pictures against the slow definition, and against figures worked out by hand."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from audio_clips import tone
from warmstart.modalities.audio import (
    crop_or_pad,
    draw_spectrogram,
    from_mel,
    log_mel,
    mel_bank,
    resample,
    to_mel,
)
from warmstart.records.inputs import Sound

SMALL = Sound(
    sample_rate=800, seconds=0.1, window=16, hop=8, mels=4, low=20.0, high=400.0, range_db=40.0
)
SPEECH = Sound(
    sample_rate=8000, seconds=0.5, window=200, hop=40, mels=64, low=20.0, high=4000.0, range_db=40.0
)


def test_the_scale_is_the_one_of_the_books():
    """Values of 2595 log10(1 + f / 700), worked out with a table of logarithms."""
    assert to_mel(0) == 0
    assert to_mel(700) == pytest.approx(2595 * 0.30103, abs=1e-3)
    assert to_mel(6300) == pytest.approx(2595, abs=1e-9)
    assert from_mel(np.array([0.0, 2595.0])).tolist() == pytest.approx([0, 6300])


def by_hand(wave, sound):
    """Every frame, frequency and band in a loop of its own."""
    half = sound.window // 2
    padded = [0.0] * half + [float(x) for x in wave] + [0.0] * half
    points = [
        to_mel(sound.low) + i * (to_mel(sound.high) - to_mel(sound.low)) / (sound.mels + 1)
        for i in range(sound.mels + 2)
    ]
    edges = [700 * (10 ** (mel / 2595) - 1) for mel in points]
    table = []
    for frame in range(len(wave) // sound.hop):
        part = padded[frame * sound.hop : frame * sound.hop + sound.window]
        n = sound.window
        tapered = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / n)) for i, x in enumerate(part)]
        power = [
            abs(sum(x * cmath.exp(-2j * math.pi * k * i / n) for i, x in enumerate(tapered))) ** 2
            for k in range(n // 2 + 1)
        ]
        row = []
        for band in range(sound.mels):
            low, middle, high = edges[band : band + 3]
            total = 0.0
            for k, p in enumerate(power):
                hertz = k * sound.sample_rate / n
                total += p * max(
                    0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle))
                )
            row.append(10 * math.log10(total))
        table.append(row)
    return np.array(table).T


def test_the_quick_way_gives_what_the_definition_gives():
    wave = np.random.default_rng(0).normal(size=80).astype(np.float32)
    assert mel_bank(SMALL).sum(axis=1).min() > 0
    np.testing.assert_allclose(log_mel(wave, SMALL), by_hand(wave, SMALL), atol=1e-3)


def test_a_band_without_a_frequency_takes_the_nearest():
    fine = Sound(
        sample_rate=8000, seconds=0.5, window=64, hop=32, mels=40, low=20, high=4000, range_db=40
    )
    assert (mel_bank(fine).max(axis=1) > 0).all()


@pytest.mark.parametrize("pitch", [200, 1000, 3000])
def test_a_tone_stands_at_its_pitch(pitch):
    wave = np.sin(2 * np.pi * pitch * np.arange(4000) / 8000).astype(np.float32)
    picture = draw_spectrogram(wave, 8000, SPEECH)
    assert picture.shape == (64, 100)
    row = 63 - int(picture[:, 50].argmax())  # the lowest pitch is the lowest row
    expected = (to_mel(pitch) - to_mel(20)) / (to_mel(4000) - to_mel(20)) * 65 - 1
    assert row == pytest.approx(expected, abs=0.7)


def test_loudness_changes_nothing():
    wave = tone(np.random.default_rng(1), 440)
    np.testing.assert_array_equal(
        draw_spectrogram(wave, 8000, SPEECH), draw_spectrogram(wave / 64, 8000, SPEECH)
    )


def test_the_picture_spans_its_range():
    picture = draw_spectrogram(tone(np.random.default_rng(1), 440), 8000, SPEECH)
    assert picture.max() == 255
    assert picture.min() == 0
    assert (picture[:, :17] == 0).all()  # a clip of 0.3 s lies in the middle of 0.5


def test_the_same_tone_at_another_rate_is_nearly_the_same_picture():
    seconds = np.arange(8000) / 16000
    wave = np.sin(2 * np.pi * 700 * seconds).astype(np.float32) * np.hanning(8000).astype("f4")
    low = draw_spectrogram(resample(wave, 16000, 8000), 8000, SPEECH).astype(int)
    assert np.abs(draw_spectrogram(wave, 16000, SPEECH) - low).max() <= 1
    assert len(resample(wave, 44_100, 8_000)) == pytest.approx(8000 * 8_000 / 44_100, abs=1)


def test_a_rate_that_divides_nothing_is_near_enough():
    """11,127 and 16,000 have no common divisor: the ratio is rounded, the length hardly."""
    assert len(resample(np.ones(11_127, np.float32), 11_127, 16_000)) == pytest.approx(
        16_000, abs=2
    )


def test_of_long_clips_the_middle_is_used():
    assert crop_or_pad(np.arange(10, dtype=np.float32), 4).tolist() == [3, 4, 5, 6]
    assert draw_spectrogram(tone(np.random.default_rng(2), 440, seconds=2), 8000, SPEECH).shape == (
        64,
        100,
    )


def test_the_shortest_clip_is_drawn():
    assert draw_spectrogram(np.array([0, 1], np.float32), 8000, SPEECH).shape == (64, 100)
