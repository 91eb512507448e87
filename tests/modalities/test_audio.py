"""Untrusted bytes to waveforms and log-mel pictures, against definitions and SciPy."""

from __future__ import annotations

import cmath
import io
import math
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import wavfile

from audio_clips import RATE, clicks, hiss, riff, tone, wav
from warmstart.errors import DataError
from warmstart.modalities import audio
from warmstart.modalities.audio import (
    MAX_SECONDS,
    MIN_SECONDS,
    SAME_RECORDING,
    crop_or_pad,
    decode_sound,
    decode_wav,
    default_sound,
    draw_spectrogram,
    from_mel,
    is_sound,
    is_wav,
    log_mel,
    mel_bank,
    prepare_wave,
    read_sound_header,
    read_wav,
    resample,
    sound_of,
    to_mel,
    waveform_similarity,
)
from warmstart.modalities.image import TooLarge
from warmstart.modalities.registry import modality_of
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing, Sound, WaveInputs

RNG = np.random.default_rng(0)


CLIP = tone(np.random.default_rng(0), 440, 0.5)


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


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF", "WAV"])
def test_other_kinds_are_read_by_libsndfile(kind):
    rate = 16000 if kind == "MP3" else RATE
    payload = packed(kind, rate=rate, **({"subtype": "ULAW"} if kind == "WAV" else {}))
    assert is_sound(payload)
    header = read_sound_header(payload, "a")
    assert (header.kind, header.sample_rate, header.channels) == (kind, rate, 1)
    wave, result = decode_sound(payload, "a")
    assert result == rate
    n = min(len(wave), len(CLIP))
    assert abs(n - len(CLIP)) <= 1200  # MP3 works in blocks
    assert kind == "MP3" or np.corrcoef(wave[:n], CLIP[:n])[0, 1] > 0.95
    if kind not in ("MP3", "WAV"):
        for damaged in (payload[: len(payload) // 3], payload[:16] + b"\x55" * 400):
            with pytest.raises(DataError, match=r"^a (is cut off|is damaged)"):
                decode_sound(damaged, "a")


def test_hours_are_refused_by_the_header_alone(monkeypatch):
    monkeypatch.setattr(audio, "MAX_SAMPLES", 1000)
    with pytest.raises(TooLarge, match=r"^a\.wav lasts .* the limit is .*Cut it into clips\.$"):
        decode_sound(wav(CLIP), "a.wav")


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


def test_without_the_package_the_cure_is_named(monkeypatch):
    payload = b"fLaC" + b"\0" * 40
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"run `pip install .*soundfile`$"):
        decode_sound(payload, "a.flac")
    with pytest.raises(DataError, match=r"^a\.wav is a packed WAV, which needs soundfile"):
        decode_sound(riff(b"\0" * 8, bits=8, coding=7), "a.wav")
    assert len(decode_sound(wav(CLIP), "a.wav")[0]) == len(CLIP)


WAVE = np.array([[0.0, -1.0], [0.25, 0.5], [-0.125, 0.75]])


CODINGS = [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)]


def read(payload):
    return decode_wav(payload, read_wav(payload, "a.wav"))


@pytest.mark.parametrize(("bits", "coding"), CODINGS)
def test_every_number_of_bits_comes_back(bits, coding):
    payload = wav(WAVE, bits=bits, coding=coding)
    result = read(payload)
    assert (result.shape, result.dtype) == ((3, 2), np.float32)
    step = 0 if coding == 3 else 2.0 ** (1 - bits)
    np.testing.assert_allclose(result, WAVE, atol=step + 1e-7)
    rate, theirs = wavfile.read(io.BytesIO(payload))
    assert rate == 8000
    scale = 1 if coding == 3 else {8: 128, 16: 2**15, 24: 2**31, 32: 2**31}[bits]
    centre = 128 if bits == 8 else 0
    np.testing.assert_allclose(result, (theirs.astype(float) - centre) / scale, atol=1e-7)


def test_chunks_before_the_samples_are_ignored():
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of odd length, so that a byte follows it
    payload = riff(b"\0\0\xff\x7f", between=note)
    assert read(payload)[:, 0].tolist() == pytest.approx([0, 1], abs=1e-4)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_file_that_was_written_into_a_pipe_is_read_to_its_end(size):
    assert read_wav(riff(b"\0" * 20, size=size), "a.wav").frames == 10


