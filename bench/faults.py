"""Twelve faults of fine-tuning, planted in real sets: reported, repaired, or missed?"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import planting, results, sets
from bench.small import copy_few
from warmstart import fit
from warmstart.errors import WarmstartError
from warmstart.records.summary import Summary
from warmstart.stats.paired import mean_interval

SETS = ("ants_bees", "sign_digits", "wbc_cells", "vehicles", "textures10")
DRAWS = 3  # of each set, for the clean runs
CLEAN = ("auto", "head", "last:6", "last:4")  # strategies of the clean runs
LIMIT = 1.0  # minutes a run
ELSEWHERE = {"wbc_cells": "wbc_cells_site2"}  # the same classes from another laboratory
# What may only be reported where something is wrong with the training, or with the data.
ALARMS = {
    "stuck",
    "diverged",
    "forgetting",
    "preprocessing",
    "distribution-shift",
    "leakage",
    "near-duplicate",
    "conflict",
    "small-class",
    "spurious-correlation",
    "unreadable",
    "no-signal",
}
# Looked at: one cell in two magnifications, on both sides; one bicycle in two colours.
TRUE = {"wbc_cells": {"near-duplicate", "leakage"}, "vehicles": {"near-duplicate"}}

Draw = np.random.Generator


@dataclass(frozen=True)
class Outcome:
    """What a run said: kinds of guards and findings, its verdict, or the class of its error."""

    reported: frozenset[str]
    sentence: str
    correct: Any = None  # (n_test,) whether each test image was answered rightly


@dataclass(frozen=True)
class Fault:
    """`plant` changes the folder and gives options of `fit`; any of `wanted` reports it."""

    plant: Callable[[Path, int, Draw], dict[str, Any]]
    wanted: frozenset[str]
    may_be_harmless: bool = False  # repaired: no worse on test images than the clean run


def add_options(parser: ArgumentParser) -> None:
    """--sets, --only."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")


def measure(args: Namespace) -> dict[str, Any]:
    """Plant each fault in each set, one at a time; and run the sets as they are.

    With --only, the kept rows of all else stand beside the new ones.
    """
    root, rows = sets.root(args), []
    for name in args.sets:
        number = SETS.index(name)
        clean: dict[str, Outcome] = {}
        for fault in FAULTS:
            if args.only and fault not in args.only:
                continue
            rows.append(_planted(root, name, number, fault, clean))
            print(rows[-1], file=sys.stderr, flush=True)
    quiet = [] if args.only else [_clean(root, name, d) for name in args.sets for d in range(DRAWS)]
    rows += [row for result in quiet for row in result]
    if args.only:
        rows = _among_kept(rows)
    return {"summary": _summary(rows), "rows": rows}


