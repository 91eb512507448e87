"""WAV files: the RIFF header read by hand, so that damaged bytes never reach a codec.

After "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft 1991),
and, for the extensible form, "Multiple Channel Audio Data and WAVE Files" (Microsoft 2001).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError

Samples = NDArray[np.float32]
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
