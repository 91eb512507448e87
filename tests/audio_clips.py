"""Clips of sound whose classes differ in pitch, under noise, and files of them."""

from __future__ import annotations

import struct

import numpy as np

RATE = 8000


def tone(rng, pitch, seconds=0.3, rate=RATE):
    """A note with its octave that fades, under noise; float32 from -1 to 1."""
    time = np.arange(round(seconds * rate)) / rate
    note = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(4 * np.pi * pitch * time)
    loudness = rng.uniform(0.05, 0.5)
    return (loudness * (note * np.exp(-3 * time) + rng.normal(0, 0.05, len(time)))).astype("f4")


def hiss(rng, _, seconds=0.3, rate=RATE):
    """Noise."""
    return (rng.uniform(0.05, 0.3) * rng.normal(size=round(seconds * rate))).astype("f4")


def clicks(rng, pitch, seconds=0.3, rate=RATE):
    """Clicks, some thirty a second."""
    wave = rng.normal(0, 0.001, round(seconds * rate))
    wave[rng.random(len(wave)) < 30 / rate] = rng.uniform(0.3, 0.9)
    wave[len(wave) // 2] = 1
    return wave.astype("f4")


SOURCES = (tone, hiss, clicks)


def wav(samples, rate=RATE, bits=16, coding=1):
    """A WAV file of samples (n,) or (n, channels) from -1 to 1."""
    samples = np.asarray(samples, np.float64)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if coding == 3:
        body = samples.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        body = np.clip(np.rint(samples * 128) + 128, 0, 255).astype(np.uint8).tobytes()
    else:
        top = 2 ** (bits - 1)
        whole = np.clip(np.rint(samples * top), -top, top - 1).astype("<i4")
        octets = whole.reshape(-1, 1).view(np.uint8)
        body = np.ascontiguousarray(octets[:, : bits // 8]).tobytes()
    return riff(body, rate=rate, bits=bits, coding=coding, channels=channels)


def riff(body, *, rate=RATE, bits=16, coding=1, channels=1, size=None, between=b""):
    """A RIFF file around the bytes of samples; `size` is what the header says of them."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", coding, channels, rate, rate * block, block, bits)
    parts = b"fmt " + struct.pack("<I", len(form)) + form + between
    parts += b"data" + struct.pack("<I", len(body) if size is None else size) + body
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts


def fill(folder, counts, seed=0):
    """Write counts[class] clips into folder/class, of lengths that say nothing of the class."""
    rng = np.random.default_rng(seed)
    for place, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            clip = SOURCES[place](rng, rng.uniform(400, 600), seconds=rng.uniform(0.2, 0.4))
            (folder / name / f"{i:03d}.wav").write_bytes(wav(clip))
    return folder
