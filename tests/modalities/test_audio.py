"""Untrusted bytes to waveforms: kinds, channels, and every way to be wrong."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from audio_clips import RATE, riff, tone, wav
from warmstart.errors import DataError
from warmstart.modalities import audio
from warmstart.modalities.audio import decode_sound, default_sound, is_sound, read_sound_header
from warmstart.modalities.image import TooLarge
from warmstart.modalities.registry import modality_of
from warmstart.records.inputs import Preprocessing

CLIP = tone(np.random.default_rng(0), 440)


def packed(kind, samples=CLIP, rate=RATE, **options):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def test_channels_are_averaged():
    left = np.linspace(-0.5, 0.5, 50)
    wave, rate = decode_sound(wav(np.stack([left, np.zeros(50)], axis=1)), "a.wav")
    assert rate == RATE
    np.testing.assert_allclose(wave, left / 2, atol=1e-4)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF"])
def test_other_kinds_are_read_by_libsndfile(kind):
    rate = 16000 if kind == "MP3" else RATE
    payload = packed(kind, rate=rate)
    assert is_sound(payload)
    header = read_sound_header(payload, "a")
    assert (header.kind, header.sample_rate, header.channels) == (kind, rate, 1)
    wave, result = decode_sound(payload, "a")
    assert result == rate
    n = min(len(wave), len(CLIP))
    assert abs(n - len(CLIP)) <= 1200  # MP3 works in blocks
    assert kind == "MP3" or np.corrcoef(wave[:n], CLIP[:n])[0, 1] > 0.95


def test_a_packed_wav_is_read_by_libsndfile():
    payload = packed("WAV", subtype="ULAW")
    assert np.corrcoef(decode_sound(payload, "a")[0], CLIP)[0, 1] > 0.99


NAN = CLIP.copy()
NAN[7] = np.nan
WRONG = {
    "nothing": (b"", "a.wav is empty"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "a.wav is not a sound"),
    "a phone's": (b"\0\0\0\x20ftypM4A ", "a.wav is an M4A, AAC or video file"),
    "a video": (b"\x1aE\xdf\xa3\x9f", "a.wav is a WebM or Matroska file"),
    "a pointer": (b"version https://git-lfs.github.com", "a.wav is a Git LFS pointer"),
    "a page": (b"\n<!doctype HTML><title>", "a.wav is a web page"),
    "cut off": (wav(CLIP)[:-100], "a.wav is cut off"),
    "no samples": (wav([]), "a.wav holds no sound (0 samples)"),
    "no channels": (riff(b"\0" * 8, channels=0), "a.wav is damaged (its header says 0 channels"),
    "a rate of nothing": (wav(CLIP, rate=1), "a.wav is damaged (its header says 1 channel of 1"),
    "not a number": (wav(NAN, bits=32, coding=3), "a.wav holds NaN or infinity"),
    "silence": (wav(np.zeros(100)), "a.wav is silent (all samples are 0)"),
}


@pytest.mark.parametrize(("payload", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_heard_is_one_line(payload, says):
    with pytest.raises(DataError) as caught:
        decode_sound(payload, "a.wav")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "AIFF"])
def test_a_packed_file_that_is_cut_off_or_damaged_is_named(kind):
    payload = packed(kind)
    with pytest.raises(DataError, match=r"^a (is cut off|is damaged)"):
        decode_sound(payload[: len(payload) // 3], "a")
    with pytest.raises(DataError, match=r"^a (is cut off|is damaged)"):
        decode_sound(payload[:16] + b"\x55" * 400, "a")


def test_hours_are_refused_by_the_header_alone(monkeypatch):
    monkeypatch.setattr(audio, "MAX_SAMPLES", 1000)
    with pytest.raises(TooLarge, match=r"^a\.wav lasts .* the limit is .*Cut it into clips\.$"):
        decode_sound(wav(CLIP), "a.wav")


def test_without_the_package_the_cure_is_named(monkeypatch):
    payload = b"fLaC" + b"\0" * 40
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"run `pip install .*soundfile`$"):
        decode_sound(payload, "a.flac")
    with pytest.raises(DataError, match=r"^a\.wav is a packed WAV, which needs soundfile"):
        decode_sound(riff(b"\0" * 8, bits=8, coding=7), "a.wav")
    assert len(decode_sound(wav(CLIP), "a.wav")[0]) == len(CLIP)


def test_the_decoder_is_named_for_the_cache():
    sound = default_sound(8000, 0.5)
    prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,), sound=sound)
    assert ", log-mel v1, soundfile " in modality_of(prep).decoder(prep)
