"""WAV files read by hand, against what was written and against SciPy."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from audio_clips import riff, wav
from warmstart.errors import DataError
from warmstart.modalities.audio import decode_wav, is_wav, read_wav

WAVE = np.array([[0.0, -1.0], [0.25, 0.5], [-0.125, 0.75]])
CODINGS = [
    (8, 1, 1 / 128),
    (16, 1, 2**-15),
    (24, 1, 2**-23),
    (32, 1, 2**-31),
    (32, 3, 0),
    (64, 3, 0),
]


def read(payload):
    return decode_wav(payload, read_wav(payload, "a.wav"))


@pytest.mark.parametrize(("bits", "coding", "step"), CODINGS)
def test_every_number_of_bits_comes_back(bits, coding, step):
    payload = wav(WAVE, bits=bits, coding=coding)
    result = read(payload)
    assert result.shape == (3, 2)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, WAVE, atol=step + 1e-7)
    rate, theirs = wavfile.read(io.BytesIO(payload))
    assert rate == 8000
    scale = {1: {8: 128, 16: 2**15, 24: 2**31, 32: 2**31}[bits] if coding == 1 else 1}[1]
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


def test_a_packed_file_is_distinguished_from_plain_ones():
    assert not read_wav(riff(b"\0" * 8, bits=8, coding=7), "a.wav").is_plain


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
