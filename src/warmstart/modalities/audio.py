"""Untrusted bytes to a mono waveform, or a DataError: WAV by hand, the rest by libsndfile."""

from __future__ import annotations

import functools
import importlib
import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warmstart.errors import DataError, install_command
from warmstart.modalities.image import COLOUR, ImageModality, TooLarge, guard, read_some, spread
from warmstart.modalities.modality import (
    Form,
    Modality,
    Payloads,
    input_choice,
    suffixes_of,
    with_version,
)
from warmstart.nouns import Nouns, count
from warmstart.records.data import Example
from warmstart.records.inputs import (
    LEAST_VARIANCE,
    Inputs,
    Kind,
    Preprocessing,
    Sound,
    WaveInputs,
    pictures,
)
from warmstart.records.plan import Choice, InputPlan, by_rule

# ---- WAV files: the RIFF header is read by hand, so that damaged bytes never reach a codec.
#
# After "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft 1991),
# and, for the extensible form, "Multiple Channel Audio Data and WAVE Files" (Microsoft 2001).

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_OPEN = (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)  # sizes that programs write when they stream


@dataclass(frozen=True, slots=True)
class Wav:
    """The header of a WAV file, and where its samples lie."""

    coding: int  # 1: whole numbers, 3: floats; others are packed
    channels: int
    sample_rate: int
    bits: int
    offset: int
    n_bytes: int

    @property
    def frames(self) -> int:
        return self.n_bytes // max(self.channels * self.bits // 8, 1)

    @property
    def is_plain(self) -> bool:
        """Whether `samples` can read it; other codings need a codec."""
        return self.bits in _BITS.get(self.coding, ())


def is_wav(payload: bytes) -> bool:
    return payload[:4] == b"RIFF" and payload[8:12] == b"WAVE"


def read_wav(payload: bytes, name: str) -> Wav:
    """The header of a WAV file; raises DataError if it is invalid or the file is cut off."""
    at, format = 12, None
    while at + 8 <= len(payload):
        kind, size = payload[at : at + 4], struct.unpack_from("<I", payload, at + 4)[0]
        at += 8
        if kind == b"fmt " and at + size <= len(payload):
            format = _format(payload[at : at + size], name)
        elif kind == b"data" and format is not None:
            available = len(payload) - at
            if size > available and size not in _OPEN:
                raise DataError(f"{name} is cut off")
            n_bytes = available if size in _OPEN and at + size != len(payload) else size
            return Wav(*format, at, n_bytes)
        at += size + size % 2
    is_short = format is not None or at > len(payload)
    raise DataError(f"{name} is {'cut off' if is_short else 'damaged (its header makes no sense)'}")


def _format(chunk: bytes, name: str) -> tuple[int, int, int, int]:
    """Coding, channels, sample rate, bits a sample."""
    if len(chunk) < 16:
        raise DataError(f"{name} is damaged (its header makes no sense)")
    coding, channels, sample_rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if coding == _EXTENSIBLE and len(chunk) >= 26:
        coding = struct.unpack_from("<H", chunk, 24)[0]
    return coding, channels, sample_rate, bits


