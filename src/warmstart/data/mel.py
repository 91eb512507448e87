"""A waveform as a grey log-mel picture: low pitches below, time from left to right.

Frames under a Hann window, their power spectra, summed by overlapping triangles that are evenly
spaced in mel, in decibels below the loudest value of the clip: loudness and distance from the
microphone, which say nothing of what sounded, drop out.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from warmstart.records import Sound

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
_LEAST_POWER = 1e-20  # 200 dB below full scale: no logarithm of nothing
_FINEST = 1_000  # steps of a ratio of rates; within 1e-6 of any two rates
_AT_ONCE = 4_096  # frames transformed together


def to_mel(hertz: float) -> float:
    """Pitch in mel: O'Shaughnessy 1987, "Speech Communication", as the HTK toolkit has it.

    >>> round(to_mel(1000))
    1000
    """
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))


def from_mel(mel: Floats) -> Floats:
    """The inverse of `to_mel`, in hertz.

    >>> round(float(from_mel(np.array(1000.0))))
    1000
    """
    found: Floats = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return found


@functools.lru_cache(maxsize=8)
def mel_bank(sound: Sound) -> NDArray[np.float32]:
    """Weights from power spectrum to mel bands, triangles of height 1 (Davis & Mermelstein 1980).

    Each rises from the middle of the band below to its own and falls to that of the band
    above; one so narrow that no frequency of the transform falls in it takes the nearest.
    Shapes: (mels, window // 2 + 1).
    """
    edges = from_mel(np.linspace(to_mel(sound.low), to_mel(sound.high), sound.mels + 2))
    at = np.fft.rfftfreq(sound.window, 1 / sound.rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (at - low) / (middle - low), (high - at) / (high - middle)
    bank = np.maximum(0.0, np.minimum(rising, falling))
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(at - edges[1 + band]).argmin()] = 1.0
    return bank.astype(np.float32)


def resample(wave: Samples, rate: int, wanted: int) -> Samples:
    """The same sound with another number of samples a second, band-limited.

    Polyphase filtering (scipy.signal.resample_poly). Shapes: (n,) to (about n * wanted / rate,).

    >>> resample(np.ones(80, np.float32), 8000, 16000).shape
    (160,)
    """
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly  # takes 0.2 s, and only sounds need it

    ratio = Fraction(wanted, rate).limit_denominator(_FINEST)
    made: Samples = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    return made


def centred(wave: Samples, n: int) -> Samples:
    """The middle `n` samples, or all of them amid silence. Shapes: (m,) to (n,).

    >>> centred(np.array([1, 2, 3], np.float32), 5).tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0]
    """
    begin = (len(wave) - n) // 2
    if begin >= 0:
        return wave[begin : begin + n]
    return np.pad(wave, (-begin, n - len(wave) + begin))


def log_mel(wave: Samples, sound: Sound) -> NDArray[np.float32]:
    """Mel power over time in dB, of frames centred on every `hop`-th sample.

    Shapes: wave (n,) to (mels, n // hop).
    """
    half = sound.window // 2
    padded = np.pad(wave, (half, sound.window - half))
    every = np.lib.stride_tricks.sliding_window_view(padded, sound.window)[:: sound.hop]
    frames = every[: max(len(wave) // sound.hop, 1)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(sound.window) / sound.window)
    taper, bank = hann.astype(np.float32), mel_bank(sound)
    made = np.empty((sound.mels, len(frames)), np.float32)
    for at in range(0, len(frames), _AT_ONCE):
        spectra = np.fft.rfft(frames[at : at + _AT_ONCE] * taper, axis=1)
        power = (spectra.real**2 + spectra.imag**2).astype(np.float32)
        made[:, at : at + _AT_ONCE] = bank @ power.T
    decibels: NDArray[np.float32] = 10 * np.log10(np.maximum(made, _LEAST_POWER))
    return decibels


def draw(wave: Samples, rate: int, sound: Sound) -> Pixels:
    """The picture of a clip: 255 for its loudest value, 0 for `range_db` below it and less.

    Shapes: wave (n,) to (mels, frames).

    >>> sound = Sound(rate=8000, seconds=0.5, window=200, hop=40, mels=32, low=20, high=4000,
    ...               range_db=60)
    >>> time = np.arange(4000, dtype=np.float32) / 8000
    >>> picture = draw(np.sin(2 * np.pi * 1000 * time), 8000, sound)
    >>> picture.shape, int(picture[:, 50].argmax())  # 1000 of 2146 mel from below
    ((32, 100), 17)
    """
    wave = centred(resample(wave, rate, sound.rate), round(sound.seconds * sound.rate))
    levels = log_mel(wave, sound)
    shares = 1 + (levels - levels.max()) / sound.range_db
    rows: Pixels = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return np.ascontiguousarray(rows[::-1])
