"""What `check` found: the verdict, what it rests on, what is wrong with the data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from warmstart.cli.output import NO_SIGNAL, dumps, watcher
from warmstart.cli.parse import Call
from warmstart.cli.parse import request_of
from warmstart.events import Event, follow
from warmstart.formatting import sentence
from warmstart.planning.verdict import hides
from warmstart.records.data import Finding
from warmstart.records.summary import Checked, Evidence
from warmstart.terminal.result_text import no_signal_text
from warmstart.terminal.text import WIDTH, column

SHOWN = 3  # items named of one finding
ISSUES = "label_issues.csv"


def check_text(found: Checked, words: Sequence[str]) -> str:
    """Verdict, evidence, findings, and what to type next; `words` name the data again."""
    is_silent = found.verdict.kind == "no-signal"
    groups = [
        no_signal_text(found.verdict, found.data, found.task or "classify")
        if is_silent
        else column("Verdict", sentence(found.verdict.sentence)),
        column("Because", "\n".join(map(_evidence, found.verdict.evidence))),
        column("Found", "\n".join(map(_finding, found.findings)) or "No problem in the data."),
        *([] if found.label_issues.count else [_labels(found)]),
        "\n".join(_next(found, shlex.join(words))),
    ]
    return "\n\n".join(groups)


def _labels(found: Checked) -> str:
    """What is said where there is no finding of them."""
    return column("Labels", sentence(found.label_issues.sentence))


def _evidence(evidence: Evidence) -> str:
    return f"{evidence.name.replace('_', ' ')}: {evidence.meaning}"


def _finding(finding: Finding) -> str:
    names = ", ".join(finding.items[:SHOWN])
    more = f" and {len(finding.items) - SHOWN:,} more" if len(finding.items) > SHOWN else ""
    return sentence(finding.sentence) + (f" ({names}{more})" if names else "")


def _next(found: Checked, data: str) -> list[str]:
    rows = []
    if found.path is None and (found.label_issues.ranked or found.findings):
        rows.append((f"warmstart check {data} --out problems", "writes the lists down"))
    is_outcome = found.label_issues.why == "outcome"  # nothing there is to be corrected
    if found.path is not None and found.label_issues.ranked and not is_outcome:
        table = f"{shlex.quote(found.path)}/{ISSUES}"
        rows.append((f"warmstart fit {data} --relabel {table}", "once you have corrected it"))
    if hides(found.verdict.evidence):
        rows.append((f"warmstart fit {data} --strategy scratch", "learn it from nothing"))
    elif found.verdict.kind != "no-signal":
        rows.append((f"warmstart fit {data}", "learn from it"))
    left = max((len(command) for command, _ in rows), default=0) + 2
    lines = [f"Files    {found.path}"] if found.path is not None else []
    for number, (command, why) in enumerate(rows):
        line = f"{'Next' if not number else '':<9}{command:<{left}}# {why}"
        lines.append(line if len(line) <= WIDTH else line.split("  # ")[0].rstrip())
    return lines


KEPT = (
    "--base",
    "--arch",
    "--test",
    "--label",
    "--task",
    "--group",
    "--relabel",
)  # for `fit` as well


def check(call: Call) -> int:
    """`warmstart check`: problems and verdict, progress on stderr; 3 without a signal."""
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.check import check as steps

        found = follow(steps(request_of(call)), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        same = [word for pair in call.values.items() if pair[0] in KEPT for word in pair]
        same += [switch for switch in ("--fix", "--strict") if switch in call.switches]
        print(check_text(found, [call.places[0], *same]))
    return NO_SIGNAL if found.verdict.kind == "no-signal" else 0