def decode_wav(payload: bytes, wav: Wav) -> Samples:
    """The samples of a plain file, from -1 to 1. Shapes: (frames, channels)."""
    n = wav.frames * wav.channels
    if wav.coding == _FLOAT:
        values = np.frombuffer(payload, f"<f{wav.bits // 8}", n, wav.offset).astype(np.float32)
    elif wav.bits == 8:  # the only unsigned format
        octets = np.frombuffer(payload, np.uint8, n, wav.offset).astype(np.float32)
        values = (octets - np.float32(128)) / np.float32(128)
    elif wav.bits == 24:
        # Three bytes a sample, the least first; they become the upper three of four.
        wide = np.zeros((n, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(payload, np.uint8, 3 * n, wav.offset).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    else:
        integers = np.frombuffer(payload, f"<i{wav.bits // 8}", n, wav.offset)
        values = integers.astype(np.float32) / np.float32(2 ** (wav.bits - 1))
    return np.asarray(values, np.float32).reshape(wav.frames, wav.channels)


Samples = NDArray[np.float32]
MAX_SAMPLES = 64_000_000  # of all channels: 256 MB, as the largest picture
MAX_CHANNELS = 64
SAMPLE_RATES = (1_000, 768_000)  # samples a second that are plausible
# First bytes, their offset, and the name of the format.
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
class SoundHeader:
    kind: str  # one of FORMATS
    frames: int  # points in time
    sample_rate: int  # frames a second
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def is_sound(payload: bytes) -> bool:
    """Whether the first bytes are those of a supported audio file."""
    return _kind(payload) is not None


def _kind(payload: bytes) -> str | None:
    if is_wav(payload):
        return "WAV"
    return next((kind for mark, at, kind in _MARKS if payload[at:].startswith(mark)), None)


def read_sound_header(payload: bytes, name: str) -> SoundHeader:
    """The header of an audio file. Raises: DataError if damaged, or a package is missing."""
    return guard(lambda: _read_header(payload, name), payload, name)


def _read_header(payload: bytes, name: str) -> SoundHeader:
    kind = _kind(payload)
    if kind is None:
        beginning = payload[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
        for mark, at, reason in _IMPOSTORS:
            if beginning[at : at + len(mark)].lower() == mark.lower():
                raise DataError(f"{name} {reason}")
        raise DataError(f"{name} is not a sound (WAV, FLAC, OGG, MP3 and AIFF are read)")
    if kind == "WAV" and (wav := read_wav(payload, name)).is_plain:
        header = SoundHeader(kind, wav.frames, wav.sample_rate, wav.channels)
    else:
        if kind == "AIFF" and int.from_bytes(payload[4:8], "big") + 8 > len(payload):
            raise DataError(f"{name} is cut off")  # libsndfile would read what is there
        with _open(payload, name) as file:
            header = SoundHeader(kind, int(file.frames), int(file.samplerate), int(file.channels))
    low, high = SAMPLE_RATES
    if not 1 <= header.channels <= MAX_CHANNELS or not low <= header.sample_rate <= high:
        raise DataError(
            f"{name} is damaged (its header says {count(header.channels, 'channel')} of "
            f"{header.sample_rate:,} samples a second)"
        )
    if header.frames < 1:
        raise DataError(f"{name} holds no sound (0 samples)")
    if header.frames * header.channels > MAX_SAMPLES:
        raise TooLarge(
            f"{name} lasts {header.seconds / 60:,.0f} minutes "
            f"({header.frames * header.channels / 1e6:,.0f} million samples); the limit is "
            f"{MAX_SAMPLES // 10**6} million. Cut it into clips."
        )
    return header


def decode_sound(payload: bytes, name: str) -> tuple[Samples, int]:
    """The waveform of an audio file, its channels averaged, and its sample rate.

    Full scale is -1 to 1; floats beyond that are not clipped. Thread-safe. Shapes: (n,) float32.
    Raises: DataError "NAME is cut off", "NAME is silent", … for every failure.
    """
    return guard(lambda: _decode(payload, name), payload, name)


def _decode(payload: bytes, name: str) -> tuple[Samples, int]:
    header = _read_header(payload, name)
    if header.kind == "WAV" and (wav := read_wav(payload, name)).is_plain:
        values = decode_wav(payload, wav)
    else:
        with _open(payload, name) as file:
            values = file.read(dtype="float32", always_2d=True)
        if len(values) < header.frames and header.kind != "MP3":  # whose header only estimates
            raise DataError(f"{name} is cut off")
    mono = np.ascontiguousarray(values.mean(axis=1, dtype=np.float32))
    if not np.isfinite(mono).all():
        raise DataError(f"{name} holds NaN or infinity; record or convert it again")
    if float(mono.min()) == float(mono.max()):
        raise DataError(f"{name} is silent (all samples are {mono[0]:g})")
    return mono, header.sample_rate


def _open(payload: bytes, name: str) -> Any:
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


# ---- One spectrogram format for all clips of a data set, from the headers of training files.

Load = Callable[[str], bytes]
MAX_FILES = 200  # whose headers are read
MAX_SAMPLE_RATE = 16_000  # speech and most other sounds differ below 8 kHz
MAX_SECONDS = 10.0  # of a picture; a longer clip shows its middle
MIN_SECONDS = 0.25
RATE_PERCENTILE = 10  # of sample rates: nine of ten clips have as much, so none is upsampled
LENGTH_PERCENTILE = 95  # of lengths that a picture holds whole
WINDOW_S = 0.032
COLUMNS = 224  # frames across a picture: the input side of most networks
MELS = 128
LOW_HZ = 20.0  # the lowest audible frequency
RANGE_DB = 30.0


def sound_of(load: Load, examples: Sequence[Example]) -> Sound:
    """How clips become pictures: a sample rate and a length that suit nearly all of them.

    Reads at most 200 training files, no label, no test file. Ignores files that cannot be read.
    Raises: DataError (the first) if none can be read.
    """
    train = spread([e for e in examples if e.split == "train"], MAX_FILES)
    problem = "no training clip to read sample rate and length from"
    headers = read_some(lambda e: read_sound_header(load(e.id), e.id), train, problem)
    rates = np.array([header.sample_rate for header in headers])
    low_rate = int(np.percentile(rates, RATE_PERCENTILE, method="lower"))
    length = float(np.percentile([header.seconds for header in headers], LENGTH_PERCENTILE))
    seconds = float(np.clip(length, MIN_SECONDS, MAX_SECONDS))
    return default_sound(min(low_rate, MAX_SAMPLE_RATE), seconds)


def default_sound(sample_rate: int, seconds: float, mels: int = MELS) -> Sound:
    """The default spectrogram of clips of this sample rate and length."""
    return Sound(
        sample_rate=sample_rate,
        seconds=round(seconds, 2),
        window=round(WINDOW_S * sample_rate),
        hop=max(1, int(seconds * sample_rate / COLUMNS)),
        mels=mels,
        low=LOW_HZ,
        high=sample_rate / 2,
        range_db=RANGE_DB,
    )


# ---- A waveform as a grey log-mel spectrogram: low pitches below, time from left to right.
#
# Frames under a Hann window, their power spectra, summed by overlapping triangles that are evenly
# spaced in mel, in decibels below the loudest value of the clip: this removes loudness and
# distance from the microphone, which say nothing about the source.

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
_MIN_POWER = 1e-20  # 200 dB below full scale: no logarithm of zero
_MAX_DENOMINATOR = 1_000  # of a ratio of sample rates; within 1e-6 of any two
_AT_ONCE = 4_096  # frames transformed together


def to_mel(hertz: float) -> float:
    """Pitch in mel: O'Shaughnessy 1987, "Speech Communication", as in the HTK toolkit."""
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))


def from_mel(mel: Floats) -> Floats:
    """The inverse of `to_mel`, in hertz."""
    hertz: Floats = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return hertz


@functools.lru_cache(maxsize=8)
def mel_bank(sound: Sound) -> NDArray[np.float32]:
    """Weights from power spectrum to mel bands, triangles of height 1 (Davis & Mermelstein 1980).

    Each rises from the middle of the band below to its own and falls to that of the band
    above; a band too narrow for any frequency of the transform takes the nearest one.
    Shapes: (mels, window // 2 + 1).
    """
    edges = from_mel(np.linspace(to_mel(sound.low), to_mel(sound.high), sound.mels + 2))
    at = np.fft.rfftfreq(sound.window, 1 / sound.sample_rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (at - low) / (middle - low), (high - at) / (high - middle)
    bank = np.maximum(0.0, np.minimum(rising, falling))
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(at - edges[1 + band]).argmin()] = 1.0
    return bank.astype(np.float32)


def resample(wave: Samples, sample_rate: int, new_rate: int) -> Samples:
    """A clip at another sample rate, by polyphase filtering."""
    if sample_rate == new_rate:
        return wave
    from scipy.signal import resample_poly  # takes 0.2 s, and only audio needs it

    ratio = Fraction(new_rate, sample_rate).limit_denominator(_MAX_DENOMINATOR)
    new: Samples = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    return new


def crop_or_pad(wave: Samples, n: int) -> Samples:
    """The middle `n` samples; a shorter clip is padded with silence."""
    begin = (len(wave) - n) // 2
    if begin >= 0:
        return wave[begin : begin + n]
    return np.pad(wave, (-begin, n - len(wave) + begin))


def log_mel(wave: Samples, sound: Sound) -> NDArray[np.float32]:
    """Mel power in dB of frames around every `hop`-th sample. Shapes: (n,) to (mels, n // hop)."""
    half = sound.window // 2
    padded = np.pad(wave, (half, sound.window - half))
    windows = np.lib.stride_tricks.sliding_window_view(padded, sound.window)[:: sound.hop]
    frames = windows[: max(len(wave) // sound.hop, 1)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(sound.window) / sound.window)
    taper, bank = hann.astype(np.float32), mel_bank(sound)
    power = np.empty((sound.mels, len(frames)), np.float32)
    for at in range(0, len(frames), _AT_ONCE):
        spectra = np.fft.rfft(frames[at : at + _AT_ONCE] * taper, axis=1)
        energy = (spectra.real**2 + spectra.imag**2).astype(np.float32)
        power[:, at : at + _AT_ONCE] = bank @ energy.T
    decibels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, _MIN_POWER))
    return decibels


def draw_spectrogram(wave: Samples, sample_rate: int, sound: Sound) -> Pixels:
    """The picture of a clip (n,), its loudest value 255. Shapes: returns (mels, frames)."""
    n = round(sound.seconds * sound.sample_rate)
    levels = log_mel(crop_or_pad(resample(wave, sample_rate, sound.sample_rate), n), sound)
    shares = 1 + (levels - levels.max()) / sound.range_db
    rows: Pixels = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return np.ascontiguousarray(rows[::-1])


# ---- A clip as the samples that an audio encoder takes.


def prepare_wave(wave: Samples, sample_rate: int, inputs: WaveInputs) -> NDArray[np.float32]:
    """The middle of a clip, resampled, scaled, padded with silence. Shapes: (m,) to (n,)."""
    (n,) = inputs.shape
    wave = resample(wave, sample_rate, inputs.sample_rate)
    wave = crop_or_pad(wave, min(n, len(wave)))
    if inputs.is_scaled:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + LEAST_VARIANCE)
    return np.ascontiguousarray(crop_or_pad(wave, n), np.float32)


