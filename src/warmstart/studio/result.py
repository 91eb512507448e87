"""A finished run for the studio's page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.splits import group_numbers
from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import interval, sentence
from warmstart.records.answer import NumberCalibration
from warmstart.records.data import DataRecord, Task
from warmstart.records.plan import Plan
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Estimate, Scores, TestScores
from warmstart.reporting import other_tasks
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.first_screen import would_use
from warmstart.reporting.next_steps import next_steps
from warmstart.reporting.report import read_answers, read_facts, read_plan_if_there, repeat_of
from warmstart.run.compare import credit_of
from warmstart.stats.intervals import Groups, Values
from warmstart.stats.paired import difference, hits_difference
from warmstart.studio.board import label_words
from warmstart.studio.project import Project, id_of, n_changed
from warmstart.studio.work import Json
from warmstart.tasks.regress import as_text
from warmstart.tasks.words import TASK_WORDS, other_metrics, test_estimate

NameOf = Callable[[str], str]  # from a class name of the run to its present name
Line = Mapping[str, Any]
MOST = 400  # points of the plot of predicted against true numbers
_SHARE = 0.1  # of the numbers, those with the largest errors, where there is no interval


# ---- Runs with several labels, or of numbers.


def other_task_result(
    project: Project, number: int, earlier: int | None, facts: ReportFacts, now: NameOf
) -> Json:
    """What differs from runs of classes; `earlier` is the run to compare with."""
    run = project.run(number)
    lines = [*held_out_lines(run)]
    test = facts.summary.test
    return {
        "headline": readiness_line(facts.summary.readiness),
        "use": other_tasks.would_use(facts),
        "right": TASK_WORDS[facts.summary.task].right,
        "test": None if test is None else _share(test),
        "wrong": _WRONG[facts.summary.task](lines, facts, now),
        "labels": [
            {
                "name": now(one.label),
                "n": one.n,
                "precision": one.precision,
                "recall": one.recall,
                "average": one.average_precision,
            }
            for one in facts.label_scores
        ],
        "numbers": [list(pair) for pair in facts.numbers[:MOST]],
        "half": _half(facts),
        "compared": None if earlier is None else _compared(project, number, earlier, facts, lines),
        "next": [
            {"title": step.title, "text": step.text} for step in other_tasks.next_steps(facts)
        ],
    }


def _share(test: TestScores) -> Json:
    found = test_estimate(test)
    words = interval(found.value, found.low, found.high, found.n)
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "words": words,
        "more": other_metrics(test),
    }


def _half(facts: ReportFacts) -> float | None:
    calibration = facts.calibration
    return calibration.half_width if isinstance(calibration, NumberCalibration) else None


def held_out_lines(run: Path) -> Iterator[Line]:
    """The out-of-fold lines of predictions.jsonl."""
    with open(run / "predictions.jsonl", encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            if line["split"] == "oof":
                yield line


def _wrong_sets(lines: list[Line], facts: ReportFacts, now: NameOf) -> Json:
    """Pictures with a wrong label."""
    wrong = {}
    for line in lines:
        target, label = now(line["target"]), now(line["label"])
        if target != label:
            has = set(line["target"].split("|"))
            off = max(1 - p if name in has else p for name, p in line["scores"].items())
            wrong[id_of(line["id"])] = {
                "label": label,
                "given": target,
                "off": round(off, 4),
                "words": f"predicted: {label_words(label)}",
            }
    return wrong


def _wrong_numbers(lines: list[Line], facts: ReportFacts, now: NameOf) -> Json:
    """Numbers outside their predicted interval, or those with the largest errors."""
    off = np.array([abs(float(line["value"]) - float(line["target"])) for line in lines])
    half = _half(facts)
    least = half if half is not None else float(np.quantile(off, 1 - _SHARE)) if len(off) else 0.0
    return {
        id_of(line["id"]): {
            "label": line["label"],
            "given": as_text(float(line["target"])),
            "off": round(float(error), 6),
            "words": f"predicted {line['value']:.4g}",
        }
        for line, error in zip(lines, off, strict=True)
        if error > least
    }


_WRONG: dict[Task, Callable[[list[Line], ReportFacts, NameOf], Json]] = {
    "multilabel": _wrong_sets,
    "regress": _wrong_numbers,
}


def _compared(
    project: Project, number: int, earlier: int, facts: ReportFacts, lines: list[Line]
) -> Json | None:
    """This run against an earlier one, on held-out pictures with the same label in both."""
    if facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    if set(record.classes) != set(facts.data.classes):
        return None
    credit = credit_of(facts.data)
    then = {line["id"]: line for line in held_out_lines(project.run(earlier))}
    both = [(then[new["id"]], new) for new in lines if new["id"] in then]
    both = [(old, new) for old, new in both if old["target"] == new["target"]]
    if len(both) < 2:
        return None
    known = {example.id: example for example in facts.data.examples}
    a, b = (np.array([float(credit(pair[k]) or 0.0) for pair in both]) for k in (1, 0))
    groups = group_numbers([known[new["id"]] for _, new in both], facts.data.near_duplicates)
    gap = difference(a, b, groups, np.random.default_rng(number))
    if gap.low <= 0 <= gap.high:
        ends = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f} points".replace("-", "−")
        return {"number": earlier, "kind": "same", "words": f"no real difference ({ends})"}
    kind = "better" if gap.value > 0 else "worse"
    least, most = sorted((abs(100 * gap.low), abs(100 * gap.high)))
    words = f"{kind} by {abs(100 * gap.value):.1f} points ({least:.1f} to {most:.1f})"
    return {"number": earlier, "kind": kind, "words": words}


def result_of(project: Project, number: int) -> Json:
    """A finished run in words and numbers, with the present class names.

    Raises: RunFolderError where its folder is damaged.
    """
    run = project.run(number)
    facts = read_facts(run)
    summary = facts.summary

    def now(label: str) -> str:
        return project.history.name_of(label, number)

    found: Json = {
        "number": number,
        "task": summary.task,
        "budget": facts.repeat.budget,
        "seconds": round(summary.seconds.get("total", 0.0), 1),
        "changed": n_changed(_labels_of(facts, now), project.board),
        "verdict": {"kind": summary.verdict.kind, "sentence": summary.verdict.sentence},
        "estimate": _estimate(summary.estimate) if facts.ships else None,
        "how": sentence(("nothing was shipped: " if not facts.ships else "") + summary.shipped.why),
        "guess": facts.majority[1] if facts.majority else None,
        "suspects": _suspects(facts, now),
        "classes": [
            {
                "name": now(one.label),
                "n": one.n,
                "recall": one.recall,
                "low": one.low,
                "high": one.high,
                "confused_with": one.confused_with and now(one.confused_with),
                "n_confused": one.n_confused,
            }
            for one in (facts.classes if facts.ships else ())
        ],
        "findings": [
            {
                "kind": one.kind,
                "sentence": one.sentence,
                "ids": [id for id in map(id_of, one.items) if id in project.pictures],
            }
            for one in summary.findings
        ],
        "ships": facts.ships,
        "onnx": facts.ships,
        "report": "/api/take/report.html",
        "command": facts.repeat.command,
    }
    if summary.task != "classify":
        return {
            **found,
            **other_task_result(project, number, _before(project, number, facts), facts, now),
        }
    return {**found, **_of_classes(project, number, facts, now)}


def _of_classes(project: Project, number: int, facts: ReportFacts, now: NameOf) -> Json:
    """What differs for runs of classes."""
    test = facts.summary.test
    return {
        "headline": readiness_line(facts.summary.readiness),
        "use": would_use(facts),
        "right": "right",
        "test": _scores(test if isinstance(test, Scores) else None),
        "compared": compared(project, number, facts),
        "wrong": {
            id_of(said.id): {"label": now(said.label), "probability": said.probability}
            for said in facts.held_out
            if facts.ships and not said.is_right
        },
        "next": [{"title": step.title, "text": step.text} for step in next_steps(facts)],
    }


def _labels_of(facts: ReportFacts, now: NameOf) -> dict[str, str]:
    """The label of each picture in a run."""
    examples = facts.data.examples if facts.data is not None else ()
    return {id_of(one.id): now(one.label) for one in examples}


def compared(project: Project, number: int, facts: ReportFacts) -> Json | None:
    """This run against the newest earlier one with the same settings, by the labels of this one.

    On pictures that both held out; near-duplicates and groups count as one.
    """
    earlier = _before(project, number, facts)
    if earlier is None or facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    said = read_answers(project.run(earlier) / "predictions.jsonl", record)
    then = {one.id: one for one in said if one.split == "oof"}
    both = [(then[one.id], one) for one in facts.held_out if one.id in then]
    if len(both) < 2:
        return None
    known = {example.id: example for example in facts.data.examples}
    groups = group_numbers([known[new.id] for _, new in both], facts.data.near_duplicates)
    name = project.history.name_of
    hits = [
        (name(old.label, earlier) == name(new.target, number), new.is_right) for old, new in both
    ]
    return {"number": earlier, **_difference(np.array(hits, dtype=float), groups)}


def _before(project: Project, number: int, facts: ReportFacts) -> int | None:
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
    """The strategy that the user set, else `auto`."""
    if plan is None or plan.strategy.source != "user":
        return "auto"
    return str(plan.strategy.value)


def _difference(hits: Values, groups: Groups) -> Mapping[str, str]:
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


def _suspects(facts: ReportFacts, now: NameOf) -> list[Json]:
    found = facts.inspection.label_issues if facts.inspection is not None else None
    return [
        {
            "id": id_of(one.id),
            "label": now(one.label),
            "suggested": now(one.suggested),
            "believed": one.is_issue,
        }
        for one in (found.ranked if found is not None else ())
    ]


def _estimate(found: Estimate | None) -> Json | None:
    return None if found is None else share(found.value, found.low, found.high, found.n)


def _scores(found: Scores | None) -> Json | None:
    return None if found is None else share(found.accuracy, found.low, found.high, found.n)


def share(value: float, low: float, high: float, n: int) -> Json:
    """A share with its interval, and both in words."""
    words = interval(value, low, high, n)
    return {"value": value, "low": low, "high": high, "n": n, "words": words}
