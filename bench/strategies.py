"""What each strategy reaches and takes: test accuracy beside the head's, seconds, one seed."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from bench.sets import fit, root

SETS = ("sign_digits", "clothing")
STRATEGIES = (
    "head", "head+add", "last:4", "last:4+gradual", "last:4+lora", "full", "scratch",
)  # fmt: skip


def add_options(parser: ArgumentParser) -> None:
    """Which strategies."""
    parser.add_argument("--strategies", default=",".join(STRATEGIES))


def measure(given: Namespace) -> dict[str, Any]:
    """One run a set and strategy, `--budget fast`, with a cold cache."""
    rows = []
    for name in SETS:
        for strategy in given.strategies.split(","):
            done = fit(root(given) / name, "--strategy", strategy, "--budget", "fast")
            summary = done.summary
            rows.append({
                "set": name, "strategy": strategy, "test": summary["test"]["accuracy"],
                "low": summary["test"]["low"], "high": summary["test"]["high"],
                "log_loss": summary["test"]["log_loss"],
                "estimate": summary["estimate"]["value"], "estimate_n": summary["estimate"]["n"],
                "seconds": round(done.seconds, 1), "tune_seconds": summary["seconds"]["tune"],
                "peak_mb": done.peak_rss_mb,
            })  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return {"summary": {"cells": len(rows)}, "rows": rows}