# ---- Whether two clips are one recording: their waveforms correlated at every delay.

_COMPARED_RATE = 4_000  # samples a second: voices and most else have their power below 2 kHz
_COMPARED_S = 10  # of the middle of each clip
# Re-encoded and resampled clips .97 and more (20 ms cut off: mostly), another recording of the same
# speaker and word .91 at most among 550 (bench/results/failed_ideas.md).
SAME_RECORDING = 0.95


def waveform_similarity(first: bytes, second: bytes) -> float:
    """The largest correlation of two clips over all delays: 1 for one clip, whatever its volume.

    A recording that is re-encoded, resampled or slightly cut stays similar; the same word spoken
    twice does not, nor do two tones that differ by a few hertz, since phases drift apart.
    Raises: DataError if either is not a valid audio file.
    """
    a, b = (_low_rate(payload) for payload in (first, second))
    n = 1 << (len(a) + len(b) - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.abs(correlation).max()) / size if size else 0.0


def _low_rate(payload: bytes) -> Samples:
    """The middle of a clip at a low sample rate, without its mean. Shapes: (n,)."""
    wave, sample_rate = decode_sound(payload, "the clip")
    wave = crop_or_pad(wave, min(len(wave), _COMPARED_S * sample_rate))
    return resample(wave - wave.mean(dtype=np.float32), sample_rate, _COMPARED_RATE)


