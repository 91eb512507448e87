"""What `fit` found, for someone who never trained a network."""

from __future__ import annotations

import shlex
from pathlib import Path

from warmstart.evaluation.readiness import NEVER_FOLDED, readiness_line
from warmstart.formatting import count, interval, percents, sentence
from warmstart.nouns import nouns_of
from warmstart.records.data import Finding, Task
from warmstart.records.summary import DataCounts, Estimate, Evidence, Summary, TestScores, Verdict
from warmstart.tasks.words import TASK_WORDS, score_of
from warmstart.terminal.text import WIDTH, column, wrap

TITLES: dict[Task, str] = {"classify": "Accuracy", "multilabel": "mAP", "regress": "R²"}
SERVED = ("image", "audio", "text", "table")  # kinds that `serve` answers for
SHOWN = 5  # findings listed; the rest stand in the report
NAMED = 3  # files that could not be read, likewise


def result_text(summary: Summary, run_path: Path, sample_path: str | None) -> str:
    """The result of a run: how often it is right, why, and what to type next.

    `sample_path` is an image that exists, for the command that names it; None if there is
    none, and then the text tells how to fit images of one's own.
    """
    ships = summary.shipped.strategy != "none"
    groups = [wrap(readiness_line(summary.readiness))]
    if summary.verdict.kind == "no-signal" and not ships and any_better(summary):
        groups.append(wrap(summary.verdict.sentence))  # it says which other method finds a signal
    elif summary.verdict.kind == "no-signal":
        groups.append(no_signal_text(summary.verdict, summary.data, summary.task))
    if ships:
        groups.append("\n".join(_accuracy(summary)))
    groups.append("\n".join([*_decision(summary), *_findings(summary, run_path)]))
    kind = summary.data.kind or "image"
    following = _next(run_path, sample_path, ships, kind, summary.task)
    groups.append("\n".join([*_places(run_path, ships), *following]))
    return "\n\n".join(block for block in groups if block)


def any_better(summary: Summary) -> bool:
    """Whether another method is better beyond noise."""
    return any(one.is_better for one in summary.baselines)


def no_signal_text(verdict: Verdict, data: DataCounts, task: Task = "classify") -> str:
    """Why training was stopped, and what might help."""
    evidence = next((e for e in verdict.evidence if e.name == "permutation_test"), None)
    pictures = nouns_of(data.kind).pictures
    found = _signal(evidence, data.classes, pictures) if evidence else verdict.sentence
    if task != "classify":
        return "\n".join([wrap(verdict.sentence), wrap(evidence.meaning if evidence else "")])
    might = (
        f"What might help: check how the labels were made, or use {pictures} in which a person "
        "can tell the classes apart."
    )
    return "\n".join([wrap(found), wrap(might)])


def _signal(evidence: Evidence, n_classes: int, pictures: str) -> str:
    if evidence.value is None or evidence.low is None or evidence.high is None:
        return "No signal found. " + evidence.meaning
    right, low, high = percents(evidence.value, evidence.low, evidence.high, n=evidence.n)
    text = (
        f"No signal found. With {evidence.n:,} {pictures} in {n_classes} classes the network's "
        f"best guess is right {right} % of the time; with shuffled labels it is right {low} to "
        f"{high} %."
    )
    effect = evidence.details.get("mde")
    if isinstance(effect, float):
        text += f" An effect of {max(100 * effect, 2):.0f} points or more would have been seen."
    return text + " Training longer will not help."


def _accuracy(summary: Summary) -> list[str]:
    """What ships, in cross-validation and on the test set; below it the linear probe."""
    parts = []
    if summary.estimate is not None:
        parts.append(estimate_text(summary.estimate))
    if summary.test is not None:
        parts.append(f"{score_text(summary.test)} on the test set")
    if probe := probe_text(summary):
        parts.append(probe)
    if summary.own_head is not None:
        own = summary.own_head
        shown = interval(own.value, own.low, own.high, own.n)
        parts.append(f"the base model's own head, before a new one was fitted: {shown}")
    lines = [column(TITLES[summary.task], ";\n".join(parts) + ".")] if parts else []
    return [*lines, *(column("Beside", one.sentence) for one in summary.baselines)]


def probe_text(summary: Summary) -> str:
    """The linear probe on the same folds, where something else ships; else nothing."""
    probe, gain = summary.linear_probe, summary.fine_tuning_gain
    if probe is None or gain is None or summary.shipped.strategy in ("head", "none"):
        return ""
    return f"linear probe {interval(probe.value, probe.low, probe.high, probe.n)}"


def estimate_text(estimate: Estimate) -> str:
    """How often it is right, with its interval and how that is known."""
    shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
    if estimate.method == "holdout":
        return f"{shown} on {count(estimate.n, 'example')} held out"
    return f"{shown}, cross-validated"


def score_text(scores: TestScores) -> str:
    """The same for what was looked at once."""
    return interval(score_of(scores), scores.low, scores.high, scores.n)


def _decision(summary: Summary) -> list[str]:
    shipped = summary.shipped
    lines = []
    if summary.verdict.kind != "no-signal":
        lines.append(column("Verdict", sentence(summary.verdict.sentence)))
    lead = "nothing was shipped: " if shipped.strategy == "none" else ""
    lines.append(column("Decided", sentence(lead + shipped.why)))
    return lines


def _findings(summary: Summary, run_path: Path) -> list[str]:
    grave = [one for one in summary.findings if one.kind in NEVER_FOLDED]
    others = [one for one in summary.findings if one.kind not in NEVER_FOLDED]
    width = max(SHOWN - len(grave), 0)
    shown = [_finding(finding) for finding in (*grave, *others[:width])]
    if len(others) > width:
        shown.append(f"{len(others) - width} more in {run_path / 'report.html'}")
    return [column("Found", "\n".join(shown))] if shown else []


def _finding(finding: Finding) -> str:
    """Its sentence; of what cannot be read the first names, with why."""
    text, items = sentence(finding.sentence), finding.items
    if finding.kind != "unreadable" or not items:
        return text
    more = f"; {len(items) - NAMED} more in the report" if len(items) > NAMED else ""
    return f"{text.removesuffix('.')}: {'; '.join(items[:NAMED])}{more}."


def _places(run_path: Path, ships: bool) -> list[str]:
    lines = [f"Model    {run_path / 'model'}"] if ships else []
    report = shlex.quote(str(run_path / "report.html"))
    return [*lines, f"Report   {report}", f"Card     {run_path / 'README.md'}"]


def _next(run_path: Path, sample_path: str | None, ships: bool, kind: str, task: Task) -> list[str]:
    run, nouns = shlex.quote(str(run_path)), nouns_of(kind)
    rows = []
    if ships:
        one = shlex.quote(sample_path) if sample_path else nouns.typed
        ask, other = TASK_WORDS[task].ask.format(an=nouns.an), f"measure it on other {nouns.many}"
        rows.append((f"warmstart predict {run} {one}", ask))
        rows.append((f"warmstart evaluate {run} {nouns.labelled}", other))
        if kind in SERVED:
            rows.append((f"warmstart serve {run}", "try it in the browser"))
    if sample_path is None and kind == "image" and task == "classify":
        rows.append(("warmstart fit photos/", "photos/<class>/*.jpg"))
    if not rows:
        return []
    left = max(len(command) for command, _ in rows) + 2
    lines: list[str] = []
    for command, why in rows:
        line = f"{'' if lines else 'Next':<9}{command:<{left}}# {why}"
        lines.append(line if len(line) <= WIDTH else line.split("  # ")[0].rstrip())
    return lines
