"""The examples, their splits and problems (data.json), label issues and off-topic examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.findings import Finding
from warmstart.records.inputs import ColumnRecord, Kind
from warmstart.records.plan import ColumnPlan
from warmstart.records.run_folder import ABSENT

Task = str  # the key of its target in `tasks.registry`
TaskOption = str  # a task, or "auto"
Split = Literal["train", "holdout", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled example; `id`, its path under the data root, is unique."""

    id: str
    label: str
    split: Split
    sha256: str  # of the encoded bytes; the key in the feature cache
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """data.json. Classes are those of the training set, sorted by name."""

    name: str
    kind: Kind
    task: Task
    layout: str  # in words: "folders", "train/test folders", "labels.csv", ...
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    problems: tuple[Finding, ...] = ()
    columns: tuple[ColumnRecord, ...] = ()  # of a table, from its training rows
    # For the plan: with reasons, and the columns left out.
    column_choices: tuple[ColumnPlan, ...] | None = field(default=None, metadata=ABSENT)
    near_duplicates: tuple[tuple[str, str], ...] = ()  # ids


# Why no number of label issues is stated; `not-significant`: the test found none.
Why = Literal[
    "outcome",
    "distribution-shift",
    "no-signal",
    "too-few",
    "weak-model",
    "not-significant",
    "rate-unclear",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIssue:
    """One label that a model trained without it contradicts.

    Multi-label: `label` and `suggested` are all labels that the example has and should have, with
    `|` between, and `concerns` those in question.
    """

    id: str
    label: str
    suggested: str
    probability: float | None  # of the suggested class; None: regression
    score: float  # label quality, 0 (worst) to 1: the probability of the label itself
    is_issue: bool
    concerns: tuple[str, ...] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIssues:
    """The label issues, worst first.

    `count` is 0 where the test found none and null where no number can be stated; `why` says
    which. `rate` is the share of all labels that are wrong, null unless there are issues.
    `ranked` holds every issue, and the labels that the model contradicts most.
    """

    judged: int  # labels predicted by a model trained without them
    disagreements: int  # of them, those that it contradicts
    count: int | None  # near-duplicates and groups counted once
    rate: Share | None
    why: Why | None
    sentence: str
    ranked: tuple[LabelIssue, ...] = ()

    @property
    def issues(self) -> tuple[LabelIssue, ...]:
        """The label issues themselves; none where no number is stated."""
        return tuple(one for one in self.ranked if one.is_issue)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffTopicExample:
    """One example; `score` is its distance from all others, in standard deviations of the log."""

    id: str
    label: str
    score: float
    is_off_topic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OffTopic:
    """Examples unlike those of every class, the farthest first.

    `count` is null where the examples are too few; `threshold` is the least off-topic score.
    """

    count: int | None  # near-duplicates and groups counted once
    threshold: float | None
    sentence: str
    ranked: tuple[OffTopicExample, ...] = ()

    @property
    def off_topic(self) -> tuple[OffTopicExample, ...]:
        """The off-topic examples themselves."""
        return tuple(one for one in self.ranked if one.is_off_topic)


SEPARATOR = "|"  # between the labels of one example


def split_labels(label: str) -> tuple[str, ...]:
    """The labels of an example, as joined in records; it may have none.

    >>> split_labels("cat|dog"), split_labels("")
    (('cat', 'dog'), ())
    """
    return tuple(label.split(SEPARATOR)) if label else ()
