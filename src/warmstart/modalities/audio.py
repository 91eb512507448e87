"""Untrusted bytes to a mono waveform, or a DataError: WAV by hand, other kinds by libsndfile."""

from __future__ import annotations

import functools
import importlib
import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, install_command
from warmstart.modalities.image import TooLarge, guarded, spread
from warmstart.nouns import count
from warmstart.records.data import Example
from warmstart.records.inputs import LEAST_VARIANCE, Sound, WaveInputs

# ---- WAV files: the RIFF header read by hand, so that damaged bytes never reach a codec.
#
# After "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft 1991),
# and, for the extensible form, "Multiple Channel Audio Data and WAVE Files" (Microsoft 2001).


_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_OPEN = (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)  # sizes that programs write into a pipe


@dataclass(frozen=True, slots=True)
class Wav:
    """What the header of a WAV file says, and where its samples lie."""

    coding: int  # 1: whole numbers, 3: floats; others are packed
    channels: int
    rate: int
    bits: int
    offset: int
    n_bytes: int

    @property
    def frames(self) -> int:
        """Points in time, each with one sample a channel."""
        return self.n_bytes // max(self.channels * self.bits // 8, 1)

    @property
    def is_plain(self) -> bool:
        """Whether `samples` reads it; other codings need a codec."""
        return self.bits in _BITS.get(self.coding, ())


def is_wav(payload: bytes) -> bool:
    """Whether the first bytes are those of a WAV file."""
    return payload[:4] == b"RIFF" and payload[8:12] == b"WAVE"


def read_wav(payload: bytes, name: str) -> Wav:
    """The header of a WAV file; samples are not touched.

    Raises: DataError if it makes no sense, has no samples, or fewer than it says.
    """
    at, form = 12, None
    while at + 8 <= len(payload):
        kind, size = payload[at : at + 4], struct.unpack_from("<I", payload, at + 4)[0]
        at += 8
        if kind == b"fmt " and at + size <= len(payload):
            form = _form(payload[at : at + size], name)
        elif kind == b"data" and form is not None:
            left = len(payload) - at
            if size > left and size not in _OPEN:
                raise DataError(f"{name} is cut off")
            n_bytes = left if size in _OPEN and at + size != len(payload) else size
            return Wav(*form, at, n_bytes)
        at += size + size % 2
    is_short = form is not None or at > len(payload)
    raise DataError(f"{name} is {'cut off' if is_short else 'damaged (its header makes no sense)'}")


def _form(chunk: bytes, name: str) -> tuple[int, int, int, int]:
    """Coding, channels, rate, bits a sample."""
    if len(chunk) < 16:
        raise DataError(f"{name} is damaged (its header makes no sense)")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if coding == _EXTENSIBLE and len(chunk) >= 26:
        coding = struct.unpack_from("<H", chunk, 24)[0]
    return coding, channels, rate, bits


def samples(payload: bytes, wav: Wav) -> Samples:
    """Samples from -1 to 1 as they are in a plain file. Shapes: (frames, channels)."""
    n = wav.frames * wav.channels
    if wav.coding == _FLOAT:
        values = np.frombuffer(payload, f"<f{wav.bits // 8}", n, wav.offset).astype(np.float32)
    elif wav.bits == 8:  # the one kind without a sign
        octets = np.frombuffer(payload, np.uint8, n, wav.offset).astype(np.float32)
        values = (octets - np.float32(128)) / np.float32(128)
    elif wav.bits == 24:
        values = _of_24_bits(np.frombuffer(payload, np.uint8, 3 * n, wav.offset))
    else:
        whole = np.frombuffer(payload, f"<i{wav.bits // 8}", n, wav.offset)
        values = whole.astype(np.float32) / np.float32(2 ** (wav.bits - 1))
    return np.asarray(values, np.float32).reshape(wav.frames, wav.channels)