def test_the_extensible_form_tells_its_coding_further_on():
    plain = wav(WAVE, bits=24)
    coding = struct.pack("<H", 0xFFFE) + plain[22:36] + struct.pack("<HHI", 22, 24, 3)
    form = coding + struct.pack("<H", 1) + b"\0" * 14
    payload = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(form)) + form + plain[36:]
    np.testing.assert_allclose(read(payload), WAVE, atol=1e-6)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (riff(b"\0" * 8, size=9000), "a.wav is cut off"),
        (wav(WAVE)[:30], "a.wav is cut off"),
        (wav(WAVE)[:40], "a.wav is cut off"),
        (b"RIFF\x04\0\0\0WAVE", "a.wav is damaged (its header makes no sense)"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\x01\0data\0\0\0\0", "a.wav is damaged (its header makes"),
    ],
)
def test_damaged_files_are_named(payload, says):
    assert is_wav(payload)
    with pytest.raises(DataError, match=r"^" + says.replace("(", r"\(").replace(")", r"\)")):
        read_wav(payload, "a.wav")


SMALL = Sound(
    sample_rate=800, seconds=0.1, window=16, hop=8, mels=4, low=20.0, high=400.0, range_db=40.0
)


SPEECH = Sound(
    sample_rate=8000, seconds=0.5, window=200, hop=40, mels=64, low=20.0, high=4000.0, range_db=40.0
)


def test_the_scale_is_the_one_of_the_books():
    """Values of 2595 log10(1 + f / 700), worked out with a table of logarithms."""
    assert [to_mel(f) for f in (0, 700, 6300)] == pytest.approx([0, 781.173, 2595], abs=1e-3)
    assert from_mel(np.array([0.0, 2595.0])).tolist() == pytest.approx([0, 6300])
    fine = replace(SPEECH, window=64, hop=32, mels=40)
    assert (mel_bank(fine).max(axis=1) > 0).all()  # a narrow band takes the nearest frequency


