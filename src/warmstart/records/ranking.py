"""Which start suits a data set (`rank --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.absent import ABSENT
from warmstart.records.data import Task
from warmstart.records.inputs import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedStart:
    """One start after one look: how right a new output on it is, and what that cost.

    `value` is the accuracy on examples not seen, with its 95 % interval; `difference` is
    this start minus the best of the ranking on the same examples (0 for the best itself).
    `seconds` were spent in this call on the look and the head; where all features came
    from the store (`cached`) they say nothing of the start, and no pass was timed.
    """

    name: str  # as typed: "lite0", "timm:resnet18", "FILE@timm:resnet18"
    title: str
    arch: str | None  # what --arch wants with it, for a file of weights
    value: float
    low: float
    high: float
    seconds: float
    parameters: int
    macs: int  # multiply-accumulates for one image, up to the old output
    seconds_per_image: float | None
    cached: bool
    head: str  # the head that was best on it
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStart:
    """A start that could not be looked at, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Starts from best to worst on the same `n` examples not seen.

    A tie group holds a start and those below it whose 95 % interval of the paired
    difference to it holds 0; groups of one are not listed. `take` is the start with the
    least work among the best and those that tie with it.
    """

    starts: tuple[RankedStart, ...]
    ties: tuple[tuple[str, ...], ...]
    take: str
    because: str  # why that one
    n: int
    guess: float  # share of the largest class: right without looking
    method: str  # of the estimates: "nested-cv" or "holdout"
    failed: tuple[FailedStart, ...] = ()
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
    left_out: tuple[str, ...] = ()  # on this computer, but beyond what is looked at unasked
