"""What a finished run says, as the studio's page shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from warmstart.data.split import blocks
from warmstart.delivery.numbers import interval, sentence
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.first import would_use
from warmstart.delivery.report.steps import next_steps
from warmstart.delivery.studio.project import Project
from warmstart.delivery.studio.table import id_of, n_changed
from warmstart.delivery.studio.tools import Told
from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.evaluation.readiness import readiness_line
from warmstart.folder import read_json
from warmstart.joints.repeat import repeat_of
from warmstart.joints.report import read_facts
from warmstart.joints.saved import read_plan_if_there, read_said
from warmstart.records import DataRecord, Estimate, Plan, Scores
from warmstart.stats.intervals import Blocks, Values
from warmstart.stats.paired_hits import hits_difference
from warmstart.verbs.studio.beyond import told

Name = Callable[[str], str]  # from what a run calls a class to what it is called now


def result_of(project: Project, number: int) -> Told:
    """A finished run in words and numbers; classes are called as they are now.

    Raises: RunFolderError where its folder is damaged.
    """
    run = project.run(number)
    facts = read_facts(run)
    summary = facts.summary

    def now(label: str) -> str:
        return project.history.name_of(label, number)

    found: Told = {
        "number": number,
        "task": summary.task,
        "budget": facts.repeat.budget,
        "seconds": round(summary.seconds.get("total", 0.0), 1),
        "changed": n_changed(_labels_of(facts, now), project.board),
        "verdict": {"kind": summary.verdict.kind, "sentence": summary.verdict.sentence},
        "estimate": _estimate(summary.estimate) if facts.ships else None,
        "how": sentence(("nothing was shipped: " if not facts.ships else "") + summary.shipped.why),
        "guess": facts.guess[1] if facts.guess else None,
        "suspects": _suspects(facts, now),
        "classes": [
            {"name": now(one.label), "n": one.n, "recall": one.recall, "low": one.low,
             "high": one.high, "taken_for": one.taken_for and now(one.taken_for),
             "taken": one.taken}
            for one in (facts.classes if facts.ships else ())
        ],
        "findings": [
            {"kind": one.kind, "sentence": one.sentence,
             "ids": [id for id in map(id_of, one.items) if id in project.pictures]}
            for one in summary.findings
        ],
        "ships": facts.ships, "onnx": facts.ships, "report": "/api/take/report.html",
        "command": facts.repeat.command,
    }  # fmt: skip
    if summary.task != "classify":
        return {**found, **told(project, number, _before(project, number, facts), facts, now)}
    return {**found, **_of_classes(project, number, facts, now)}


def _of_classes(project: Project, number: int, facts: Facts, now: Name) -> Told:
    """What is said of classes alone."""
    test = facts.summary.test
    return {
        "headline": readiness_line(facts.summary.readiness), "use": would_use(facts),
        "right": "right",
        "test": _scores(test if isinstance(test, Scores) else None),
        "compared": compared(project, number, facts),
        "wrong": {
            id_of(said.id): {"label": now(said.label), "probability": said.probability}
            for said in facts.held if facts.ships and not said.is_right
        },
        "next": [{"title": step.title, "text": step.text} for step in next_steps(facts)],
    }  # fmt: skip


def _labels_of(facts: Facts, now: Name) -> dict[str, str]:
    """The pictures that a run was given, each with its label."""
    examples = facts.data.examples if facts.data is not None else ()
    return {id_of(one.id): now(one.label) for one in examples}


def compared(project: Project, number: int, facts: Facts) -> Told | None:
    """This run against the one before that learnt in the same way, by the labels of this one.

    On pictures that both held out; copies and groups count as one.
    """
    earlier = _before(project, number, facts)
    if earlier is None or facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    said = read_said(project.run(earlier) / "predictions.jsonl", record)
    then = {one.id: one for one in said if one.split == "oof"}
    both = [(then[one.id], one) for one in facts.held if one.id in then]
    if len(both) < 2:
        return None
    known = {example.id: example for example in facts.data.examples}
    groups = blocks([known[new.id] for _, new in both], facts.data.twins)
    name = project.history.name_of
    hits = [
        (name(old.label, earlier) == name(new.target, number), new.is_right) for old, new in both
    ]
    return {"number": earlier, **_difference(np.array(hits, dtype=float), groups)}


def _before(project: Project, number: int, facts: Facts) -> int | None:
    """The newest finished run before this one with the same budget and strategy."""
    mine = (facts.repeat.budget, _strategy(facts.plan))
    for earlier in reversed([n for n in project.numbers() if n < number]):
        run = project.run(earlier)
        if not (run / "DONE").exists():
            continue
        plan = read_plan_if_there(run / "plan.toml")
        if (repeat_of(run, run.name).budget, _strategy(plan)) == mine:
            return earlier
    return None


def _strategy(plan: Plan | None) -> str:
    """What the user asked for: `auto` where the depth was ours to choose."""
    if plan is None or plan.strategy.source != "user":
        return "auto"
    return str(plan.strategy.value)


def _difference(hits: Values, groups: Blocks) -> Mapping[str, str]:
    """Better, worse, or neither. Shapes: hits (n, 2) of the run before and this one."""
    gap = hits_difference(hits[:, 1], hits[:, 0], groups, MODEL_VARIANCE)
    low, high = 100 * gap.low, 100 * gap.high
    if gap.p >= 0.05:
        ends = f"{low:+.1f} to {high:+.1f} points".replace("-", "−")
        return {"kind": "same", "words": f"no real difference ({ends})"}
    kind, sign = ("better", 1) if gap.value > 0 else ("worse", -1)
    least, most = sorted((sign * low, sign * high))
    points = f"{100 * abs(gap.value):.1f} points ({least:.1f} to {most:.1f})"
    return {"kind": kind, "words": f"{kind} by {points}"}


def _suspects(facts: Facts, now: Name) -> list[Told]:
    found = facts.inspection.label_issues if facts.inspection is not None else None
    return [
        {"id": id_of(one.id), "label": now(one.label), "suggested": now(one.suggested),
         "believed": one.is_issue}
        for one in (found.ranked if found is not None else ())
    ]  # fmt: skip


def _estimate(found: Estimate | None) -> Told | None:
    return None if found is None else share(found.value, found.low, found.high, found.n)


def _scores(found: Scores | None) -> Told | None:
    return None if found is None else share(found.accuracy, found.low, found.high, found.n)


def share(value: float, low: float, high: float, n: int) -> Told:
    """A share with its interval, and both in words."""
    words = interval(value, low, high, n)
    return {"value": value, "low": low, "high": high, "n": n, "words": words}
