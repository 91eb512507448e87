"""A run in a notebook: a few lines of HTML without scripts or external files."""

from __future__ import annotations

from html import escape
from pathlib import Path

from warmstart.evaluation.readiness import NEVER_FOLDED, readiness_line
from warmstart.formatting import printable, sentence
from warmstart.records.summary import Summary
from warmstart.terminal.result_text import TITLES, estimate_text, probe_text, score_text

_LEFT = 'style="text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:nowrap"'
_RIGHT = 'style="text-align:left;vertical-align:top;padding:2px 0"'


def run_html(summary: Summary, path: Path) -> str:
    """Readiness, verdict, accuracy, grave findings and folder of a run."""
    is_shipped = summary.shipped.strategy != "none"
    shipped = summary.shipped.strategy if is_shipped else "nothing"
    scores = []
    if is_shipped and summary.estimate is not None:
        scores.append(estimate_text(summary.estimate))
    if is_shipped and summary.test is not None:
        scores.append(f"{score_text(summary.test)} on the test set")
    if is_shipped and (probe := probe_text(summary)):
        scores.append(probe)
    rows = [(TITLES[summary.task], "; ".join(scores) + ".")] if scores else []
    rows.append(("Shipped", f"{shipped}: {summary.shipped.why.rstrip('.')}."))
    # Findings that make a figure wrong; the others are in the report.
    grave = [one for one in summary.findings if one.kind in NEVER_FOLDED]
    rows += [*(("Found", sentence(one.sentence)) for one in grave), ("Folder", str(path))]
    cells = "".join(
        f"<tr><th {_LEFT}>{_safe(title)}</th><td {_RIGHT}>{_safe(text)}</td></tr>"
        for title, text in rows
    )
    ready, verdict = readiness_line(summary.readiness), sentence(summary.verdict.sentence)
    return (
        f'<div style="max-width:50em"><p><b>{_safe(ready)}</b></p><p>{_safe(verdict)}</p>'
        f"<table>{cells}</table></div>"
    )


def _safe(text: str) -> str:
    return escape(printable(" ".join(text.split())))
