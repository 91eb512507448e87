"""How a clip of sound becomes a picture: part of a network's description of its inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Log-mel power as a grey picture, low pitches below, time to the right.

    Of a clip longer than `seconds` the middle is taken, a shorter one lies amid silence.
    """

    rate: int  # samples a second that every clip is brought to
    seconds: float  # what the picture's width stands for
    window: int  # samples of a frame, under a Hann window
    hop: int  # samples between the middles of two frames
    mels: int  # bands, evenly spaced in mel: the picture's rows
    low: float  # Hz where the lowest band begins
    high: float  # Hz where the highest ends
    range_db: float  # how far below the clip's loudest value black lies
