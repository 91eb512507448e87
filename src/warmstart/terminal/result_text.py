"""The result of `fit` as text for someone who has never trained a network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import duration, percents, sentence, size
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.findings import Finding
from warmstart.records.inputs import DEFAULT_KIND
from warmstart.records.summary import DataCounts, Estimate, Evidence, Summary, Verdict
from warmstart.tasks.registry import TASKS, test_estimate
from warmstart.terminal.text import column, command_rows, wrap

if TYPE_CHECKING:
    from warmstart.tasks.task import Target

MOST_FINDINGS = 5  # listed here; the others are in the report
MOST_FILES = 3  # named of those that could not be read


def result_text(summary: Summary, run_path: Path, sample_path: str | None) -> str:
    """Readiness, accuracy, verdict, weakest class, findings, model, and the next commands.

    `sample_path` is an existing image for the example command; without one, the text says how to
    fit your own images.
    """
    ships = summary.shipped.strategy != "none"
    groups = [wrap(readiness_line(summary.readiness))]
    is_beaten = any(one.is_better for one in summary.baselines)
    if summary.verdict.kind == "no-signal" and not ships and is_beaten:
        groups.append(wrap(summary.verdict.sentence))  # it names the method that finds a signal
    elif summary.verdict.kind == "no-signal":
        groups.append(no_signal_text(summary.verdict, summary.data, TASKS[summary.task]))
    if ships:
        groups.append("\n".join(_accuracy(summary)))
    lines = [*_verdict(summary), *_weakest(summary), *_findings(summary, run_path)]
    groups.append("\n".join([*lines, _model(summary, run_path)]))
    groups.append("\n".join(_next(summary, run_path, sample_path)))
    return "\n\n".join(group for group in groups if group)


def _verdict(summary: Summary) -> list[str]:
    if summary.verdict.kind == "no-signal":
        return []
    return [column("Verdict", sentence(summary.verdict.sentence))]


def _weakest(summary: Summary) -> list[str]:
    if (weakest := summary.weakest) is None:
        return []
    other = f", most often taken for {weakest.confused_with}" if weakest.confused_with else ""
    return [column("Weakest", f"{weakest.label}: recall {weakest.interval}{other}.")]


def _model(summary: Summary, run_path: Path) -> str:
    """What shipped and why, its size, and how long the run took."""
    ships, seconds = summary.shipped.strategy != "none", summary.seconds.get("total")
    text = sentence(summary.shipped.why if ships else f"nothing was shipped: {summary.shipped.why}")
    files = [file for file in (run_path / "model").glob("*") if file.is_file()]
    facts = [size(sum(file.stat().st_size for file in files))] if ships and files else []
    facts += [] if seconds is None else [f"{duration(seconds)} in all"]
    return column("Model", " · ".join([text.removesuffix("."), *facts]))


def no_signal_text(verdict: Verdict, data: DataCounts, target: Target) -> str:
    """Why nothing was trained, and what might help."""
    evidence = next((e for e in verdict.evidence if e.name == "permutation_test"), None)
    if not target.has_classes:
        return "\n".join([wrap(verdict.sentence), wrap(evidence.meaning if evidence else "")])
    pictures = MODALITIES[data.kind].nouns.pictures
    reason = _no_signal(evidence, data.classes, pictures) if evidence else verdict.sentence
    help_text = (
        f"What might help: check how the labels were made, or use {pictures} in which a person "
        "can tell the classes apart."
    )
    return "\n".join([wrap(reason), wrap(help_text)])


def _no_signal(evidence: Evidence, n_classes: int, pictures: str) -> str:
    if evidence.value is None or evidence.low is None or evidence.high is None:
        return "No signal found. " + evidence.meaning
    right, low, high = percents(evidence.value, evidence.low, evidence.high, n=evidence.n)
    text = (
        f"No signal found. With {evidence.n:,} {pictures} in {n_classes} classes the best model "
        f"is right {right} % of the time; with shuffled labels it is right {low}–{high} %."
    )
    effect = evidence.details.get("mde")
    if isinstance(effect, float):
        text += f" An effect of {max(100 * effect, 2):.0f} points or more would have been detected."
    return text + " Training longer will not help."


def _accuracy(summary: Summary) -> list[str]:
    """The shipped model, cross-validated and on the test set; below it the linear probe."""
    claims = claims_of(summary)
    if head := summary.own_head:
        claims.append(f"the base model's own head, before a new one was fitted: {head.interval}")
    lines = [column(TASKS[summary.task].words.title, ";\n".join(claims) + ".")] if claims else []
    return [*lines, *(column("Baseline", one.sentence) for one in summary.baselines)]


def claims_of(summary: Summary) -> list[str]:
    """The scores of the shipped model: cross-validated, on the test set, beside the probe's."""
    probe, gain, claims = summary.linear_probe, summary.fine_tuning_gain, []
    if summary.estimate is not None:
        claims.append(estimate_text(summary.estimate))
    if summary.test is not None:
        claims.append(f"{test_estimate(summary.test).interval} on the test set")
    is_same = summary.shipped.strategy in ("head", "none")  # the probe itself ships
    if probe is not None and gain is not None and not is_same:
        claims.append(f"linear probe {probe.interval}")
    return claims


def estimate_text(estimate: Estimate) -> str:
    """The estimated score with its interval and how it was measured."""
    if estimate.method == "holdout":
        return f"{estimate.interval} on {count(estimate.n, 'held-out example')}"
    return f"{estimate.interval}, cross-validated"


def _findings(summary: Summary, run_path: Path) -> list[str]:
    grave = [one for one in summary.findings if not one.about.is_folded]
    others = [one for one in summary.findings if one.about.is_folded]
    most = max(MOST_FINDINGS - len(grave), 0)
    lines = [_finding(finding) for finding in (*grave, *others[:most])]
    if len(others) > most:
        lines.append(f"{len(others) - most} more in {run_path / 'report.html'}")
    return [column("Findings", "\n".join(lines))] if lines else []


def _finding(finding: Finding) -> str:
    """The sentence; of unreadable files also the first ones with the reason."""
    text, items = finding.text, finding.items
    if finding.kind != "unreadable" or not items:
        return text
    more = f"; {len(items) - MOST_FILES} more in the report" if len(items) > MOST_FILES else ""
    return f"{text.removesuffix('.')}: {'; '.join(items[:MOST_FILES])}{more}."


def _next(summary: Summary, run_path: Path, sample_path: str | None) -> list[str]:
    run, kind = shlex.quote(str(run_path)), summary.data.kind
    nouns = MODALITIES[kind].nouns
    rows = [(f"warmstart report {run} --open", "see its mistakes")]
    if summary.shipped.strategy != "none":
        example = shlex.quote(sample_path) if sample_path else nouns.typed
        purpose = TASKS[summary.task].words.ask.format(an=nouns.an)
        test = f"test it on other {nouns.many}"
        rows.append((f"warmstart predict {run} {example}", purpose))
        # Folders are named after classes; any other label stands in a table.
        labelled = nouns.labelled if TASKS[summary.task].has_classes else "more.csv"
        rows.append((f"warmstart evaluate {run} {labelled}", test))
        if MODALITIES[kind].form != "arrays":
            rows.append((f"warmstart serve {run}", "try it in the browser"))
    if sample_path is None and kind == DEFAULT_KIND and TASKS[summary.task].has_classes:
        rows.append(("warmstart fit photos/", "photos/<class>/*.jpg"))
    return command_rows(rows)
