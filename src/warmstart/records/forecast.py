"""What a run would take: seconds by stage, memory and disk, before any of it is spent."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.absent import ABSENT
from warmstart.records.inputs import Kind
from warmstart.records.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What following a plan will cost on this machine; forecasts, not promises."""

    seconds: dict[str, float]  # by stage, and `total`
    memory_mb: float  # largest resident memory, in 10^6 bytes
    disk_mb: float  # the run folder, and what the look adds to the feature cache

    @property
    def total(self) -> float:
        """Seconds from the command to the finished run folder."""
        return self.seconds["total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What `fit --dry-run` found: the plan, and what it would cost. Nothing was trained."""

    data: str  # its name
    title: str  # of the start, for people
    n: int  # images to learn from
    n_test: int
    classes: tuple[str, ...]
    plan: Plan
    forecast: Forecast
    parameters: dict[str, int]  # of each part, by its name
    surgery: str = ""  # what does not carry over from the start, in words
    follows_verdict: bool = False  # whether the verdict may still change the plan
    plan_file: str | None = None  # where the plan was written
    kind: Kind | None = field(default=None, metadata=ABSENT)  # of the data; None: images
