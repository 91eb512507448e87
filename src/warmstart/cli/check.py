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
from warmstart.modalities.registry import MODALITIES
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.summary import Checked, Evidence
from warmstart.tasks.registry import task_or_default
from warmstart.terminal.result_text import no_signal_text
from warmstart.terminal.text import column, command_rows, lead, named

ISSUES = "label_issues.csv"
LEVELS = ("FAIL", "WARN", "PASS", "INFO")  # in the order in which they are listed
FIT_OPTIONS = ("--base", "--arch", "--test", "--label", "--task", "--group", "--relabel")


def check_text(checked: Checked, words: Sequence[str]) -> str:
    """Verdict, each check with PASS, WARN, FAIL or INFO, and the next commands.

    `words` name the data in the commands.
    """
    verdict = checked.verdict
    is_absent = verdict.kind == "no-signal"
    headline = column("Verdict", sentence(verdict.sentence))
    if is_absent:
        headline = no_signal_text(verdict, checked.data, task_or_default(checked.task))
    rows = [
        (_level(one, checked), f"{one.name.replace('_', ' ')}: {one.meaning}")
        for one in verdict.evidence
    ]
    rows += [(_grade(one), _finding(one)) for one in checked.findings]
    issues = checked.label_issues
    if not issues.count:  # else they are among the findings
        rows.append(
            ("INFO" if issues.count is None else "PASS", f"label issues: {issues.sentence}")
        )
    if not checked.findings:
        rows.append(("PASS", "findings: no problems found in the data."))
    rows.sort(key=lambda row: LEVELS.index(row[0]))
    lines = [column(level, text) for level, text in rows]
    return "\n\n".join([headline, "\n".join(lines), "\n".join(_next(checked, shlex.join(words)))])


def _level(evidence: Evidence, checked: Checked) -> str:
    """PASS, WARN or FAIL of what a model needs; INFO of what only describes."""
    if evidence.name == "permutation_test":
        return "FAIL" if checked.verdict.kind == "no-signal" else "PASS"
    if evidence.name == "transfer_gain" and evidence.low is not None:
        is_harmful = checked.verdict.kind == "no-transfer"
        return "FAIL" if is_harmful else "PASS" if evidence.low > 0 else "WARN"
    if evidence.name == "preprocessing":
        has_warning = any(one.kind == "preprocessing" for one in checked.findings)
        return "WARN" if has_warning else "PASS"
    return "INFO"


def _grade(finding: Finding) -> str:
    return "WARN" if FINDINGS[finding.kind].is_folded else "FAIL"


def _finding(finding: Finding) -> str:
    """The code, the kind and the sentence, with the first items."""
    items = named(finding.items)
    text = sentence(finding.sentence)
    text = f"{text.removesuffix('.')}: {items}." if items else text
    return f"{finding.code} {finding.kind.replace('-', ' ')}: {text}"


def _next(checked: Checked, data: str) -> list[str]:
    from warmstart.planning.verdict import hides_signal

    rows, issues = [], checked.label_issues
    if checked.path is None and (issues.ranked or checked.findings):
        rows.append((f"warmstart check {data} --out problems", "write the lists to files"))
    if checked.path is not None and issues.ranked and issues.why != "outcome":
        table = f"{shlex.quote(checked.path)}/{ISSUES}"
        rows.append((f"warmstart fit {data} --relabel {table}", "once you have corrected it"))
    is_foreign = checked.verdict.kind == "no-transfer"
    if is_foreign and MODALITIES[checked.data.kind].has_base_models:
        rows.append((f"warmstart rank {data}", "look for a base model that suits"))
    if is_foreign or hides_signal(checked.verdict.evidence):
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
