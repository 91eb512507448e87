"""An offloaded run killed (SIGKILL) at every step and resumed, beside an uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench import results
from bench.kills import compare
from bench.scale import CHILD, make_images, write_weights

LOOK_S = 0.005  # between two looks at what a run says


def add_options(parser: ArgumentParser) -> None:
    """--network, --images, --size, --strategy, --augmentations, --kills, --place."""
    parser.add_argument("--network", default="test_convnext")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--strategy", default="last:1")
    parser.add_argument("--augmentations", type=int, default=2)
    parser.add_argument("--kills", type=int, help="at most so many in this call")
    parser.add_argument("--place", type=Path, help="folder that keeps runs: go on where stopped")


def measure(args: Namespace) -> dict[str, Any]:
    """Two runs with a cache each; one is killed at every step of every augmentation."""
    with tempfile.TemporaryDirectory() as name:
        place = args.place or Path(name)
        place.mkdir(exist_ok=True)
        command = _command(args, place)
        whole, killed = place / "whole", place / "killed"
        if not (whole / "DONE").exists():
            shutil.rmtree(whole, ignore_errors=True)
            _run([*command, "--out", str(whole)], place / "cache-whole")
        stored = place / "rows.jsonl"
        result = _killed([*command, "--out", str(killed)], killed, place, results.lines(stored))
        for row in islice(result, args.kills):
            results.add(stored, row)
        if not (killed / "DONE").exists():
            sys.exit("some parts are left: call it again with the same --place")
        rows, differing = results.lines(stored), compare(whole, killed)
    blocks = {(row["stage"], row["augmentation"], row["part"]) for row in rows}
    summary = {
        "kills": f"{len(rows)}, in {len(blocks)} different parts",
        "files and figures that differ from a run never killed": ", ".join(differing) or "none",
    }
    return {"summary": summary, "rows": rows, "differing": differing}


def _command(args: Namespace, place: Path) -> list[str]:
    """The fit of a streamed network."""
    weights = write_weights(place, args.network)
    if not (place / "images").exists():
        make_images(place / "images", args.images)
    command = [sys.executable, "-c", CHILD, "fit", str(place / "images")]
    command += ["--base", str(weights), "--arch", f"timm:{args.network}"]
    command += ["--strategy", args.strategy, "--budget", "fast", "-q"]
    settings = [f"input.size={args.size}", "training.offload=true", "training.engine=torch"]
    if args.strategy != "head":
        settings += [
            f"training.epochs={320 / args.images:g}",
            "training.batch_size=16",
            f"training.augmentations={args.augmentations}",
        ]
    return [*command, *(word for one in settings for word in ("--set", one))]


def _env(cache: Path) -> dict[str, str]:
    return os.environ | {"WARMSTART_CACHE": str(cache)}


def _run(command: list[str], cache: Path) -> None:
    job = subprocess.run(command, env=_env(cache), capture_output=True, text=True, check=False)
    if job.returncode not in (0, 3):
        sys.exit(job.stderr[-500:])


def _killed(
    command: list[str], out: Path, place: Path, rows: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Kill the run in the first part that it has not been killed in, until none is left.

    `rows`: the kills of an earlier call.
    """
    seen = {(row["stage"], row["augmentation"], row["part"]) for row in rows}
    while not (out / "DONE").exists():
        if (out / "request.json").exists():
            command = [sys.executable, "-c", CHILD, "resume", str(out), "-q"]
        child = subprocess.Popen(command, env=_env(place / "cache"), stdout=subprocess.DEVNULL)
        result = None
        while child.poll() is None and result is None:
            time.sleep(LOOK_S)
            result = _place(out)
            if result in seen:
                result = None
        if result is None:
            if child.returncode not in (0, 3):
                sys.exit(f"exit {child.returncode}")
            return
        child.kill()
        child.wait()
        seen.add(result)
        yield dict(zip(("stage", "augmentation", "part"), result, strict=True))


def _place(out: Path) -> tuple[str, str, int] | None:
    """The stage, augmentation and part of the last event, where it is one of a part at work."""
    try:
        lines = (out / "progress.jsonl").read_text().splitlines()
    except OSError:
        return None
    augmentation = ""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        augmentation = (
            str(event["values"].get("title", augmentation))
            if event["kind"] == "begin"
            else augmentation
        )
    if not lines or event["kind"] != "step" or "part" not in event["values"]:
        return None
    return event["stage"], augmentation, int(event["values"]["part"])
