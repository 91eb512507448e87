"""What was read: examples, splits, problems (data.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.absent import ABSENT
from warmstart.records.columns import ColumnRecord
from warmstart.records.inputs import Kind
from warmstart.records.plan import ColumnPlan

Task = Literal["classify", "multilabel", "regress"]
Split = Literal["train", "holdout", "test"]
FindingKind = Literal[
    "unreadable", "duplicate", "conflict", "leak", "shortcut", "label-issue", "off-topic",
    "truncated", "windows", "language", "columns", "tiny-class", "size-cue", "preprocessing",
    "drift", "group-proposed",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled example. `id` is unique in its data set: the path under the data root."""

    id: str
    label: str
    split: Split
    sha256: str  # of the encoded bytes: what the feature store is addressed by
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem found in the data: a sentence for people, items for machines."""

    kind: FindingKind
    sentence: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """data.json: what was read. Classes come from the training part alone, sorted by name."""

    name: str
    kind: Kind
    task: Task
    layout: str  # in words: "folders", "train/test folders", "labels.csv", ...
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    problems: tuple[Finding, ...] = ()
    columns: tuple[ColumnRecord, ...] = ()  # of a table of plain columns, as its training rows say
    # The same with the reasons, and those that are left out; for the plan.
    column_choices: tuple[ColumnPlan, ...] | None = field(default=None, metadata=ABSENT)
    twins: tuple[tuple[str, str], ...] = ()  # ids of near copies: re-encoded, mirrored, cropped …
