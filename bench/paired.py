"""Seconds of whole commands, ours and another tool's in turn on the same set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench import results, sets

KEPT = results.FOLDER / "paired.jsonl"
OURS = ("fast", "balanced", "thorough")

Row = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """--peer, --methods, --budgets, --sets, --threads, --again."""
    parser.add_argument("--peer", help="a command that takes METHOD and SET; it prints JSON")
    parser.add_argument("--methods", nargs="+", default=["fastai5", "expert30"])
    parser.add_argument("--budgets", nargs="+", default=["fast", "balanced"], choices=OURS)
    parser.add_argument("--sets", nargs="+", default=["ants_bees", "clothing"])
    parser.add_argument("--threads", type=int, default=1, help="of each command")
    parser.add_argument("--again", action="store_true", help="measure anew what is kept already")


def measure(args: Namespace) -> dict[str, Any]:
    """Each set: our budgets, then the other tool's methods; no other order, nothing beside."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    rows = results.lines(KEPT)
    done = set() if args.again else {key(row) for row in rows}
    for name in args.sets:
        for method in (*args.budgets, *(args.methods if args.peer else ())):
            if (name, method, args.threads) in done:
                continue
            row = _row(args, sets.root(args) / name, method) | {"threads": args.threads}
            rows = [r for r in rows if key(r) != key(row)] + [row]
            KEPT.write_text("".join(json.dumps(r) + "\n" for r in rows))
            print(row, file=sys.stderr, flush=True)
    return {"summary": summary(rows), "rows": rows}


def key(row: Row) -> tuple[str, str, int]:
    """What is measured once: a method on a set with so many threads."""
    return row["set"], row["method"], row["threads"]


def summary(rows: list[Row]) -> dict[str, str]:
    """How many times as long each other tool takes, by set and budget of ours."""
    took = {key(row): row["seconds"] for row in rows}
    result: dict[str, list[str]] = {}
    for name, method, threads in took:
        for budget in OURS:
            if method not in OURS and (name, budget, threads) in took:
                ratio = took[name, method, threads] / took[name, budget, threads]
                output = result.setdefault(f"{method} over {budget}, {threads} threads", [])
                output.append(f"{ratio:.1f} on {name}")
    return {what: ", ".join(output) for what, output in result.items()}


def _row(args: Namespace, folder: Path, method: str) -> Row:
    """Wall seconds of the whole process, with an empty cache; accuracy on the test part."""
    if method in OURS:
        ours = sets.fit(folder, "--budget", method)
        seconds, right = ours.seconds, ours.summary["test"]["accuracy"]
    else:
        command = [*args.peer.split(), method, str(folder), "--threads", str(args.threads)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        right = json.loads(done.stdout.strip().splitlines()[-1])["acc"]
    return {
        "set": folder.name,
        "method": method,
        "seconds": round(seconds, 1),
        "accuracy": round(right, 4),
    }
