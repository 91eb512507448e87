"""A finished run for the studio's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import sentence
from warmstart.records.data import DataRecord, split_labels
from warmstart.records.plan import Plan
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Estimate
from warmstart.reporting.facts import (
    ReportFacts,
    groups_of,
    held_out_lines,
    read_answers,
    read_facts,
    read_plan_if_there,
    repeat_of,
)
from warmstart.reporting.first_screen import next_steps, would_use
from warmstart.run.compare import credit_of
from warmstart.stats.metrics import MODEL_VARIANCE
from warmstart.stats.paired import Difference, difference, hits_difference
from warmstart.tasks.registry import TASKS, other_metrics, test_estimate
from warmstart.tasks.regress import as_text
from warmstart_studio.board import label_words
from warmstart_studio.project import Project, id_of, n_changed

Json = dict[str, Any]
NameOf = Callable[[str], str]  # from a class name of the run to its present name
Line = Mapping[str, Any]
MOST = 400  # points of the plot of predicted against true numbers
_SHARE = 0.1  # of the numbers, those with the largest errors, where there is no interval


def result_of(project: Project, number: int) -> Json:
    """A finished run in words and numbers, with the present class names.

    Raises: RunFolderError where its folder is damaged.
    """
    facts = read_facts(project.run(number))
    summary, examples = facts.summary, facts.data.examples if facts.data is not None else ()
    target = TASKS[summary.task]
    test = None if summary.test is None else _score(test_estimate(summary.test))
    estimate = summary.estimate if facts.ships else None

    def now(label: str) -> str:
        return project.history.name_of(label, number)

    content: Json = {
        "number": number,
        "task": summary.task,
        "budget": facts.repeat.budget,
        "n_changes": n_changed({id_of(one.id): now(one.label) for one in examples}, project.board),
        "headline": readiness_line(summary.readiness),
        "verdict": {"kind": summary.verdict.kind, "sentence": summary.verdict.sentence},
        "estimate": None if estimate is None else _score(estimate),
        "score_words": target.words.right,
        "test": test,
        "majority": facts.majority[1] if facts.majority else None,
        "use": would_use(facts),
        "shipped": sentence(("" if facts.ships else "nothing was shipped: ") + summary.shipped.why),
        "ships": facts.ships,
        "label_issues": _label_issues(facts, now),
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
        "next_steps": [{"title": step.title, "text": step.text} for step in next_steps(facts)],
        "command": facts.repeat.command,
    }
    earlier = _earlier_run(project, number, facts)
    if target.has_classes:
        mistakes = {
            id_of(one.id): {"label": now(one.label), "probability": one.probability}
            for one in facts.held_out
            if facts.ships and not one.is_right
        }
        comparison = earlier and _compare_hits(project, number, earlier, facts)
        return {**content, "mistakes": mistakes, "comparison": comparison}
    if test is not None and summary.test is not None:
        test["more"] = other_metrics(summary.test)
    lines = held_out_lines(project.run(number) / "predictions.jsonl")
    of_sets = target.has_label_sets
    return {
        **content,
        "mistakes": _wrong_sets(lines, now) if of_sets else _wrong_numbers(lines, facts),
        "comparison": earlier and _compare_credits(project, number, earlier, facts, lines),
        "labels": [
            {
                "name": now(one.label),
                "n": one.n,
                "precision": one.precision,
                "recall": one.recall,
                "average_precision": one.average_precision,
            }
            for one in facts.label_scores
        ],
        "numbers": [list(pair) for pair in facts.numbers[:MOST]],
        "half_width": facts.half_width,
    }


def _score(estimate: Estimate) -> Json:
    fields = {name: getattr(estimate, name) for name in ("value", "low", "high", "n")}
    return {**fields, "words": estimate.interval}


def _label_issues(facts: ReportFacts, now: NameOf) -> list[Json]:
    issues = facts.label_issues
    return [
        {
            "id": id_of(one.id),
            "label": now(one.label),
            "suggested": now(one.suggested),
            "is_issue": one.is_issue,
        }
        for one in (issues.ranked if issues is not None else ())
    ]


# ---- Mistakes of runs with several labels, or of numbers.


def _wrong_sets(lines: Sequence[Line], now: NameOf) -> Json:
    """Pictures with a wrong label."""
    wrong = {}
    for line in lines:
        target, label = now(line["target"]), now(line["label"])
        if target != label:
            names = set(split_labels(line["target"]))
            error = max(1 - p if name in names else p for name, p in line["scores"].items())
            wrong[id_of(line["id"])] = {
                "label": label,
                "target": target,
                "error": round(error, 4),
                "words": f"predicted: {label_words(label)}",
            }
    return wrong


def _wrong_numbers(lines: Sequence[Line], facts: ReportFacts) -> Json:
    """Numbers outside their predicted interval, or those with the largest errors."""
    errors = np.array([abs(float(line["value"]) - float(line["target"])) for line in lines])
    least = facts.half_width
    if least is None:
        least = float(np.quantile(errors, 1 - _SHARE)) if len(errors) else 0.0
    return {
        id_of(line["id"]): {
            "label": line["label"],
            "target": as_text(float(line["target"])),
            "error": round(float(error), 6),
            "words": f"predicted {line['value']:.4g}",
        }
        for line, error in zip(lines, errors, strict=True)
        if error > least
    }


# ---- This run against the newest earlier one with the same settings.


def _earlier_run(project: Project, number: int, facts: ReportFacts) -> int | None:
    """The newest finished run before this one with the same budget and strategy."""
    settings = (facts.repeat.budget, _strategy(facts.plan))
    for earlier in reversed([n for n in project.numbers() if n < number]):
        run = project.run(earlier)
        if not (run / "DONE").exists():
            continue
        plan = read_plan_if_there(run / "plan.toml")
        if (repeat_of(run, run.name).budget, _strategy(plan)) == settings:
            return earlier
    return None


def _strategy(plan: Plan | None) -> str:
    """The strategy that the user set, else `auto`."""
    if plan is None or plan.strategy.source != "user":
        return "auto"
    return str(plan.strategy.value)


def _compare_hits(project: Project, number: int, earlier: int, facts: ReportFacts) -> Json | None:
    """Compare on pictures that both runs held out, by the labels of this one."""
    if facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    answers = read_answers(project.run(earlier) / "predictions.jsonl", record)
    before = {one.id: one for one in answers if one.split == "oof"}
    pairs = [(before[one.id], one) for one in facts.held_out if one.id in before]
    if len(pairs) < 2:
        return None
    name = project.history.name_of
    old_hits = [name(old.label, earlier) == name(new.target, number) for old, new in pairs]
    a, b = np.array([new.is_right for _, new in pairs], float), np.array(old_hits, float)
    groups = groups_of((new.id for _, new in pairs), facts.data)
    return _comparison(earlier, hits_difference(a, b, groups, MODEL_VARIANCE))


def _compare_credits(
    project: Project, number: int, earlier: int, facts: ReportFacts, lines: Sequence[Line]
) -> Json | None:
    """Compare on pictures that both runs held out and that have the same label in both."""
    if facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    if set(record.classes) != set(facts.data.classes):
        return None
    before = {
        line["id"]: line for line in held_out_lines(project.run(earlier) / "predictions.jsonl")
    }
    pairs = [(before[new["id"]], new) for new in lines if new["id"] in before]
    pairs = [(old, new) for old, new in pairs if old["target"] == new["target"]]
    if len(pairs) < 2:
        return None
    credit = credit_of(facts.data)
    a, b = (np.array([float(credit(pair[k]) or 0.0) for pair in pairs]) for k in (1, 0))
    groups = groups_of((new["id"] for _, new in pairs), facts.data)
    return _comparison(earlier, difference(a, b, groups, np.random.default_rng(number)))


def _comparison(earlier: int, gap: Difference) -> Json:
    """Better, worse, or neither."""
    low, high = 100 * gap.low, 100 * gap.high
    if low <= 0 <= high:
        ends = f"{low:+.1f} to {high:+.1f} points".replace("-", "−")
        return {"number": earlier, "kind": "same", "words": f"no real difference ({ends})"}
    kind, sign = ("better", 1) if gap.value > 0 else ("worse", -1)
    least, most = sorted((sign * low, sign * high))
    points = f"{100 * abs(gap.value):.1f} points ({least:.1f} to {most:.1f})"
    return {"number": earlier, "kind": kind, "words": f"{kind} by {points}"}
