"""How fast `warmstart --help` and `import warmstart` answer."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

COMMANDS = {
    "warmstart --help": [sys.executable, "-m", "warmstart", "--help"],
    "import warmstart": [sys.executable, "-c", "import warmstart"],
    "python alone": [sys.executable, "-c", "pass"],
}


def add_options(parser: ArgumentParser) -> None:
    """--repeats."""
    parser.add_argument("--repeats", type=int, default=15)


def measure(args: Namespace) -> dict[str, Any]:
    """Median of whole processes after one warm-up."""
    rows = []
    for name, command in COMMANDS.items():
        times = []
        for _ in range(args.repeats + 1):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        rows.append(
            {"command": name, "median s": float(np.median(times[1:])), "max s": max(times[1:])}
        )
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, warmstart; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {"summary": {"torch loaded by import warmstart": loaded}, "rows": rows}
