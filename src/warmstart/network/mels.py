"""Log-mel frames as the feature extractors of transformers make them, in torch, without weights.

Everything before the power is linear, so that one matrix does it: frames (T, n) to the real and
imaginary parts of their spectra. It is made once, in double precision.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]
KALDI_FLOOR = 1.192092955078125e-07  # what Kaldi's logarithm begins from: the float32 epsilon
WHISPER_FLOOR = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class LogMel:
    """From samples (B, n) to each band's log power (B, T, M), frames of `width` every `hop`.

    `spectrum` (width, 2 F) gives F real parts, then F imaginary ones; `bands` (F, M).
    """

    width: int
    hop: int
    spectrum: Tensor
    bands: Tensor
    floor: float

    def __call__(self, samples: Tensor) -> Tensor:
        """The natural logarithm of the power, never below that of the floor.

        In the numbers it is given, whatever a training multiplies in: half ones would round the
        samples before a logarithm that spans 80 dB.
        """
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.unfold(1, self.width, self.hop)
            found = frames @ self.spectrum.to(samples.device)
            real, imaginary = found.chunk(2, dim=-1)
            power = (real**2 + imaginary**2) @ self.bands.to(samples.device)
            return power.clamp(min=self.floor).log()

    def frames_of(self, samples: int) -> int:
        """How many frames so many samples make; below 1 where they make none."""
        return (samples - self.width) // self.hop + 1


def kaldi(rate: int, n_bands: int) -> LogMel:
    """25 ms every 10 ms, as Gong et al. 2021, "AST", §2.1 have them by Kaldi.

    Each frame without its mean, emphasised towards high pitches, under a Hann window.
    """
    width, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (width - 1).bit_length()
    centred = np.eye(width) - 1 / width
    raised = np.eye(width) - 0.97 * np.eye(width, k=-1)
    raised[0, 0] = 1 - 0.97  # the first has no sample before it but itself
    window = np.hanning(width)[:, None]
    linear = (window * (raised @ centred)).T  # (in, out): frames stand on the left
    return LogMel(
        width, hop, _tensor(linear @ _fourier(width, size)),
        _bands(rate, size, n_bands, low=20.0, high=rate // 2, norm=None, mel_scale="kaldi",
               triangularize_in_mel_space=True),
        KALDI_FLOOR,
    )  # fmt: skip


def whisper(rate: int, n_bands: int, width: int, hop: int) -> LogMel:
    """As Radford et al. 2022, "Whisper", §2.2 have them: a periodic Hann window, bands to 8 kHz."""
    window = np.hanning(width + 1)[:-1, None]
    return LogMel(
        width, hop, _tensor(window * _fourier(width, width)),
        _bands(rate, width, n_bands, low=0.0, high=8000.0, norm="slaney", mel_scale="slaney"),
        WHISPER_FLOOR,
    )  # fmt: skip


def _fourier(width: int, size: int) -> Matrix:
    """Of frames filled up to `size`: (width, 2 F), real parts first."""
    angles = 2 * np.pi * np.outer(np.arange(width), np.arange(size // 2 + 1)) / size
    return np.hstack([np.cos(angles), -np.sin(angles)])


def _bands(
    rate: int, size: int, n_bands: int, *, low: float, high: float, **options: Any
) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():  # of bands so low that none of the frequencies lies in them
        warnings.simplefilter("ignore")
        found = mel_filter_bank(
            num_frequency_bins=size // 2 + 1, num_mel_filters=n_bands, min_frequency=low,
            max_frequency=high, sampling_rate=rate, **options,
        )  # fmt: skip
    return _tensor(np.asarray(found))


def _tensor(values: Matrix) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
