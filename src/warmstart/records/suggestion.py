"""Which images to label next (`suggest --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.absent import ABSENT
from warmstart.records.inputs import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One image to label: what the model takes it for now, and why it is asked about."""

    path: str
    label: str
    probability: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Gain in accuracy from `n` more examples drawn at random, with its 95 % interval."""

    gain: float
    low: float
    high: float
    n: int
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Images that were not considered: in the run's data already, same bytes twice, unreadable."""

    known: int
    copies: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """What `suggest --json` prints: images to label, the most telling first."""

    suggestions: tuple[Suggestion, ...]
    expected: ExpectedGain | None
    skipped: Skipped
    candidates: int  # images that could have been suggested
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
