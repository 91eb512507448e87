"""What clips of sound are like, from the headers of training files: how to draw them all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from warmstart.data.bands import spread
from warmstart.data.waveform import hear
from warmstart.errors import DataError
from warmstart.records import Example, Sound

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
        rate=rate, seconds=round(seconds, 2), window=round(WINDOW_S * rate),
        hop=max(1, int(seconds * rate / COLUMNS)), mels=mels, low=LOW_HZ, high=rate / 2,
        range_db=RANGE_DB,
    )  # fmt: skip
