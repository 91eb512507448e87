"""Runs killed at random moments and resumed, beside uninterrupted ones: the same bytes?"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.sets import root
from bench.small import SIZE, copy_few

SETS = ("sign_digits", "ants_bees")
PLANS = (  # heads alone, stored activations, the whole network, parts that join one by one
    ("--strategy", "head"),
    ("--strategy", "last:6"),
    ("--strategy", "full"),
    ("--strategy", "last:6+gradual"),
)
COMMON = (
    *SIZE,
    "--set",
    "training.epochs=3",
    "--set",
    "training.folds=2",
    "--minutes",
    "1",
    "--quiet",
)
FILES = (
    "plan.toml",
    "network.json",
    "data.json",
    "inspection.json",
    "weights_ledger.json",
    "predictions.jsonl",
    "label_issues.csv",
)
METRICS = (
    "verdict",
    "shipped",
    "estimate",
    "test",
    "data",
    "base",
    "frozen",
    "guards",
    "findings",
    "linear_probe",
    "fine_tuning_gain",
    "readiness",
)
MOST = 60  # training images
MOST_MODELS = 6  # resumptions of one run: it may be killed again and again


def add_options(parser: ArgumentParser) -> None:
    """--kills: how many runs."""
    parser.add_argument("--kills", type=int, default=30)


def measure(args: Namespace) -> dict[str, Any]:
    """Kill runs at random moments, resume them, compare every byte with one never killed."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        env = os.environ | {"WARMSTART_CACHE": str(Path(place) / "cache")}
        data = {name: copy_few(root(args) / name, Path(place), MOST) for name in SETS}
        cases = [(name, plan) for plan in PLANS for name in SETS]
        wholes = {case: _whole(data[case[0]], case[1], place, env) for case in cases}
        draw = random.Random(7)
        for number in range(args.kills):
            case = cases[number % len(cases)]
            out = Path(place) / f"killed-{number}"
            seconds, reference = wholes[case]
            row = _killed(data[case[0]], case[1], out, env, seconds, draw)
            differing = compare(reference, out)
            rows.append({"set": case[0], "plan": case[1][1], **row, "differing": differing})
            print(rows[-1], file=sys.stderr, flush=True)
    same = sum(not row["differing"] for row in rows)
    mid = sum(row["kills"] > 0 for row in rows)
    summary = {
        "identical": f"{same} of {len(rows)}",
        "killed while at work": f"{mid} of {len(rows)}",
        "kills": sum(row["kills"] for row in rows),
    }
    return {"summary": summary, "rows": rows}


def _command(data: Path, plan: tuple[str, ...], out: Path) -> list[str]:
    own = [] if plan[1] == "head" else list(COMMON)
    if plan[1] == "head":
        own = [*SIZE, "--minutes", "1", "--quiet"]
    return [
        sys.executable,
        "-m",
        "warmstart",
        "fit",
        str(data),
        *plan,
        *own,
        "--out",
        str(out),
    ]


def _whole(
    data: Path, plan: tuple[str, ...], place: str, env: dict[str, str]
) -> tuple[float, Path]:
    """A run that is never killed: seconds, folder. It fills the cache for those after it."""
    out = Path(place) / f"whole-{data.name}-{plan[1].replace(':', '-')}"
    began = time.perf_counter()
    subprocess.run(_command(data, plan, out), env=env, check=True, capture_output=True)
    return time.perf_counter() - began, out


def _killed(
    data: Path,
    plan: tuple[str, ...],
    out: Path,
    env: dict[str, str],
    seconds: float,
    draw: random.Random,
) -> dict[str, Any]:
    """Start, kill after a random time, resume, perhaps kill again, until it is done."""
    kills, moments = 0, []
    command = _command(data, plan, out)
    for attempt in range(MOST_MODELS):
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait = draw.uniform(0.1, 1.0) * seconds if attempt < MOST_MODELS - 2 else None
        try:
            _, reported = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            moments.append(_moment(out))
        else:
            if process.returncode not in (0, 3):
                return {"kills": kills, "moments": moments, "error": reported[-300:]}
            break
        if (out / "request.json").exists():
            command = [sys.executable, "-m", "warmstart", "resume", str(out), "--quiet"]
    return {"kills": kills, "moments": moments}


def _moment(out: Path) -> str:
    """Where the run was: the stage and step of its last whole line."""
    try:
        lines = (out / "progress.jsonl").read_text().splitlines()
    except OSError:
        return "before its folder"
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        return f"{event['stage']} {event['step']}"
    return "begin"


def compare(one: Path, other: Path) -> list[str]:
    """Names of files and metrics in which two run folders differ."""
    names = [*FILES, *(f"model/{path.name}" for path in sorted((one / "model").iterdir()))]
    result = [name for name in names if _bytes(one / name) != _bytes(other / name)]
    ours, theirs = (_summary(folder) for folder in (one, other))
    return result + [key for key in METRICS if ours.get(key) != theirs.get(key)]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result
