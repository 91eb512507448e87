"""Untrusted bytes to a mono waveform, or a DataError: WAV by hand, other kinds by libsndfile."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.data.collection import count
from warmstart.data.decode import guarded
from warmstart.data.pixels import TooLarge
from warmstart.data.riff import is_wav, read_wav, samples
from warmstart.errors import DataError
from warmstart.extras import install_command

Samples = NDArray[np.float32]
MAX_SAMPLES = 64_000_000  # of all channels: 256 MB, as much as the largest picture
MAX_CHANNELS = 64
RATES = (1_000, 768_000)  # samples a second that are taken for sound
# First bytes, how many to skip before them, and the name of the kind.
_MARKS = (
    (b"fLaC", 0, "FLAC"), (b"OggS", 0, "OGG"), (b"ID3", 0, "MP3"), (b"\xff\xfb", 0, "MP3"),
    (b"\xff\xf3", 0, "MP3"), (b"\xff\xf2", 0, "MP3"), (b"AIFF", 8, "AIFF"), (b"AIFC", 8, "AIFF"),
)  # fmt: skip
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
