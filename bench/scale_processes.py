"""Several processes on the cores of one: how much longer, how much memory, the same model?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.scale import make_images, write_weights

MOST = 1.15  # times the seconds of one process
MOST_TO_END = 60  # seconds from the death of a process to the end of the others
TOLERANCE = 1e-3  # of a probability
# Or so many times what one process differs from itself where it sums a batch in another order.
DRIFTS = 3
PLACE = Path(tempfile.gettempdir()) / "warmstart-bench-processes"
CACHED = ("--strategy", "last:2")
LIVE = ("--strategy", "last:4", "--set", "training.split_at=0", "--set", "training.epochs=2")
# 500 updates: enough for a last bit to be seen.
LONG = ("--strategy", "last:2", "--set", "input.size=128", "--set", "training.epochs=25")
HALVES = ("--set", "training.micro_batch=8")  # of a batch of 16, as two processes share it
# Blocks that all cost the same and hold as much, all of them trained.
BLOCKS = "vit_tiny_patch16_224"
WHOLE = (
    "--strategy",
    "full",
    "--set",
    "training.epochs=2",
    "--set",
    "input.size=128",
    "--set",
    "training.folds=1",
    "--set",
    "training.micro_batch=4",
)
SMALL = ("--set", "input.size=64", "--set", "training.epochs=2", "--strategy", "last:2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command in several processes, and the job of one process that it is compared with."""

    name: str
    size: int
    images: int
    words: tuple[str, ...]
    beside: str = ""
    drift: str = ""  # of one process beside itself: the job that shows it, after as many updates
    network: str = ""  # of timm, with random weights; the default base model where none is named
    dies: str = ""  # the stage in which the last process is killed


def jobs(images: int) -> tuple[Job, ...]:
    """What is measured; the two that are timed against each other come first."""
    live = (*LIVE, "--set", "input.size=128", "--set", "training.folds=1")
    return (
        Job(name="1", size=1, images=images, words=CACHED),
        Job(name="2", size=2, images=images, words=CACHED, beside="1", drift="1 long, in halves"),
        Job(name="1 long", size=1, images=200, words=LONG),
        Job(name="1 long, in halves", size=1, images=200, words=(*LONG, *HALVES), beside="1 long"),
        Job(
            name="2 long",
            size=2,
            images=200,
            words=LONG,
            beside="1 long",
            drift="1 long, in halves",
        ),
        Job(name="1 live", size=1, images=160, words=WHOLE, network=BLOCKS),
        Job(
            name="2 pipeline",
            size=2,
            images=160,
            beside="1 live",
            network=BLOCKS,
            words=(*WHOLE, "--parallel", "pipeline:2"),
        ),
        Job(
            name="2 fsdp",
            size=2,
            images=160,
            beside="1 live",
            network=BLOCKS,
            words=(*WHOLE, "--parallel", "fsdp"),
        ),
        Job(name="1 small", size=1, images=64, words=SMALL),
        Job(name="8 small", size=8, images=64, words=SMALL, beside="1 small"),
        Job(
            name="8 small fsdp",
            size=8,
            images=64,
            beside="1 small",
            words=(*SMALL, "--parallel", "fsdp"),
        ),
        Job(
            name="2, killed in feature extraction",
            size=2,
            images=images,
            words=CACHED,
            dies="features",
        ),
        Job(name="2, killed in fine-tuning", size=2, images=160, words=live, dies="fine_tune"),
    )


def add_options(parser: ArgumentParser) -> None:
    """--images, --jobs, --budget, --place: how much is fitted, and where it can be gone on with."""
    parser.add_argument("--images", type=int, default=1000, help="of the job that is timed")
    parser.add_argument("--jobs", nargs="+", help="some of them, by name")
    parser.add_argument("--budget", default="fast")
    parser.add_argument("--place", type=Path, default=PLACE, help="gone when all is done")


def measure(args: Namespace) -> dict[str, Any]:
    """Fit the same images by 1, 2, … processes, each job with a cache of its own.

    Jobs that were finished before an interruption are not done again.
    """
    args.place.mkdir(parents=True, exist_ok=True)
    stored = args.place / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(stored.read_text()) if stored.exists() else {}
    for job in jobs(args.images):
        if job.name not in rows and (not args.jobs or job.name in args.jobs):
            rows[job.name] = _row(args, job, rows)
            stored.write_text(json.dumps(rows))
            print(f"{job.name}: {_said(job, rows)}", file=sys.stderr, flush=True)
    if len(rows) == len(jobs(args.images)):
        shutil.rmtree(args.place)
    done = [job for job in jobs(args.images) if job.name in rows]
    return {
        "summary": {f"processes: {job.name}": _said(job, rows) for job in done},
        "rows": [rows[job.name] for job in done],
    }


