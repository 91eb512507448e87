"""Label issues and off-topic examples (inspection.json, `check --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.absent import ABSENT

# Why no number of label issues is stated. `not-significant`: it was tested, and there are none.
Why = Literal[
    "outcome", "distribution-shift", "no-signal", "too-few", "weak-model", "not-significant",
    "rate-unclear",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIssue:
    """One label that a model without it contradicts; `is_issue` where it is called wrong.

    Of several labels `label` and `suggested` are all that the example has and should have,
    with `|` between, and `concerns` those of them that are in question.
    """

    id: str
    label: str
    suggested: str
    probability: float | None  # of the suggested class; None: it is a number
    score: float  # label quality, 0 (worst) to 1: the probability of the label itself
    is_issue: bool
    concerns: tuple[str, ...] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIssues:
    """What is said of the labels, the same on every surface, and a list of them, worst first.

    `count` is 0 where the test found none and null where no number can be stated; `why` says
    which. `rate` is the share of all labels that are wrong, null unless there are issues.
    `ranked` holds every issue, and the labels that the model contradicts most.
    """

    judged: int  # labels that a model without them was asked about
    disagreements: int  # of them, those that it contradicts
    count: int | None  # near copies and groups counted once
    rate: Share | None
    why: Why | None
    sentence: str
    ranked: tuple[LabelIssue, ...] = ()

    @property
    def issues(self) -> tuple[LabelIssue, ...]:
        """The labels that are called wrong: none where no number is stated."""
        return tuple(one for one in self.ranked if one.is_issue)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffTopicExample:
    """One example and how far it is from all others, in standard deviations of the log."""

    id: str
    label: str
    score: float
    is_off_topic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OffTopic:
    """Examples unlike those of every class, the farthest first.

    `count` is null where the examples are too few to say what is usual; `threshold` is the score
    from which an example is off-topic.
    """

    count: int | None  # near copies and groups counted once
    threshold: float | None
    sentence: str
    ranked: tuple[OffTopicExample, ...] = ()

    @property
    def found(self) -> tuple[OffTopicExample, ...]:
        """Those that are off-topic."""
        return tuple(one for one in self.ranked if one.is_off_topic)
