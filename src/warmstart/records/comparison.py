"""Several runs on the same examples (`compare --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.absent import ABSENT
from warmstart.records.inputs import Kind
from warmstart.records.summary import Readiness, VerdictKind

# The test part of all runs; or examples that each of them held out in some way.
ComparedRows = Literal["test", "held-out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run: how right it is on the examples that all of them held out, and what it took.

    `value` is the accuracy there with its 95 % interval. `updates` were made in all its
    trainings together. `near_end_*`: when its accuracy on examples held out first was 95 % of
    what it was at the end, in updates of one training and seconds since the run began; 0 updates
    for an output fitted in closed form, None where it was not looked at.
    """

    name: str
    path: str
    strategy: str  # what was shipped
    why: str
    start: str
    verdict: VerdictKind
    value: float
    low: float
    high: float
    learnt: int  # different images that it learnt from
    seconds: float
    seconds_look: float  # of them for the look at the images; `kept`: an earlier one served
    kept: bool
    updates: int
    near_end_updates: int | None
    near_end_seconds: float | None
    readiness: Readiness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Accuracy of `a` minus that of `b` on the same `n` examples, with its 95 % interval.

    `p` is adjusted for all pairs of the comparison (Holm); below 0.05 there is a winner.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    n: int
    winner: str | None  # None: a tie
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A strategy that did not come to a model, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs from best to worst on the same `n` examples, and every pair of them.

    `learnt_common`: images that all of them learnt from. Examples are left out that a run had
    seen before, by its own findings (`seen_before`), and those whose label is another one in
    another run (`relabelled`).
    """

    metric: str
    rows: ComparedRows
    n: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    learnt_common: int
    seen_before: int = 0
    relabelled: int = 0
    failed: tuple[FailedRun, ...] = ()
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: of images