def _row(args: Namespace, job: Job, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    images = args.place / f"images-{job.images}"
    if not images.exists():
        make_images(images, job.images)
    run = args.place / job.name.replace(" ", "-")
    shutil.rmtree(run, ignore_errors=True)
    row: dict[str, Any] = {"job": job.name, "processes": job.size, "images": job.images}
    began = time.perf_counter()
    started = _base(args, job, images, run)
    if job.dies:
        return row | {"seconds_to_end": _killed(job, run, started)}
    peaks = [_peak_mb(one) for one in started]
    if any(one.returncode not in (0, 3) for one in started):
        sys.exit(f"{job.name}: ended with {[one.returncode for one in started]}")
    summary = json.loads((run / "run" / "summary.json").read_text())
    row |= {
        "words": " ".join(job.words),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_mb": peaks,
        "seconds_by_stage": summary["seconds"],
        "guards": len(summary["guards"]),
        **_shares(run / "run" / "progress.jsonl"),
    }
    if job.beside in rows:
        other = args.place / job.beside.replace(" ", "-") / "run"
        row |= _differences(other, run / "run")
        row["times_the_first"] = round(row["seconds"] / rows[job.beside]["seconds"], 3)
    return row


def _base(args: Namespace, job: Job, images: Path, run: Path) -> list[subprocess.Popen[bytes]]:
    """One job, its processes started as a launcher does, with a cache that they share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["fit", str(images), *job.words, "--budget", args.budget, "-q"]
    if job.network:
        weights = write_weights(args.place, job.network)
        words += ["--base", str(weights), "--arch", f"timm:{job.network}"]
    words += ["--set", "training.engine=torch", "--out", str(run / "run")]
    result = []
    for rank in range(job.size):
        env = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(job.size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WARMSTART_CACHE": str(run / "cache"),
        }
        if job.size > 1:
            env["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", "warmstart", *words]
        result.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
    return result


def _peak_mb(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; the most memory it ever held, as the system tells."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return round(usage.ru_maxrss / 1024, 1)


def _killed(job: Job, run: Path, started: list[subprocess.Popen[bytes]]) -> float:
    """Kill the last process in a stage; seconds until the others have ended."""
    log = run / "run" / "progress.jsonl"
    while not any(e["stage"] == job.dies and e["kind"] == "step" for e in _events(log)):
        if started[0].poll() is not None:
            sys.exit(f"{job.name}: ended before its {job.dies}")
        time.sleep(0.05)
    started[-1].send_signal(signal.SIGKILL)
    began = time.perf_counter()
    for one in started:
        one.wait()
    return round(time.perf_counter() - began, 1)


def _events(log: Path) -> list[dict[str, Any]]:
    """Whole lines of a log that is being written."""
    text = log.read_text("utf-8") if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _shares(log: Path) -> dict[str, float]:
    """What processes that shared weights said of it."""
    reported = [e["values"] for e in _events(log) if "largest" in e["values"]]
    names = ("largest", "idle", "least_idle")
    return {name: reported[-1][name] for name in names if reported and name in reported[-1]}


def _said(job: Job, rows: dict[str, dict[str, Any]]) -> str:
    row = rows[job.name]
    if job.dies:
        bar = "within" if row["seconds_to_end"] <= MOST_TO_END else "above"
        return f"the others ended {row['seconds_to_end']} s later, {bar} {MOST_TO_END} s"
    text = f"{row['seconds']:.1f} s, at most {max(row['peak_mb']):,.0f} MB in a process"
    if "largest" in row:
        text += f", {100 * row['largest']:.0f} % of the parameters in the fullest"
    if "idle" in row:
        text += f", idle {100 * row['idle']:.0f} % (at least {100 * row['least_idle']:.0f} %)"
    if "probability" not in row:
        return text
    text += f", {row['times_the_first']} times one process"
    if job.name == "2":
        text += f" ({'within' if row['times_the_first'] <= MOST else 'above'} {MOST})"
    text += f"; {verdict(job, rows)}: probabilities differ by {row['probability']:.1e} at most"
    return f"{text}, the losses of {row['steps']} updates by {row['loss']:.1e}"


def verdict(job: Job, rows: dict[str, dict[str, Any]]) -> str:
    """Whether a job gave the model of the one that it is compared with."""
    if rows[job.name]["probability"] <= TOLERANCE:
        return "same model"
    if job.size == 1:
        return "the same but for the order of sums"
    allowed = DRIFTS * rows[job.drift]["probability"] if job.drift in rows else 0.0
    is_near = rows[job.name]["probability"] <= allowed
    return "no further off than one process from itself" if is_near else "another model"


def _differences(one: Path, other: Path) -> dict[str, float]:
    """Largest differences of a probability, of a loss and, relative to the largest, of a weight."""
    reported = []
    for run in (one, other):
        lines = (run / "predictions.jsonl").read_text().splitlines()
        reported.append(np.array([[*json.loads(line)["scores"].values()] for line in lines]))
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    gaps = [
        float(np.abs(ours[n] - theirs[n]).max() / max(float(np.abs(ours[n]).max()), 1e-12))
        for n in ours
        if ours[n].dtype == np.float32
    ]
    result = {"probability": float(np.abs(reported[0] - reported[1]).max()), "weight": max(gaps)}
    losses = [_losses(run / "progress.jsonl") for run in (one, other)]
    return result | {"loss": float(np.abs(losses[0] - losses[1]).max()), "steps": len(losses[0])}


def _losses(log: Path) -> Any:
    """Of all updates of all trainings, whichever of them is shipped."""
    steps = [e for e in _events(log) if e["stage"] == "fine_tune" and "loss" in e["values"]]
    return np.array([step["values"]["loss"] for step in steps])