def by_hand(wave, sound):
    """Every frame, frequency and band in a loop of its own."""
    n, half = sound.window, [0.0] * (sound.window // 2)
    padded = [*half, *map(float, wave), *half]
    low, high = to_mel(sound.low), to_mel(sound.high)
    points = [low + i * (high - low) / (sound.mels + 1) for i in range(sound.mels + 2)]
    edges = [700 * (10 ** (mel / 2595) - 1) for mel in points]
    table = []
    for begin in range(0, len(wave), sound.hop):
        part = padded[begin : begin + n]
        tapered = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / n)) for i, x in enumerate(part)]
        row = [0.0] * sound.mels
        for k in range(n // 2 + 1):
            waves = (x * cmath.exp(-2j * math.pi * k * i / n) for i, x in enumerate(tapered))
            power, hertz = abs(sum(waves)) ** 2, k * sound.sample_rate / n
            for band, (a, b, c) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
                row[band] += power * max(0, min((hertz - a) / (b - a), (c - hertz) / (c - b)))
        table.append([10 * math.log10(total) for total in row])
    return np.array(table).T


def test_the_quick_way_gives_what_the_definition_gives():
    wave = np.random.default_rng(0).normal(size=80).astype(np.float32)
    assert mel_bank(SMALL).sum(axis=1).min() > 0
    np.testing.assert_allclose(log_mel(wave, SMALL), by_hand(wave, SMALL), atol=1e-3)


@pytest.mark.parametrize("pitch", [200, 1000, 3000])
def test_a_tone_stands_at_its_pitch(pitch):
    wave = np.sin(2 * np.pi * pitch * np.arange(4000) / 8000).astype(np.float32)
    picture = draw_spectrogram(wave, 8000, SPEECH)
    assert picture.shape == (64, 100)
    row = 63 - int(picture[:, 50].argmax())  # the lowest pitch is the lowest row
    expected = (to_mel(pitch) - to_mel(20)) / (to_mel(4000) - to_mel(20)) * 65 - 1
    assert row == pytest.approx(expected, abs=0.7)


def test_a_picture_spans_its_range_whatever_the_loudness_length_or_rate():
    short = CLIP[:2400]
    picture = draw_spectrogram(short, 8000, SPEECH)
    assert (picture.max(), picture.min()) == (255, 0)
    assert (picture[:, :17] == 0).all()  # a clip of 0.3 s lies in the middle of 0.5
    np.testing.assert_array_equal(picture, draw_spectrogram(short / 64, 8000, SPEECH))
    wave = np.sin(2 * np.pi * 700 * np.arange(8000) / 16000).astype("f4") * np.hanning(8000)
    wave = wave.astype("f4")
    low = draw_spectrogram(resample(wave, 16000, 8000), 8000, SPEECH).astype(int)
    assert np.abs(draw_spectrogram(wave, 16000, SPEECH) - low).max() <= 1
    for length in (2, 16_000):
        assert draw_spectrogram(np.arange(length, dtype="f4"), 8000, SPEECH).shape == (64, 100)
    assert crop_or_pad(np.arange(10, dtype=np.float32), 4).tolist() == [3, 4, 5, 6]
    # These rates have no common divisor: the ratio is rounded, the length hardly.
    n = len(resample(np.ones(11_127, np.float32), 11_127, 16_000))
    assert n == pytest.approx(16_000, abs=2)


def examples(clips, split="train"):
    """Clips as (seconds, rate) to examples and what loads them."""
    waves = [(tone(RNG, 440, seconds, rate), rate) for seconds, rate in clips]
    files = {f"{split}/{i}": wav(*wave) for i, wave in enumerate(waves)}
    return [Example(id=id, label="a", split=split, sha256=id) for id in files], files


def of(*parts):
    listed = [e for result, _ in parts for e in result]
    files = {id: payload for _, held in parts for id, payload in held.items()}
    return sound_of(files.__getitem__, listed)


def test_the_length_is_one_that_nearly_all_training_clips_fit_in():
    train = examples([(0.3 + i / 100, 8000) for i in range(21)])
    assert of(train) == default_sound(8000, 0.49)
    assert of(train, examples([(2.0, 16_000)] * 40, "test")) == of(train)
    assert of(examples([(0.01, 8000)] * 3)).seconds == MIN_SECONDS
    long = of(examples([(MAX_SECONDS + 1, 44_100)] * 2))
    assert (long.seconds, long.sample_rate, long.high) == (MAX_SECONDS, 16_000, 8000)


def test_one_low_rate_among_many_does_not_decide_but_a_tenth_does():
    usual = examples([(0.3, 16_000)] * 30)
    assert of(usual, examples([(0.3, 8000)], "holdout")).sample_rate == 16_000
    assert of(examples([(0.3, 16_000)] * 30 + [(0.3, 8000)])).sample_rate == 16_000
    assert of(examples([(0.3, 16_000)] * 9 + [(0.3, 8000)] * 3)).sample_rate == 8000


def test_damaged_files_are_ignored_unless_all_are():
    (result, files), whole = examples([(0.3, 8000)] * 3), wav(tone(RNG, 440))
    files["train/0"] = whole[:30]
    assert sound_of(files.__getitem__, result).sample_rate == 8000
    with pytest.raises(DataError, match=r"^train/0 is cut off"):
        sound_of(lambda id: whole[:30], result)
    with pytest.raises(DataError, match="no training clip to read"):
        sound_of(lambda id: whole, [])


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
    assert (sound.mean(), sound.std()) == pytest.approx((0, 1), abs=0.01)
    plain = prepare_wave(np.arange(8000, dtype="f4"), 8000, replace(INPUTS, is_scaled=False))
    assert plain.tolist() == [*range(2000, 6000)]  # the middle, as it is


def test_a_file_is_decoded_and_a_damaged_one_named():
    wave = np.sin(np.arange(4000) / 9)
    samples = modality_of(INPUTS).encode(wav(wave), "a.wav", INPUTS)
    np.testing.assert_allclose(samples, (wave - wave.mean()) / wave.std(), atol=1e-3)
    assert modality_of(INPUTS).decoder(INPUTS).startswith("wave v1, soundfile")
    half = (0.5,)
    drawn = Preprocessing(size=(8, 8), resize=8, mean=half, std=half, sound=SPEECH)
    assert ", log-mel v1, soundfile " in modality_of(drawn).decoder(drawn)
    with pytest.raises(DataError, match=r"b\.wav is silent"):
        modality_of(INPUTS).encode(wav(np.zeros(400)), "b.wav", INPUTS)


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
