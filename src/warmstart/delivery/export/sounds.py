"""Lines of predict.py that draw a clip of sound without warmstart, as `data.mel` does."""

from __future__ import annotations

NEEDS = "scipy, soundfile"
IMPORTS = """\
from fractions import Fraction
import soundfile
from scipy.signal import resample_poly"""
DRAWN = """\
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    s, wave = PREP["sound"], wave.mean(axis=1)
    if rate != s["rate"]:
        ratio = Fraction(s["rate"], rate).limit_denominator(1000)
        wave = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    n, hop, size = round(s["seconds"] * s["rate"]), s["hop"], s["window"]
    cut = (len(wave) - n) // 2  # the middle of a long clip; a short one lies amid silence
    wave = wave[cut : cut + n] if cut >= 0 else np.pad(wave, (-cut, n - len(wave) + cut))
    wave = np.pad(wave, (size // 2, size - size // 2))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop][: max(n // hop, 1)]
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * taper, axis=1)) ** 2
    ends = 2595 * np.log10(1 + np.array([s["low"], s["high"]]) / 700)  # hertz to mel
    edges = 700 * (10 ** (np.linspace(*ends, s["mels"] + 2) / 2595) - 1)
    at, (low, mid, high) = np.fft.rfftfreq(size, 1 / s["rate"]), (
        edges[k : k + s["mels"], None] for k in range(3))
    bank = np.maximum(0, np.minimum((at - low) / (mid - low), (high - at) / (high - mid)))
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(at - mid[band]).argmin()] = 1
    level = 10 * np.log10(np.maximum(bank @ power.T, 1e-20))
    share = np.clip(1 + (level - level.max()) / s["range_db"], 0, 1)
    image = Image.fromarray(np.rint(255 * share[::-1]).astype(np.uint8)).convert("$mode")
"""
