"""Two processes on the cores of one: how much longer, and is it the same model?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.scale import make_images

MOST = 1.15  # times the seconds of one process
TOLERANCE = 1e-3  # of a probability


def add_options(parser: ArgumentParser) -> None:
    """--images, --sizes, --strategy, --budget, --set: what is fitted, by how many processes."""
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--strategy", default="last:2")
    parser.add_argument("--budget", default="fast")
    parser.add_argument("--set", action="append", default=[], help="as of `fit`")


def measure(given: Namespace) -> dict[str, Any]:
    """Fit the same images by 1, 2, … processes, each number with a cache of its own."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_images(place / "images", given.images)
        rows = [_cell(given, place, size) for size in given.sizes]
        for row in rows[1:]:
            row |= _differences(place / f"run-{given.sizes[0]}", place / f"run-{row['processes']}")
            row["times_the_first"] = round(row["seconds"] / rows[0]["seconds"], 3)
    return {"summary": {f"{row['processes']} processes": _said(row) for row in rows}, "rows": rows}


def _said(row: dict[str, Any]) -> str:
    text = f"{row['seconds']:.1f} s"
    if "times_the_first" not in row:
        return text
    if row["processes"] == 2:
        bar = "within" if row["times_the_first"] <= MOST else "above"
        text += f", {row['times_the_first']} times one process, {bar} {MOST}"
    same = "same model" if row["probability"] <= TOLERANCE else "another model"
    return f"{text}; {same}: probabilities differ by {row['probability']:.1e} at most"


def _cell(given: Namespace, place: Path, size: int) -> dict[str, Any]:
    """One job, its processes started as a launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["fit", str(place / "images"), "--strategy", given.strategy, "--budget", given.budget]
    words += ["--set", "training.engine=torch", "--out", str(place / f"run-{size}"), "-q"]
    words += [word for one in given.set for word in ("--set", one)]
    began, jobs = time.perf_counter(), []
    for rank in range(size):
        env = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "WARMSTART_CACHE": str(place / f"cache-{size}"),
        }  # fmt: skip
        if size > 1:
            env["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", "warmstart", *words]
        jobs.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
    codes = [job.wait() for job in jobs]
    if any(code not in (0, 3) for code in codes):
        sys.exit(f"{size} processes ended with {codes}")
    summary = json.loads((place / f"run-{size}" / "summary.json").read_text())
    return {
        "processes": size, "images": given.images, "strategy": given.strategy,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_by_stage": summary["seconds"], "guards": len(summary["guards"]),
    }  # fmt: skip


def _differences(one: Path, other: Path) -> dict[str, float]:
    """Largest differences of a probability and, relative to the largest, of a weight."""
    said = []
    for run in (one, other):
        lines = (run / "predictions.jsonl").read_text().splitlines()
        said.append(np.array([[*json.loads(line)["scores"].values()] for line in lines]))
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    gaps = [
        float(np.abs(ours[n] - theirs[n]).max() / max(float(np.abs(ours[n]).max()), 1e-12))
        for n in ours if ours[n].dtype == np.float32
    ]  # fmt: skip
    return {"probability": float(np.abs(said[0] - said[1]).max()), "weight": max(gaps)}
