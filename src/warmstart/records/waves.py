"""How a clip of sound becomes the waveform that an encoder of sounds takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

# Beside which the variance of a clip counts, as the feature extractors of transformers have it.
LEAST_VARIANCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveInputs:
    """A clip as its samples, (n,) float32, all clips at one rate and of one length.

    Of a clip longer than `seconds` the middle is taken, a shorter one lies amid silence.

    >>> WaveInputs(rate=16_000, seconds=0.5, is_scaled=True).shape
    (8000,)
    """

    rate: int  # samples a second that every clip is brought to
    seconds: float
    is_scaled: bool  # each clip by itself to mean 0 and variance 1, before silence is put around it

    kind: ClassVar[Literal["audio"]] = "audio"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an encoded example: (samples,)."""
        return (round(self.rate * self.seconds),)
