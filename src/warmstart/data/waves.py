"""A clip of sound as the samples that an encoder of sounds takes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from warmstart.data.mel import Samples, centred, resample
from warmstart.data.waveform import decode_sound
from warmstart.records import WaveInputs
from warmstart.records.waves import LEAST_VARIANCE


def decode_wave(payload: bytes, name: str, inputs: WaveInputs) -> NDArray[np.float32]:
    """The samples of a sound file at the network's rate and length. Shapes: returns (n,).

    Raises: DataError if it is no usable sound.
    """
    wave, rate = decode_sound(payload, name)
    return as_wanted(wave, rate, inputs)


def as_wanted(wave: Samples, rate: int, inputs: WaveInputs) -> NDArray[np.float32]:
    """The middle of a clip, scaled, amid silence where it is short. Shapes: (m,) to (n,).

    >>> inputs = WaveInputs(rate=4, seconds=1.0, is_scaled=True)
    >>> as_wanted(np.array([1, 3], np.float32), 4, inputs).round(3).tolist()
    [0.0, -1.0, 1.0, 0.0]
    """
    (n,) = inputs.shape
    wave = resample(wave, rate, inputs.rate)
    wave = centred(wave, min(n, len(wave)))
    if inputs.is_scaled:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + LEAST_VARIANCE)
    return np.ascontiguousarray(centred(wave, n), np.float32)


def decoder_of_waves() -> str:
    """Names what turns bytes into samples, with its version: what was kept depends on it."""
    try:
        return f"wave v1, soundfile {version('soundfile')}"
    except PackageNotFoundError:
        return "wave v1, soundfile none"
