"""`warmstart check`: the verdict, its evidence, and problems in the data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from warmstart.cli.options import (
    ARCH,
    BASE,
    COMMON,
    DATA,
    READING,
    SEED,
    Call,
    Option,
    Verb,
    request_of,
)
from warmstart.cli.output import NO_SIGNAL, print_result, watched
from warmstart.events import follow
from warmstart.formatting import sentence
from warmstart.planning.verdict import hides_signal
from warmstart.records.data import Finding
from warmstart.records.summary import Checked
from warmstart.terminal.result_text import no_signal_text
from warmstart.terminal.text import column, command_rows, lead, named

ISSUES = "label_issues.csv"
FIT_OPTIONS = ("--base", "--arch", "--test", "--label", "--task", "--group", "--relabel")


def check_text(checked: Checked, words: Sequence[str]) -> str:
    """Verdict, evidence, findings and the next commands; `words` name the data in them."""
    verdict = checked.verdict
    evidence = [f"{one.name.replace('_', ' ')}: {one.meaning}" for one in verdict.evidence]
    findings = "\n".join(map(_finding, checked.findings)) or "No problems found in the data."
    groups = [
        no_signal_text(verdict, checked.data, checked.task or "classify")
        if verdict.kind == "no-signal"
        else column("Verdict", sentence(verdict.sentence)),
        column("Evidence", "\n".join(evidence)),
        column("Findings", findings),
    ]
    if not checked.label_issues.count:  # else they are among the findings
        groups.append(column("Labels", sentence(checked.label_issues.sentence)))
    return "\n\n".join([*groups, "\n".join(_next(checked, shlex.join(words)))])


def _finding(finding: Finding) -> str:
    items = named(finding.items)
    return f"{finding.text.removesuffix('.')}: {items}." if items else finding.text


def _next(checked: Checked, data: str) -> list[str]:
    rows, issues = [], checked.label_issues
    if checked.path is None and (issues.ranked or checked.findings):
        rows.append((f"warmstart check {data} --out problems", "write the lists to files"))
    if checked.path is not None and issues.ranked and issues.why != "outcome":
        table = f"{shlex.quote(checked.path)}/{ISSUES}"
        rows.append((f"warmstart fit {data} --relabel {table}", "once you have corrected it"))
    if hides_signal(checked.verdict.evidence):
        rows.append((f"warmstart fit {data} --strategy scratch", "train from scratch"))
    elif checked.verdict.kind != "no-signal":
        rows.append((f"warmstart fit {data}", "fine-tune on it"))
    lines = [] if checked.path is None else [f"{lead('Files')}{checked.path}"]
    return [*lines, *command_rows(rows)]


def check(call: Call) -> int:
    """Run `warmstart check`: progress on stderr, the result on stdout; 3 without a signal."""
    with watched(call) as show:
        from warmstart.run.fit import check as steps

        checked = follow(steps(request_of(call)), show)
    options = [word for pair in call.values.items() if pair[0] in FIT_OPTIONS for word in pair]
    options += [switch for switch in ("--fix", "--strict") if switch in call.switches]
    print_result(call, checked, lambda: check_text(checked, [call.places[0], *options]))
    return NO_SIGNAL if checked.verdict.kind == "no-signal" else 0


VERB = Verb(
    words="check DATA",
    needs=(DATA,),
    short="find problems in the data, predict what to expect",
    about="""Measures whether the base model suits the images and what is wrong with the data:
    near-duplicates, data leakage, label issues, spurious correlations. Trains nothing and
    changes none of your files.""",
    options=(
        BASE,
        ARCH,
        Option(
            "--budget B",
            "fast: one feature extraction; balanced (default) also runs controls",
            "fast balanced",
        ),
        Option("--test DATA", "test set to check against the training images"),
        *READING,
        Option("--out FOLDER", "folder for evidence, findings, label issues"),
        SEED,
        *COMMON,
    ),
    examples=(
        "warmstart check photos/",
        "warmstart check photos/ --out problems  # lists to correct",
        "warmstart fit photos/ --relabel problems/label_issues.csv",
    ),
    run=check,
)
