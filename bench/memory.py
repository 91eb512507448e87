"""Peak memory of `fit` on 1,000 and 10,000 images, by stage."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.sets import EIGHT, root
from warmstart.machine import peak_rss_mb

SIDES = (80, 112)  # px: a crop's sides are drawn from here
SAMPLE_S = 0.01  # between two looks at a child's memory
MOST = 1.3  # times the memory of the smallest size that the largest may take


def add_options(parser: ArgumentParser) -> None:
    """--sizes, --strategy, --budgets, --once, --set: passes of training add time, no memory."""
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--strategy", nargs="+", default=["head"])
    parser.add_argument("--budgets", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--once", action="store_true", help="not again with what was stored")
    parser.add_argument("--set", action="append", default=[], help="as of `fit`")


def measure(options_: Namespace) -> dict[str, Any]:
    """Fit crops of real images in child processes: once to look, then with what it stored.

    Feature extraction takes as much memory for many images as for few (the network's), and
    more than most of what follows; hence the runs whose features are in the cache.
    """
    plans = [(strategy, budget) for strategy in options_.strategy for budget in options_.budgets]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for n in options_.sizes:
            data = Path(place) / f"images-{n}"
            make_images(root(options_), data, n)
            for number, plan in enumerate(plans if options_.once else [plans[0], *plans]):
                rows.append(_cell(data, n, *plan, options_.set, is_cold=not number))
                print(rows[-1], file=sys.stderr, flush=True)
    return {"summary": _summary(rows, min(options_.sizes), max(options_.sizes)), "rows": rows}


def _summary(rows: list[dict[str, Any]], least: int, most: int) -> dict[str, str]:
    """Peak at the largest size over that at the smallest, for each kind of run."""
    peaks: dict[str, dict[int, float]] = {}
    for row in rows:
        kind = f"{row['strategy']}, {row['budget']}, {'no cache' if row['cold'] else 'cached'}"
        peaks.setdefault(kind, {})[row["n"]] = row["peak_rss_mb"]
    result = {}
    for kind, peak in peaks.items():
        ratio = peak[most] / peak[least]
        verdict = "within" if ratio <= MOST else "above"
        result[f"{kind}: {most:,} / {least:,} images"] = (
            f"{peak[most]:.0f} / {peak[least]:.0f} MB = {ratio:.2f}, {verdict} {MOST}"
        )
    return result


def make_images(source: Path, target: Path, n: int) -> None:
    """n different JPEGs under <target>/<set>-<class>/: random crops and mirrors of real images.

    Every image of eight sets gives one crop before any gives a second.
    """
    rng = np.random.default_rng(0)
    files = sorted(path for name in EIGHT for path in (source / name).rglob("*.jpg"))
    seen: set[bytes] = set()
    for number, path in enumerate(_in_turn(files, n, rng)):
        name = f"{path.parents[2].name}-{path.parent.name}"
        (target / name).mkdir(parents=True, exist_ok=True)
        crop = _crop(Image.open(path), rng)
        while (content := hashlib.sha256(crop.tobytes()).digest()) in seen:
            crop = _crop(Image.open(path), rng)
        seen.add(content)
        crop.save(target / name / f"{number:05d}.jpg", quality=85)


def _in_turn(files: list[Path], n: int, rng: np.random.Generator) -> Iterator[Path]:
    """n of the files, in a random order, over and over."""
    for start in range(0, n, len(files)):
        for place in rng.permutation(len(files))[: n - start]:
            yield files[place]


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = (min(int(rng.integers(*SIDES, endpoint=True)), side) for side in image.size)
    left = int(rng.integers(image.width - width, endpoint=True))
    top = int(rng.integers(image.height - height, endpoint=True))
    block = image.crop((left, top, left + width, top + height))
    return block.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else block


def _cell(
    data: Path, n: int, strategy: str, budget: str, settings: list[str], *, is_cold: bool
) -> dict[str, Any]:
    """One fit: its own peak, and the largest memory seen from outside in each stage."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        env = os.environ | {"WARMSTART_CACHE": str(data) + ".cache"}
        command = [sys.executable, "-m", "warmstart", "fit", str(data), "--out", str(out), "-q"]
        options = ["--budget", budget, "--strategy", strategy]
        if strategy != "head":
            options += [word for one in settings for word in ("--set", one)]
        began = time.perf_counter()
        with open(Path(place) / "log", "w+") as log:
            child = subprocess.Popen([*command, *options], env=env, stdout=log, stderr=log)
            peaks: dict[str, float] = {}
            cpu: dict[str, float] = {}
            watcher = threading.Thread(target=watch, args=(child.pid, out, peaks, cpu))
            watcher.start()
            code = child.wait()
            watcher.join()
            if code not in (0, 3):
                log.seek(0)
                sys.exit(f"fit on {n:,} images: {log.read()[-500:]}")
        seconds = time.perf_counter() - began
        summary = json.loads((out / "summary.json").read_text())
    if summary["peak_rss_mb"] <= peak_rss_mb():  # a child's peak begins at its parent's
        sys.exit(f"this bench took {peak_rss_mb():.0f} MB itself, as much as what it measures")
    return {
        "n": n,
        "strategy": strategy,
        "budget": budget,
        "settings": settings,
        "cold": is_cold,
        "peak_rss_mb": summary["peak_rss_mb"],
        "seconds": round(seconds, 1),
        "accuracy": round(summary["estimate"]["value"], 4),
        "duplicates": summary["data"]["duplicates"],
        "peak_by_stage_mb": {stage: round(peak, 1) for stage, peak in peaks.items()},
        "cpu_by_stage_s": {stage: round(spent, 1) for stage, spent in cpu.items()},
        "seconds_by_stage": summary["seconds"],
    }


def watch(pid: int, out: Path, peaks: dict[str, float], cpu: dict[str, float]) -> None:
    """Note a process's memory and processor time under the stage that its last event named."""
    events, stage, offset, before = out / "progress.jsonl", "read", 0, 0.0
    while (seen := _resident_and_cpu(pid)) is not None:
        if events.exists():
            with open(events, "rb") as file:
                file.seek(offset)
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            offset += len(whole)
            stage = json.loads(whole.splitlines()[-1])["stage"] if whole else stage
        resident, spent = seen
        peaks[stage] = max(peaks.get(stage, 0.0), resident)
        cpu[stage] = cpu.get(stage, 0.0) + spent - before
        before = spent
        time.sleep(SAMPLE_S)


def _resident_and_cpu(pid: int) -> tuple[float, float] | None:
    """Resident memory in MB and processor time in seconds of a process; None once it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    ticks = int(fields[11]) + int(fields[12])
    pages = int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, ticks / os.sysconf("SC_CLK_TCK")