def _among_kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kept rows, those of the same set and fault taken from `rows`."""
    new = {(row["set"], row["fault"]): row for row in rows}
    stored = results.read("faults")["rows"]
    return [new.pop((row["set"], row.get("fault", "")), row) for row in stored] + [*new.values()]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    planted = [row for row in rows if "fault" in row]
    quiet = [row for row in rows if "fault" not in row]
    result = Counter(row["fault"] for row in planted if row["reported"] or row["repaired"])
    total = Counter(row["fault"] for row in planted)
    alarms = [f"{r['set']}: {w}" for r in quiet for w in _alarms(r)]
    n_false = sum(bool(_alarms(row)) for row in quiet)
    return {
        "reported or repaired": f"{sum(result.values())} of {len(planted)}",
        **{name: f"{result[name]} of {n}" for name, n in total.items()},
        "clean runs with a false alarm": f"{n_false} of {len(quiet)}",
        "false alarms": ", ".join(sorted(set(alarms))),
    }


def _alarms(row: dict[str, Any]) -> set[str]:
    return ALARMS.intersection(row["said"]) - TRUE.get(row["set"], set())


def _planted(
    root: Path, name: str, number: int, fault: str, clean: dict[str, Outcome]
) -> dict[str, Any]:
    """One fault in one set; where it is not reported, whether it cost anything."""
    result, wanted = FAULTS[fault], FAULTS[fault].wanted
    with tempfile.TemporaryDirectory() as place:
        data = copy_few(root / name, Path(place))
        options = result.plant(data, number, np.random.default_rng([number, 11]))
        if ELSEWHERE.get(name) and fault == "a test set of another domain":
            shutil.rmtree(data / "test")
            options = {"test": copy_few(root / ELSEWHERE[name], Path(place)) / "test"}
        outcome = run(data, options)
        sentence = outcome.sentence.replace(f"{place}/", "")  # no path of a machine
    row = {
        "set": name,
        "fault": fault,
        "reported": sorted(wanted & outcome.reported),
        "repaired": False,
        "said": sorted(outcome.reported),
        "sentence": sentence,
    }
    if row["reported"] or not result.may_be_harmless or outcome.correct is None:
        return row
    strategy = options.get("strategy", "auto")
    if strategy not in clean:
        with tempfile.TemporaryDirectory() as place:
            clean[strategy] = run(copy_few(root / name, Path(place)), {"strategy": strategy})
    gap = clean[strategy].correct.astype(float) - outcome.correct
    cost, low, _ = mean_interval(gap, np.arange(len(gap)))
    return row | {"repaired": bool(low <= 0), "cost": round(cost, 4)}


def _clean(root: Path, name: str, draw: int) -> list[dict[str, Any]]:
    """Nothing planted: what is reported all the same."""
    rows = []
    for strategy in CLEAN:
        with tempfile.TemporaryDirectory() as place:
            data = copy_few(root / name, Path(place), seed=draw)
            outcome = run(data, {"strategy": strategy})
        rows.append(
            {
                "set": name,
                "draw": draw,
                "strategy": strategy,
                "said": sorted(outcome.reported),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def run(data: Path, options: dict[str, Any]) -> Outcome:
    """Fit a small set within a minute; an error is an outcome too."""
    usual: dict[str, Any] = {"settings": ["input.size=96"], "minutes": LIMIT}
    with tempfile.TemporaryDirectory() as place:
        try:
            done = fit(options.pop("data", data), out=Path(place) / "run", **{**usual, **options})
        except WarmstartError as error:
            return Outcome(frozenset({type(error).__name__}), str(error))
        return _outcome(done.summary, Path(place) / "run")


def _outcome(summary: Summary, folder: Path) -> Outcome:
    guards, findings = summary.guards, summary.findings
    reported = {g.kind for g in guards} | {f.kind for f in findings} | {summary.verdict.kind}
    lines = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    right = {p["id"]: p["target"] == p["label"] for p in lines if p["split"] == "test"}
    correct = np.array([right[id] for id in sorted(right)])
    return Outcome(frozenset(reported), summary.verdict.sentence, correct if len(right) else None)


FAULTS: dict[str, Fault] = {
    "learning rate x 1,000": Fault(
        planting.too_fast, frozenset({"diverged", "stuck"}), may_be_harmless=True
    ),
    "learning rate x 0.000001": Fault(planting.too_slow, frozenset({"stuck"})),
    "shuffled labels": Fault(planting.shuffled, frozenset({"no-signal"})),
    "wrong normalisation": Fault(planting.wrong_moments, frozenset({"preprocessing"})),
    "swapped channels": Fault(planting.swapped, frozenset({"preprocessing"}), may_be_harmless=True),
    "one class": Fault(planting.one_class, frozenset({"DataError"})),
    "a class of 1 or 2": Fault(planting.tiny, frozenset({"DataError", "small-class"})),
    "a broken base model": Fault(planting.broken, frozenset({"ModelError"})),
    "a constant layer": Fault(
        planting.constant, frozenset({"stuck", "no-signal"}), may_be_harmless=True
    ),
    "near-duplicates across the split": Fault(planting.copies, frozenset({"leakage"})),
    "groups across the split": Fault(planting.shared_groups, frozenset({"leakage"})),
    "a test set of another domain": Fault(planting.elsewhere, frozenset({"distribution-shift"})),
}
