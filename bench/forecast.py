"""Forecast of --dry-run against time and memory of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.sets import fit, root

SETS = ("car_brands", "wbc_cells", "vehicles", "ants_bees", "pacs_sketch")
PLANS = (  # one of each kind: exact head, upper blocks, all layers, new layers or low-rank updates
    ("--strategy", "head", "--budget", "balanced"),
    ("--strategy", "last:4", "--budget", "fast"),
    ("--strategy", "full", "--budget", "fast"),
    ("--strategy", "last:3+lora", "--budget", "fast"),
)
WITHIN = 1.5


def add_options(parser: ArgumentParser) -> None:
    """No options of its own."""


def measure(args: Namespace) -> dict[str, Any]:
    """Forecast and run every cell with a cold cache; how many lie within a factor of 1.5."""
    rows = []
    for name in SETS:
        for options in PLANS:
            rows.append(_cell(root(args) / name, options))
            print(rows[-1], file=sys.stderr, flush=True)
    ratios = {
        what: [row[f"{what}_forecast"] / row[f"{what}_taken"] for row in rows]
        for what in ("seconds", "memory_mb")
    }
    good = {what: sum(1 / WITHIN <= r <= WITHIN for r in result) for what, result in ratios.items()}
    return {
        "summary": {f"{what} within {WITHIN}": f"{n} of {len(rows)}" for what, n in good.items()},
        "rows": rows,
    }


def _cell(data: Path, options: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"WARMSTART_CACHE": cache}
        command = [sys.executable, "-m", "warmstart", "fit", str(data), "--dry-run", "--json", "-q"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *options], env=env, capture_output=True, text=True, check=True
        )
        requested = time.perf_counter() - began
        reported = json.loads(done.stdout)["forecast"]
        taken = fit(data, *options, cache=Path(cache))
    return {
        "set": data.name,
        "plan": " ".join(options[1::2]),
        "dry_run_s": round(requested, 1),
        "seconds_forecast": reported["seconds"]["total"],
        "seconds_taken": round(taken.seconds, 2),
        "memory_mb_forecast": reported["memory_mb"],
        "memory_mb_taken": taken.peak_rss_mb,
        "test": (taken.summary["test"] or {}).get("accuracy"),
        "stages_forecast": reported["seconds"],
        "stages_taken": taken.summary["seconds"],
    }
