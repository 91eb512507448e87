"""Cost of the evidence relative to feature extraction: `fit --budget fast`, `check`, no cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bench import sets


def add_options(parser: ArgumentParser) -> None:
    """--set, --repeats."""
    parser.add_argument("--set", default="trashnet", help="its train part has 1,000 images")
    parser.add_argument("--repeats", type=int, default=3)


def measure(args: Namespace) -> dict[str, Any]:
    """Alternate the two commands, each with an empty store, and read their own clocks."""
    folder = sets.root(args) / args.set / "train"
    result: list[dict[str, Any]] = []
    for number in range(args.repeats):
        for what, words in (("fit fast", ["fit", "--budget", "fast"]), ("check", ["check"])):
            seconds = _seconds(folder, words)
            ratio = seconds["checks"] / seconds["features"]
            result.append({"command": what, "repeat": number, "ratio": ratio, **seconds})
            print(result[-1], flush=True)
    return {
        "summary": {
            f"{what}: evidence / look (median)": float(
                np.median([r["ratio"] for r in result if r["command"] == what])
            )
            for what in ("fit fast", "check")
        },
        "rows": result,
    }


def _seconds(folder: Path, words: list[str]) -> dict[str, float]:
    verb, *options = words
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "warmstart", verb, str(folder), *options, "--json", "-q"]
        command += ["--out", str(Path(place) / "out")]
        env = os.environ | {"WARMSTART_CACHE": str(Path(place) / "cache")}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        seconds = json.loads(done.stdout)["seconds"]
        return {key: seconds[key] for key in ("read", "features", "checks", "total")}
