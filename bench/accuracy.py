"""Test accuracy of `fit` at a budget, beside other tools on the same images; fits are stored."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import results, sets
from warmstart.stats.intervals import Values, wilson
from warmstart.stats.paired import difference, holm

PEERS = results.FOLDER / "peers.jsonl"
EVERYDAY = ("fastai5", "hf3", "onelook")
EXPERT = "expert30"
SIX = ("sign_digits", "pacs_sketch", "skin_lesions", "clothing", "textures10", "ants_bees")
FAR = (
    "sign_digits",
    "wbc_cells",
    "wbc_cells_site2",
    "trashnet",
    "pacs_sketch",
    "skin_lesions",
    "textures10",
)  # far or middling from ImageNet, by the index of the sets

Row = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """--sets, --budget, --peers, --again."""
    parser.add_argument("--sets", nargs="+", default=list(sets.ALL))
    parser.add_argument("--budget", default="fast")
    parser.add_argument("--peers", type=Path, default=PEERS, help="JSON lines of the peers' runs")
    parser.add_argument("--again", action="store_true", help="fit anew what is kept already")


def measure(args: Namespace) -> dict[str, Any]:
    """Fit every set that is not kept yet, then compare with every peer that has rows for it."""
    stored = results.FOLDER / f"fits-{args.budget}.jsonl"
    result = {} if args.again or not stored.exists() else {r["set"]: r for r in _lines(stored)}
    for name in args.sets:
        if name in result:
            continue
        result[name] = _fit(sets.root(args) / name, args.budget)
        stored.write_text("".join(json.dumps(row) + "\n" for row in result.values()))
        print(
            {k: v for k, v in result[name].items() if k != "correct"}, file=sys.stderr, flush=True
        )
    peers = _by_method(_lines(args.peers))
    rows = [
        result[name]
        | {m: round(_mean(runs[name], "acc"), 4) for m, runs in peers.items() if name in runs}
        for name in args.sets
    ]
    return {"budget": args.budget, "summary": summary(rows, peers), "rows": rows}


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _fit(folder: Path, budget: str) -> Row:
    fitted = sets.fit(folder, "--budget", budget)
    output = fitted.summary
    estimate = output["estimate"]
    return {
        "set": folder.name,
        "accuracy": output["test"]["accuracy"],
        "seconds": round(fitted.seconds, 1),
        "shipped": output["shipped"]["strategy"],
        "verdict": output["verdict"]["kind"],
        **{name: round(estimate[name], 4) for name in ("value", "low", "high")},
        "guards": [guard["kind"] for guard in output["guards"]],
        "peak_rss_mb": round(fitted.peak_rss_mb),
        "correct": fitted.correct,
    }


def _by_method(lines: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """The runs of each peer by set; several where it was run with several seeds.

    What is `busy` was run beside other work: its answers count, its seconds do not.
    """
    result: dict[str, dict[str, list[Row]]] = {}
    for line in lines:
        result.setdefault(line["method"], {}).setdefault(line["data"], []).append(line)
    return result


# ---- comparisons -------------------------------------------------------------------------


def summary(rows: Sequence[Row], peers: dict[str, dict[str, list[Row]]]) -> dict[str, Any]:
    """Means, and each bar that is to be reached."""
    right = np.array([row["accuracy"] for row in rows])
    holds = [holds_estimate(row) for row in rows]
    output: dict[str, Any] = {
        "mean accuracy": round(float(right.mean()), 4),
        "seconds": {row["set"]: row["seconds"] for row in rows},
        "estimates that hold": f"{sum(holds)} of {len(rows)}",
    }
    for method in (*EVERYDAY, EXPERT):
        both = [row for row in rows if row["set"] in peers.get(method, {})]
        if both:
            output[method] = _against(both, peers[method])
            far = [row for row in both if row["set"] in FAR]
            if far:
                output[f"{method}, far and middling sets"] = _against(far, peers[method])
    six = [row for row in rows if row["set"] in SIX and row["set"] in peers.get(EXPERT, {})]
    if six:
        output[f"{EXPERT}, seconds of ours over its"] = {
            r["set"]: round(r["seconds"] / _mean(peers[EXPERT][r["set"]], "total_s"), 2)
            for r in six
            if not any(run.get("busy") for run in peers[EXPERT][r["set"]])
        }
    return output


def holds_estimate(row: Row) -> bool:
    """Whether the estimate's interval, with the chance of the test part, holds the test accuracy.

    Newcombe 1998, "Interval estimation for the difference between independent proportions",
    method 10: both intervals may be lopsided, as they are near 0 and 1.
    """
    p, n = row["accuracy"], len(row["correct"])
    low, high = wilson(p, n, n - 1)
    if p > row["value"]:
        context = np.hypot(row["high"] - row["value"], p - low)
    else:
        context = np.hypot(row["value"] - row["low"], high - p)
    return bool(abs(p - row["value"]) <= context)


def _against(rows: Sequence[Row], runs: dict[str, list[Row]]) -> Row:
    """Errors over the same sets, and the sets where ours is worse by more than chance."""
    ours = np.array([row["accuracy"] for row in rows])
    # From the single answers: the accuracy beside them is rounded.
    theirs = np.array([np.mean([_hits(r["correct"]) for r in runs[row["set"]]]) for row in rows])
    chances = [_paired(row["correct"], [r["correct"] for r in runs[row["set"]]]) for row in rows]
    below = ours < theirs
    worse = [
        row["set"]
        for row, p, is_below in zip(rows, holm(chances), below, strict=True)
        if is_below and p < 0.05
    ]
    shortfall = float((theirs - ours)[below].mean()) if below.any() else 0.0
    return {
        "sets": len(rows),
        "ours": round(float(ours.mean()), 4),
        "theirs": round(float(theirs.mean()), 4),
        "error over theirs": round(float((1 - ours).mean() / (1 - theirs).mean()), 3),
        "below on": int(below.sum()),
        "significantly (Holm)": worse,
        "mean shortfall there": round(shortfall, 4),
    }


def _mean(runs: Sequence[Row], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def _hits(correct: str) -> Values:
    return np.array([int(c) for c in correct], dtype=float)


def _paired(ours: str, theirs: list[str]) -> float:
    """p of the paired bootstrap: ours against the mean over the peer's seeds, image by image."""
    a, b = _hits(ours), np.mean([_hits(run) for run in theirs], axis=0)
    return difference(a, b, np.arange(len(a)), np.random.default_rng(0), draws=20_000).p
