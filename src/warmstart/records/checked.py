"""What `warmstart check` found (`check --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.absent import ABSENT
from warmstart.records.data import Finding, Task
from warmstart.records.summary import DataCounts, SuspectLabel, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Verdict, sizes, findings and contradicted labels, the worst first.

    `path` is the folder with the files, None where none were asked for.
    """

    verdict: Verdict
    data: DataCounts
    findings: tuple[Finding, ...]
    suspects: tuple[SuspectLabel, ...]
    seconds: dict[str, float]
    path: str | None
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
