"""Test accuracy of `fit --budget fast` on eight image sets, beside peers on the same images."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bench import sets
from warmstart.stats.paired import difference, holm

PEERS = Path(__file__).parent / "results" / "peers.jsonl"


def add_options(parser: ArgumentParser) -> None:
    """--sets, --budget, --peers."""
    parser.add_argument("--sets", nargs="+", default=list(sets.EIGHT))
    parser.add_argument("--budget", default="fast")
    parser.add_argument("--peers", type=Path, default=PEERS, help="JSON lines of the peers' runs")


def measure(given: Namespace) -> dict[str, Any]:
    """Fit every set once, then compare with every peer that has a row for it."""
    peers = [json.loads(line) for line in given.peers.read_text().splitlines()]
    rows = []
    for name in given.sets:
        fitted = sets.fit(sets.root(given) / name, "--budget", given.budget)
        estimate = fitted.summary["estimate"]
        row: dict[str, Any] = {
            "set": name,
            "accuracy": fitted.summary["test"]["accuracy"],
            "seconds": round(fitted.seconds, 1),
            "estimate": round(estimate["value"], 4),
            "low": round(estimate["low"], 4),
            "high": round(estimate["high"], 4),
            "correct": fitted.correct,
        }
        for method in sorted({p["method"] for p in peers if p["data"] == name}):
            runs = [p for p in peers if p["data"] == name and p["method"] == method]
            row |= {f"{method}": float(np.mean([p["acc"] for p in runs]))}
            row |= {f"{method} p": _paired(fitted.correct, [p["correct"] for p in runs])}
        rows.append(row)
        print(rows[-1]["set"], rows[-1]["accuracy"], flush=True)
    return {"summary": _summary(rows), "rows": rows}


def _paired(ours: str, theirs: list[str]) -> float:
    """p of the paired bootstrap: ours against the mean over the peer's seeds, image by image."""
    a = np.array([int(c) for c in ours], dtype=float)
    b = np.mean([[int(c) for c in run] for run in theirs], axis=0)
    return difference(a, b, np.arange(len(a)), np.random.default_rng(0), draws=20_000).p


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mean accuracy": round(float(np.mean([r["accuracy"] for r in rows])), 4)
    }
    for method in ("onelook", "fastai5"):
        both = [r for r in rows if method in r]
        if not both:
            continue
        ours, theirs = (float(np.mean([r[k] for r in both])) for k in ("accuracy", method))
        adjusted = holm([r[f"{method} p"] for r in both])
        worse = [
            r["set"] for r, p in zip(both, adjusted, strict=True)
            if p < 0.05 and r["accuracy"] < r[method]
        ]  # fmt: skip
        found[f"against {method}"] = (
            f"{ours:.4f} against {theirs:.4f} over {len(both)} sets "
            f"({100 * (ours - theirs):+.1f} points); significantly below (Holm): {worse or 'none'}"
        )
    return found