# ---- The two forms in which a network takes clips.


def clip_picture(wave: Samples, sample_rate: int) -> Image.Image:
    """The default spectrogram of a clip, or of the middle of a long one. Shapes: wave (n,)."""
    sound = default_sound(sample_rate, min(len(wave) / sample_rate, MAX_SECONDS))
    return Image.fromarray(draw_spectrogram(wave, sample_rate, sound))


SOUND_CROP = 0.8  # v0


def _seconds_choice(value: float) -> Choice:
    because = (
        "nineteen of twenty clips are no longer, up to ten seconds; longer ones are cut "
        "to their middle, shorter ones padded with silence"
    )
    return Choice(value=value, source="measured", because=because)


class AudioModality(Modality[WaveInputs]):
    """Clips of sound, as waveforms."""

    is_sound = True
    form: Form = "files"
    suffixes = suffixes_of("wav wave flac ogg oga opus mp3 aif aiff aifc")
    kind: Kind = "audio"
    input_name = "clips"
    hub_name = "audio"
    example = "clip"
    networks = ("image", "audio")  # spectrograms for a network of images
    has_thumbnails = True
    nouns = Nouns(
        one="clip",
        picture="clip",
        an="a clip",
        plain="the plain spectrogram",
        changed="re-encoded, resampled, cut or of another loudness",
        typed="clip.wav",
        quoted='"clip.wav"',
        new="new.wav",
        several="new/",
        labelled="more/",
        accept="audio/*,.wav,.flac,.ogg,.mp3,.aiff",
    )

    def open(self, payload: bytes, name: str, inputs: WaveInputs) -> tuple[Samples, int]:
        return decode_sound(payload, name)

    def prepare(self, example: tuple[Samples, int], inputs: WaveInputs) -> Samples:
        return prepare_wave(*example, inputs)

    def fitted(
        self, inputs: WaveInputs, payloads: Payloads | None, sound: Sound | None
    ) -> WaveInputs:
        return inputs if sound is None else replace(inputs, seconds=sound.seconds)

    def encode(self, payload: bytes, name: str, inputs: WaveInputs) -> Samples:
        return prepare_wave(*decode_sound(payload, name), inputs)

    def picture(self, example: tuple[Samples, int]) -> Image.Image:
        return clip_picture(*example)

    def plan(self, inputs: WaveInputs, base: Inputs) -> InputPlan:
        rate = inputs.sample_rate
        return InputPlan(
            size=input_choice(inputs.shape[0], None, "the samples of so many seconds"),
            channels=input_choice(1, 1, "clips have one"),
            sample_rate=input_choice(rate, rate, "the base model's own"),
            seconds=_seconds_choice(inputs.seconds),
        )

    def metadata(self, inputs: WaveInputs) -> dict[str, Any]:
        return {"sample_rate": inputs.sample_rate, "seconds": inputs.seconds}

    def decoder(self, inputs: WaveInputs) -> str:
        return f"wave v1, {with_version('soundfile')}"


