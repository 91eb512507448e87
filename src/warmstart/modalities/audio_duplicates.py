"""Whether two clips are one recording: their waveforms laid over each other at every delay."""

from __future__ import annotations

import numpy as np

from warmstart.modalities.audio import Samples, centred, decode_sound, resample

RATE = 4_000  # samples a second: where voices and most else have their strength
LONGEST_S = 10  # of each clip, its middle
# Re-encoded and resampled clips .97 and more (20 ms cut off: mostly), another recording of the same
# speaker and word .91 at most among 550 (bench/results/failed_ideas.md).
ONE_RECORDING = 0.95


def likeness(first: bytes, second: bytes) -> float:
    """The largest correlation of two clips over all delays: 1 for one clip, whatever its volume.

    Re-encoded, resampled or with little cut off, a recording is still like itself; one word twice
    by one voice is not, nor are two tones that differ by a few hertz, since phases drift apart.
    Raises: DataError if either is no usable sound.

    >>> import io, wave
    >>> def clip(pitch):
    ...     file = io.BytesIO()
    ...     with wave.open(file, "wb") as out:
    ...         out.setparams((1, 2, 8000, 0, "NONE", ""))
    ...         wave_form = np.sin(np.arange(4000) * pitch * 2 * np.pi / 8000)
    ...         out.writeframes(np.int16(9000 * wave_form).tobytes())
    ...     return file.getvalue()
    >>> round(likeness(clip(440), clip(440)), 2), likeness(clip(440), clip(447)) < 0.5
    (1.0, True)
    """
    a, b = (_low(payload) for payload in (first, second))
    n = 1 << (len(a) + len(b) - 1).bit_length()
    crossed = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.abs(crossed).max()) / size if size else 0.0


def _low(payload: bytes) -> Samples:
    """A clip at a low rate, without its mean. Shapes: (n,)."""
    wave, rate = decode_sound(payload, "the clip")
    wave = centred(wave, min(len(wave), LONGEST_S * rate))
    return np.asarray(resample(wave - wave.mean(dtype=np.float32), rate, RATE))
