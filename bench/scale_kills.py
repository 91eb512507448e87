"""A streamed run killed (SIGKILL) in every part and resumed, beside one that never was."""

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

from bench.kills import compare
from bench.scale import CHILD, make_images, write_weights

LOOK_S = 0.005  # between two looks at what a run says


def add_options(parser: ArgumentParser) -> None:
    """--network, --images, --size, --strategy: what is streamed, and killed."""
    parser.add_argument("--network", default="test_convnext")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--strategy", default="last:1")


def measure(given: Namespace) -> dict[str, Any]:
    """Two runs with a cache each; one is killed in each part of the look and of each view."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = write_weights(place, given.network)
        make_images(place / "images", given.images)
        command = [sys.executable, "-c", CHILD, "fit", str(place / "images")]
        command += ["--start", str(weights), "--arch", f"timm:{given.network}"]
        command += ["--strategy", given.strategy, "--budget", "fast", "-q"]
        settings = [f"input.size={given.size}", "stream=true", "engine=torch"]
        if given.strategy != "head":
            settings += ["passes=320", "batch=16"]
        for one in settings:
            command += ["--set", one if "." in one else f"training.{one}"]
        whole, killed = place / "whole", place / "killed"
        _run([*command, "--out", str(whole)], place / "cache-whole")
        rows = list(_killed([*command, "--out", str(killed)], killed, place / "cache-killed"))
        differing = compare(whole, killed)
    parts = {(row["stage"], row["view"], row["part"]) for row in rows}
    summary = {
        "kills": f"{len(rows)}, in {len(parts)} different parts",
        "files and figures that differ from a run never killed": ", ".join(differing) or "none",
    }
    return {"summary": summary, "rows": rows, "differing": differing}


def _env(cache: Path) -> dict[str, str]:
    return os.environ | {"WARMSTART_CACHE": str(cache)}


def _run(command: list[str], cache: Path) -> None:
    job = subprocess.run(command, env=_env(cache), capture_output=True, text=True, check=False)
    if job.returncode not in (0, 3):
        sys.exit(job.stderr[-500:])


def _killed(command: list[str], out: Path, cache: Path) -> Any:
    """Kill the run in the first part that it has not been killed in, until none is left."""
    seen: set[tuple[str, str, int]] = set()
    while True:
        child = subprocess.Popen(command, env=_env(cache), stdout=subprocess.DEVNULL)
        place = None
        while child.poll() is None and place is None:
            time.sleep(LOOK_S)
            place = _place(out)
            if place in seen:
                place = None
        if place is None:
            if child.returncode not in (0, 3):
                sys.exit(f"exit {child.returncode}")
            return
        child.kill()
        child.wait()
        seen.add(place)
        yield dict(zip(("stage", "view", "part"), place, strict=True))
        command = [sys.executable, "-c", CHILD, "resume", str(out), "-q"]


def _place(out: Path) -> tuple[str, str, int] | None:
    """The stage, view and part of the last event, where it is one of a part at work."""
    try:
        lines = (out / "progress.jsonl").read_text().splitlines()
    except OSError:
        return None
    view = ""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        view = str(event["values"].get("title", view)) if event["kind"] == "begin" else view
    if not lines or event["kind"] != "step" or "part" not in event["values"]:
        return None
    return event["stage"], view, int(event["values"]["part"])
