"""What the studio's page shows of runs of several labels, and of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.split import blocks
from warmstart.delivery.numbers import interval
from warmstart.delivery.report import other
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.studio.board import shown
from warmstart.delivery.studio.project import Project
from warmstart.delivery.studio.table import id_of
from warmstart.delivery.studio.tools import Told
from warmstart.delivery.task_words import TASK_WORDS, further, test_estimate
from warmstart.evaluation.readiness import readiness_line
from warmstart.folder import read_json
from warmstart.records import DataRecord, NumberCalibration, Task, TestScores
from warmstart.stats.paired import difference
from warmstart.tasks.numbers import as_text
from warmstart.verbs.credits import credit_of

Name = Callable[[str], str]
Line = Mapping[str, Any]
MOST = 400  # points of the picture of said against true numbers
_SHARE = 0.1  # of the numbers, those furthest off, where no interval is promised


def told(project: Project, number: int, earlier: int | None, facts: Facts, now: Name) -> Told:
    """What is not said as it is of classes; `earlier` is the run to compare with."""
    run = project.run(number)
    lines = [*_held(run)]
    test = facts.summary.test
    return {
        "headline": readiness_line(facts.summary.readiness), "use": other.would_use(facts),
        "right": TASK_WORDS[facts.summary.task].right,
        "test": None if test is None else _share(test),
        "wrong": _WRONG[facts.summary.task](lines, facts, now),
        "labels": [
            {"name": now(one.label), "n": one.n, "precision": one.precision,
             "recall": one.recall, "average": one.average_precision}
            for one in facts.label_scores
        ],
        "numbers": [list(pair) for pair in facts.numbers[:MOST]],
        "half": _half(facts),
        "compared": None if earlier is None else _compared(project, number, earlier, facts, lines),
        "next": [{"title": step.title, "text": step.text} for step in other.next_steps(facts)],
    }  # fmt: skip


def _share(test: TestScores) -> Told:
    found = test_estimate(test)
    words = interval(found.value, found.low, found.high, found.n)
    return {
        "value": found.value, "low": found.low, "high": found.high, "n": found.n, "words": words,
        "more": further(test),
    }  # fmt: skip


def _half(facts: Facts) -> float | None:
    calibration = facts.calibration
    return calibration.half_width if isinstance(calibration, NumberCalibration) else None


def _held(run: Path) -> Iterator[Line]:
    """The lines of examples held out."""
    with open(run / "predictions.jsonl", encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            if line["split"] == "oof":
                yield line


def _wrong_sets(lines: list[Line], facts: Facts, now: Name) -> Told:
    """Pictures of which not every label is named rightly, the furthest off first."""
    found = {}
    for line in lines:
        target, label = now(line["target"]), now(line["label"])
        if target != label:
            has = set(line["target"].split("|"))
            off = max(1 - p if name in has else p for name, p in line["scores"].items())
            found[id_of(line["id"])] = {
                "label": label, "given": target, "off": round(off, 4),
                "words": f"said: {shown(label)}",
            }  # fmt: skip
    return found


def _wrong_numbers(lines: list[Line], facts: Facts, now: Name) -> Told:
    """Numbers outside of the interval that was said, or those furthest off."""
    off = np.array([abs(float(line["value"]) - float(line["target"])) for line in lines])
    half = _half(facts)
    least = half if half is not None else float(np.quantile(off, 1 - _SHARE)) if len(off) else 0.0
    return {
        id_of(line["id"]): {
            "label": line["label"], "given": as_text(float(line["target"])),
            "off": round(float(error), 6), "words": f"said {line['value']:.4g}",
        }
        for line, error in zip(lines, off, strict=True) if error > least
    }  # fmt: skip


_WRONG: dict[Task, Callable[[list[Line], Facts, Name], Told]] = {
    "multilabel": _wrong_sets, "regress": _wrong_numbers,
}  # fmt: skip


def _compared(
    project: Project, number: int, earlier: int, facts: Facts, lines: list[Line]
) -> Told | None:
    """This run against the one before, on pictures that both held out under the same label."""
    if facts.data is None:
        return None
    record = read_json(project.run(earlier) / "data.json", DataRecord)
    if set(record.classes) != set(facts.data.classes):
        return None
    credit = credit_of(facts.data)
    then = {line["id"]: line for line in _held(project.run(earlier))}
    both = [(then[new["id"]], new) for new in lines if new["id"] in then]
    both = [(old, new) for old, new in both if old["target"] == new["target"]]
    if len(both) < 2:
        return None
    known = {example.id: example for example in facts.data.examples}
    a, b = (np.array([float(credit(pair[k]) or 0.0) for pair in both]) for k in (1, 0))
    groups = blocks([known[new["id"]] for _, new in both], facts.data.twins)
    gap = difference(a, b, groups, np.random.default_rng(number))
    if gap.low <= 0 <= gap.high:
        ends = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f} points".replace("-", "−")
        return {"number": earlier, "kind": "same", "words": f"no real difference ({ends})"}
    kind = "better" if gap.value > 0 else "worse"
    least, most = sorted((abs(100 * gap.low), abs(100 * gap.high)))
    words = f"{kind} by {abs(100 * gap.value):.1f} points ({least:.1f} to {most:.1f})"
    return {"number": earlier, "kind": kind, "words": words}