def _of_24_bits(octets: NDArray[np.uint8]) -> Samples:
    """Three bytes a sample, the least first; they become the upper three of four."""
    wide = np.zeros((len(octets) // 3, 4), np.uint8)
    wide[:, 1:] = octets.reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)


Samples = NDArray[np.float32]
MAX_SAMPLES = 64_000_000  # of all channels: 256 MB, as much as the largest picture
MAX_CHANNELS = 64
RATES = (1_000, 768_000)  # samples a second that are taken for sound
# First bytes, how many to skip before them, and the name of the kind.
_MARKS = (
    (b"fLaC", 0, "FLAC"),
    (b"OggS", 0, "OGG"),
    (b"ID3", 0, "MP3"),
    (b"\xff\xfb", 0, "MP3"),
    (b"\xff\xf3", 0, "MP3"),
    (b"\xff\xf2", 0, "MP3"),
    (b"AIFF", 8, "AIFF"),
    (b"AIFC", 8, "AIFF"),
)
_IMPOSTORS = (
    (b"ftyp", 4, "is an M4A, AAC or video file; save it as WAV or FLAC"),
    (b"\x1aE\xdf\xa3", 0, "is a WebM or Matroska file; save it as WAV or FLAC"),
    (b"\xff\xf1", 0, "is an AAC file; save it as WAV or FLAC"),
    (b"version https://git-lfs", 0, "is a Git LFS pointer, not the sound (git lfs pull)"),
    (b"<!DOCTYPE html", 0, "is a web page, not a sound"),
    (b"<html", 0, "is a web page, not a sound"),
)
FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF")


@dataclass(frozen=True, slots=True)
class Heard:
    """What the header of a sound file says."""

    kind: str  # one of FORMATS
    frames: int  # points in time
    rate: int  # of them in a second
    channels: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.rate


def is_sound(payload: bytes) -> bool:
    """Whether the first bytes are those of a sound file that is read.

    >>> is_sound(b"fLaC\\0\\0\\0\\x22"), is_sound(b"\\x89PNG\\r\\n")
    (True, False)
    """
    return _kind(payload) is not None


def _kind(payload: bytes) -> str | None:
    if is_wav(payload):
        return "WAV"
    return next((kind for mark, at, kind in _MARKS if payload[at:].startswith(mark)), None)


def hear(payload: bytes, name: str) -> Heard:
    """Read the header of a sound file.

    Raises: DataError if it is none, is damaged, empty or too large, or a package is missing.
    """
    return guarded(lambda: _heard(payload, name), payload, name)


def _heard(payload: bytes, name: str) -> Heard:
    kind = _kind(payload)
    if kind is None:
        raise DataError(f"{name} {_reason(payload)}")
    if kind == "WAV" and (wav := read_wav(payload, name)).is_plain:
        found = Heard(kind, wav.frames, wav.rate, wav.channels)
    else:
        if kind == "AIFF" and int.from_bytes(payload[4:8], "big") + 8 > len(payload):
            raise DataError(f"{name} is cut off")  # libsndfile reads what is left of it
        with _opened(payload, name) as file:
            found = Heard(kind, int(file.frames), int(file.samplerate), int(file.channels))
    _check(found, name)
    return found


def _reason(payload: bytes) -> str:
    start = payload[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, at, reason in _IMPOSTORS:
        if start[at : at + len(mark)].lower() == mark.lower():
            return reason
    return "is not a sound (WAV, FLAC, OGG, MP3 and AIFF are read)"


def _check(found: Heard, name: str) -> None:
    low, high = RATES
    if not 1 <= found.channels <= MAX_CHANNELS or not low <= found.rate <= high:
        raise DataError(
            f"{name} is damaged (its header says {count(found.channels, 'channel')} of "
            f"{found.rate:,} samples a second)"
        )
    if found.frames < 1:
        raise DataError(f"{name} holds no sound (0 samples)")
    if found.frames * found.channels > MAX_SAMPLES:
        raise TooLarge(
            f"{name} lasts {found.seconds / 60:,.0f} minutes "
            f"({found.frames * found.channels / 1e6:,.0f} million samples); the limit is "
            f"{MAX_SAMPLES // 10**6} million. Cut it into clips."
        )


def decode_sound(payload: bytes, name: str) -> tuple[Samples, int]:
    """The waveform of a sound file, its channels averaged, and its samples a second.

    Full scale is -1 to 1; floats beyond that are kept. Safe to call from several threads.
    Shapes: (n,) float32.
    Raises: DataError "NAME is cut off", "NAME is silent", … for every failure.
    """
    return guarded(lambda: _decoded(payload, name), payload, name)


def _decoded(payload: bytes, name: str) -> tuple[Samples, int]:
    heard = _heard(payload, name)
    if heard.kind == "WAV" and (wav := read_wav(payload, name)).is_plain:
        values = samples(payload, wav)
    else:
        with _opened(payload, name) as file:
            values = file.read(dtype="float32", always_2d=True)
        if len(values) < heard.frames and heard.kind != "MP3":  # whose header only estimates
            raise DataError(f"{name} is cut off")
    mono = np.ascontiguousarray(values.mean(axis=1, dtype=np.float32))
    if not np.isfinite(mono).all():
        raise DataError(f"{name} holds NaN or infinity; record or convert it again")
    if float(mono.min()) == float(mono.max()):
        raise DataError(f"{name} is silent (all samples are {mono[0]:g})")
    return mono, heard.rate


def _opened(payload: bytes, name: str) -> Any:
    """A file of libsndfile. Raises: DataError without the package, or for damaged bytes."""
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package is there, the library is not
        kind = _kind(payload)
        raise DataError(
            f"{name} is {'a packed WAV' if kind == 'WAV' else kind}, which needs soundfile; "
            f"run `{install_command('sound')}`"
        ) from error
    try:
        return soundfile.SoundFile(io.BytesIO(payload))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name} is damaged ({error.error_string.rstrip('.')})") from error


def decoder_of_sound() -> str:
    """Names what turns bytes into waveforms, with its version: what was kept depends on it.

    A file may be unreadable for want of a package.
    """
    try:
        return f"log-mel v1, soundfile {version('soundfile')}"
    except PackageNotFoundError:
        return "log-mel v1, soundfile none"


# ---- What clips of sound are like, from the headers of training files: how to draw them all alike.


Load = Callable[[str], bytes]
MOST = 200  # files whose headers are read
TOP_RATE = 16_000  # speech and most of what people tell apart lies below 8 kHz
LONGEST_S = 10.0  # of a picture; a clip that lasts longer shows its middle
SHORTEST_S = 0.25
USUAL_RATE = 10  # percentile of rates: what nine of ten clips hold, and none has to make up
USUAL_LENGTH = 95  # percentile of lengths that a picture holds whole
WINDOW_S = 0.032
COLUMNS = 224  # frames across a picture: the side of what most networks see
MELS = 128
LOW_HZ = 20.0  # the lowest that is heard
RANGE_DB = 30.0


def sound_of(load: Load, examples: Sequence[Example]) -> Sound:
    """How clips become pictures: the rate nearly all have, a length that nearly all fit in.

    At most 200 training files are looked at, no label, no test file. Files that cannot be read
    are passed over.
    Raises: DataError (the first) if none can be read.
    """
    heard, lost = [], None
    for example in spread([e for e in examples if e.split == "train"], MOST):
        try:
            heard.append(hear(load(example.id), example.id))
        except DataError as error:
            lost = lost or error
    if not heard:
        raise lost or DataError("no training clip is there to take rate and length from")
    rates = np.array([one.rate for one in heard])
    usual = int(np.percentile(rates, USUAL_RATE, method="lower"))
    length = float(np.percentile([one.seconds for one in heard], USUAL_LENGTH))
    return drawn(min(usual, TOP_RATE), float(np.clip(length, SHORTEST_S, LONGEST_S)))


def drawn(rate: int, seconds: float, mels: int = MELS) -> Sound:
    """The usual picture of clips at `rate` samples a second that last so long.

    >>> sound = drawn(8000, 0.64)
    >>> sound.window, sound.hop, sound.high
    (256, 22, 4000.0)
    """
    return Sound(
        rate=rate,
        seconds=round(seconds, 2),
        window=round(WINDOW_S * rate),
        hop=max(1, int(seconds * rate / COLUMNS)),
        mels=mels,
        low=LOW_HZ,
        high=rate / 2,
        range_db=RANGE_DB,
    )


# ---- A waveform as a grey log-mel picture: low pitches below, time from left to right.
#
# Frames under a Hann window, their power spectra, summed by overlapping triangles that are evenly
# spaced in mel, in decibels below the loudest value of the clip: loudness and distance from the
# microphone, which say nothing of what sounded, drop out.


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


# ---- A clip of sound as the samples that an encoder of sounds takes.


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


# ---- Whether two clips are one recording: their waveforms laid over each other at every delay.


RATE = 4_000  # samples a second: where voices and most else have their strength
COMPARED_S = 10  # of each clip, its middle
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
    wave = centred(wave, min(len(wave), COMPARED_S * rate))
    return np.asarray(resample(wave - wave.mean(dtype=np.float32), rate, RATE))
