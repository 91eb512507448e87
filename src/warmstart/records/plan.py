"""Every choice of a run and its reason (plan.toml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warmstart.errors import PlanError

Action = Literal["frozen", "tuned", "replaced", "added", "low-rank", "fresh"]
Plain = float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value of a plan and where it came from.

    >>> Choice(value=4, because="four views fit the minutes", source="rule").value
    4
    """

    value: Plain | tuple[Plain, ...]
    because: str
    source: Literal["rule", "measured", "user"]
    rule: Plain | tuple[Plain, ...] | None = None  # what the rule would have said

    def __post_init__(self) -> None:
        if not self.because:
            raise PlanError(f"plan: value {self.value} has no reason; fill in `because`")
        if self.value == "auto":
            raise PlanError('plan: "auto" is not a value of a plan; write the value itself')


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """What happens to one part, and at which learning rate (None where nothing moves)."""

    name: str
    action: Choice
    rate: Choice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """How the closed-form head is chosen and how its accuracy is estimated."""

    candidates: Choice  # simplest first: ties go to the earlier
    penalties: Choice
    outer_folds: Choice
    permutations: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How the data is passed through the network."""

    engine: Choice
    batch: Choice
    seed: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """plan.toml: every choice, no "auto" left."""

    start: Choice
    strategy: Choice
    parts: tuple[PartPlan, ...]
    head: HeadPlan
    training: TrainingPlan
    format: int = 1
