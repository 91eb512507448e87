"""A run as a notebook shows it: a few lines of HTML with nothing in them that runs or loads."""

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
    """The verdict, how often the model is right, what was shipped, where the folder is."""
    rows = [(TITLES[summary.task], accuracy) for accuracy in _accuracy(summary)]
    rows += [("Shipped", _shipped(summary)), *_grave(summary), ("Folder", str(path))]
    cells = "".join(
        f"<tr><th {_LEFT}>{_safe(title)}</th><td {_RIGHT}>{_safe(text)}</td></tr>"
        for title, text in rows
    )
    ready, verdict = readiness_line(summary.readiness), sentence(summary.verdict.sentence)
    return (
        f'<div style="max-width:50em"><p><b>{_safe(ready)}</b></p><p>{_safe(verdict)}</p>'
        f"<table>{cells}</table></div>"
    )


def _accuracy(summary: Summary) -> list[str]:
    """As in the terminal; nothing where nothing was shipped."""
    if summary.shipped.strategy == "none":
        return []
    found = [estimate_text(summary.estimate)] if summary.estimate is not None else []
    if summary.test is not None:
        found.append(f"{score_text(summary.test)} on the test set")
    if probe := probe_text(summary):
        found.append(probe)
    return ["; ".join(found) + "."] if found else []


def _grave(summary: Summary) -> list[tuple[str, str]]:
    """Findings that make a figure wrong; the others stand in the report."""
    return [
        ("Found", sentence(one.sentence)) for one in summary.findings if one.kind in NEVER_FOLDED
    ]


def _shipped(summary: Summary) -> str:
    what = "nothing" if summary.shipped.strategy == "none" else summary.shipped.strategy
    return f"{what}: {summary.shipped.why.rstrip('.')}."


def _safe(text: str) -> str:
    return escape(printable(" ".join(text.split())))
