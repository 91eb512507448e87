"""What a finished run says, as the studio's page shows it."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import numpy as np

from warmstart.delivery.numbers import interval
from warmstart.delivery.report.facts import Facts, Said
from warmstart.delivery.report.first import headline, would_use
from warmstart.delivery.report.steps import next_steps
from warmstart.delivery.studio.project import Project, changed_since
from warmstart.delivery.studio.tools import Told
from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.joints.report import read_facts
from warmstart.records import Estimate, Scores
from warmstart.stats.paired_hits import hits_difference


def result_of(project: Project, number: int) -> Told:
    """A finished run in words and numbers. Raises: RunFolderError where its folder is damaged."""
    run = project.run(number)
    facts = read_facts(run)
    summary = facts.summary
    return {
        "number": number,
        "budget": facts.repeat.budget,
        "seconds": round(summary.seconds.get("total", 0.0), 1),
        "changed": changed_since(labels_of(project, number), project.board),
        "headline": headline(facts),
        "verdict": {"kind": summary.verdict.kind, "sentence": summary.verdict.sentence},
        "estimate": _estimate(summary.estimate),
        "test": _scores(summary.test),
        "guess": facts.guess[1] if facts.guess else None,
        "use": would_use(facts),
        "compared": compared(project, number, facts),
        "wrong": {
            project.id_of(said.id): {"label": said.label, "probability": said.probability}
            for said in facts.said if not said.is_right
        },
        "suspects": _suspects(project, facts),
        "classes": [
            {"name": one.label, "n": one.n, "recall": one.recall, "low": one.low,
             "high": one.high, "taken_for": one.taken_for, "taken": one.taken}
            for one in facts.classes
        ],
        "findings": [
            {"kind": one.kind, "sentence": one.sentence,
             "ids": [id for id in map(project.id_of, one.items) if id in project.pictures]}
            for one in summary.findings
        ],
        "next": [{"title": step.title, "text": step.text} for step in next_steps(facts)],
        "ships": facts.ships, "onnx": facts.ships, "report": "/api/take/report.html",
        "command": facts.repeat.command,
    }  # fmt: skip


def labels_of(project: Project, number: int) -> list[tuple[str, str]]:
    """The pictures that a run learnt from, each with its label then."""
    path = project.path / f"board-{number}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return [(project.id_of(row["path"]), row["label"]) for row in csv.DictReader(file)]


def compared(project: Project, number: int, facts: Facts) -> Told | None:
    """This run against the one before, on pictures that both held out, by the labels of now."""
    earlier = [n for n in project.numbers() if n < number and (project.run(n) / "DONE").exists()]
    if not earlier:
        return None
    before = {said.id: said for said in read_facts(project.run(earlier[-1])).held}
    both = [(before[said.id], said) for said in facts.held if said.id in before]
    if len(both) < 2:
        return None
    return {"number": earlier[-1], **_difference(both)}


def _difference(both: list[tuple[Said, Said]]) -> Mapping[str, str]:
    now = np.array([new.label == new.target for _, new in both], dtype=float)
    then = np.array([old.label == new.target for old, new in both], dtype=float)
    gap = hits_difference(now, then, np.arange(len(both)), MODEL_VARIANCE)
    low, high = 100 * gap.low, 100 * gap.high
    if gap.p >= 0.05:
        ends = f"{low:+.1f} to {high:+.1f} points".replace("-", "−")
        return {"kind": "same", "words": f"no real difference ({ends})"}
    kind, sign = ("better", 1) if gap.value > 0 else ("worse", -1)
    least, most = sorted((sign * low, sign * high))
    points = f"{100 * abs(gap.value):.1f} points ({least:.1f} to {most:.1f})"
    return {"kind": kind, "words": f"{kind} by {points}"}


def _suspects(project: Project, facts: Facts) -> list[Told]:
    suspects = facts.inspection.suspects if facts.inspection is not None else ()
    return [
        {"id": project.id_of(one.id), "label": one.label, "suggested": one.suggested,
         "believed": one.believed}
        for one in suspects
    ]  # fmt: skip


def _estimate(found: Estimate | None) -> Told | None:
    if found is None:
        return None
    words = interval(found.value, found.low, found.high, found.n)
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n,
            "words": words}  # fmt: skip


def _scores(found: Scores | None) -> Told | None:
    if found is None:
        return None
    words = interval(found.accuracy, found.low, found.high, found.n)
    return {"value": found.accuracy, "low": found.low, "high": found.high, "n": found.n,
            "words": words}  # fmt: skip