class SpectrogramModality(ImageModality):
    """Clips of sound, as pictures for a network of images."""

    augmentations = (
        by_rule(SOUND_CROP, "a little faster or slower, higher or lower is the same class"),
        by_rule(False, "mirrored, a sound is played backwards"),
        by_rule(COLOUR, "a tenth louder or fainter is the same class"),
    )
    is_sound = True
    has_off_topic = False
    kind: Kind = "audio"
    hub_name = "audio"
    example, networks, nouns = AudioModality.example, AudioModality.networks, AudioModality.nouns
    suffixes = AudioModality.suffixes

    def open(self, payload: bytes, name: str, inputs: Preprocessing) -> Image.Image:
        wave, sample_rate = decode_sound(payload, name)
        return Image.fromarray(draw_spectrogram(wave, sample_rate, cast(Sound, inputs.sound)))

    def plan(self, inputs: Preprocessing, base: Inputs) -> InputPlan | None:
        plan, sound = super().plan(inputs, base), inputs.sound
        if plan is None or sound is None:
            return plan
        rate = "that of nine of ten clips, up to 16,000; others are resampled"
        decibels = "what is fainter than that below a clip's loudest is mostly noise"
        return replace(
            plan,
            channels=input_choice(
                inputs.channels, pictures(base).channels, "a spectrogram is grey"
            ),
            sample_rate=Choice(value=sound.sample_rate, because=rate, source="measured"),
            seconds=_seconds_choice(sound.seconds),
            n_mels=by_rule(sound.mels, "more is finer than speech"),
            top_db=by_rule(sound.range_db, decibels),
        )

    def is_rendered(self, inputs: Preprocessing) -> bool:
        return True

    def decoder(self, inputs: Preprocessing) -> str:
        return f"{with_version('pillow')}, log-mel v1, {with_version('soundfile')}"


AUDIO, SPECTROGRAM = AudioModality(), SpectrogramModality()
