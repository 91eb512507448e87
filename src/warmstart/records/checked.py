"""What `warmstart check` found (`check --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.absent import ABSENT
from warmstart.records.data import Finding, Task
from warmstart.records.issues import LabelIssues, OffTopic
from warmstart.records.summary import DataCounts, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Verdict, sizes, findings, label issues and off-topic examples, the worst first.

    `path` is the folder with the files, None where none were asked for.
    """

    verdict: Verdict
    data: DataCounts
    findings: tuple[Finding, ...]
    label_issues: LabelIssues
    seconds: dict[str, float]
    path: str | None
    off_topic: OffTopic | None = field(default=None, metadata=ABSENT)  # None: not looked for
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
