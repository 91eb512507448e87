"""Test accuracy and seconds of each strategy, one seed."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from bench.sets import fit, root

SETS = ("vehicles", "clothing", "sign_digits", "trashnet")
WAYS = {  # a name for the table, and what to type
    "head": ("--strategy", "head"),
    "head, grey input": ("--strategy", "head", "--set", "input.channels=1"),
    "head+add": ("--strategy", "head+add"),
    "last:4": ("--strategy", "last:4"),
    "full": ("--strategy", "full"),
    "scratch": ("--strategy", "scratch"),
}


def add_options(parser: ArgumentParser) -> None:
    """--sets, --ways, --size."""
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by ;")
    parser.add_argument("--size", default="96", help="px of the square that the network sees")


def measure(args: Namespace) -> dict[str, Any]:
    """One run a set and way, `--budget fast`, with a cold cache."""
    rows = []
    for name in args.sets.split(","):
        for way in args.ways.split(";"):
            size = ("--set", f"input.size={args.size}", "--budget", "fast")
            done = fit(root(args) / name, *WAYS[way], *size)
            test = done.summary["test"]
            rows.append(
                {
                    "set": name,
                    "way": way,
                    "n": done.summary["data"]["train"],
                    "test n": test["n"],
                    "test": test["accuracy"],
                    "low": test["low"],
                    "high": test["high"],
                    "log_loss": test["log_loss"],
                    "seconds": round(done.seconds, 1),
                    "peak_mb": done.peak_rss_mb,
                    "guards": [guard["kind"] for guard in done.summary["guards"]],
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return {"summary": {"cells": len(rows), "px": int(args.size)}, "rows": rows}
