"""A network of 557 million parameters, offloaded, on a small machine: time, memory, disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from bench import results

MOST_MEMORY_MB, MOST_DISK_GB, MOST_MINUTES = 4000, 25.0, 90
SAMPLE_S = 0.5  # between two looks at a child
# Knows the network's name, then is the command line.
CHILD = "import sys, bench.scale_networks; from warmstart.cli.main import main; sys.exit(main())"
WEIGHTS = """
import sys, timm, torch, bench.scale_networks
from safetensors.torch import save_file
with torch.device("meta"):
    module = timm.create_model(sys.argv[1], num_classes=10)
torch.manual_seed(0)
state = {}
for name, tensor in module.state_dict().items():
    scale = (tensor[0].numel() ** -0.5) if tensor.ndim > 1 else 0.0
    drawn = torch.empty(tensor.shape).normal_(std=scale) if scale else torch.zeros(tensor.shape)
    is_scale = "norm" in name and name.endswith("weight")
    state[name] = drawn + 1 if is_scale else drawn + 0.1 if "gamma" in name else drawn
save_file(state, sys.argv[2])
"""


def add_options(parser: ArgumentParser) -> None:
    """--network, --images, --size, --strategies, --budget, --place, --in-memory, --set."""
    parser.add_argument("--network", default="convnext_557m")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128, help="px; 31 GMAC an image at 557 M")
    parser.add_argument("--strategies", nargs="+", default=["head", "last:1"])
    parser.add_argument("--budget", default="fast")
    parser.add_argument(
        "--place",
        type=Path,
        help="folder for weights, images, cache and runs; what is there is gone on with",
    )
    parser.add_argument("--in-memory", action="store_true", help="the same without streaming")
    parser.add_argument("--set", action="append", default=[], help="as of `fit`")


def measure(options_: Namespace) -> dict[str, Any]:
    """Write weights and images, then fit in child processes that are watched from outside."""
    with tempfile.TemporaryDirectory() as name:
        place = options_.place or Path(name)
        place.mkdir(exist_ok=True)
        weights = write_weights(place, options_.network)
        if not (place / "images").exists():
            make_images(place / "images", options_.images)
        for strategy in options_.strategies:
            row = _cell(options_, place, weights, strategy)
            with open(place / "rows.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
        rows = results.lines(place / "rows.jsonl")
    return {"summary": {row["strategy"]: _verdict(row) for row in rows}, "rows": rows}


def write_weights(place: Path, network: str) -> Path:
    """A file of random weights for a network of timm or of `scale_networks`, unless it is there."""
    weights = place / f"{network}.safetensors"
    if not weights.exists():
        subprocess.run([sys.executable, "-c", WEIGHTS, network, weights], check=True)
    return weights


def make_images(target: Path, n: int) -> None:
    """n JPEGs of tinted noise in two classes, 160 px."""
    rng = np.random.default_rng(0)
    for number in range(n):
        folder = target / ("blue", "red")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 200, (20, 20, 3), dtype=np.uint8)
        coarse[..., 2 - 2 * (number % 2)] += rng.integers(0, 40, dtype=np.uint8)
        image = Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05d}.jpg", quality=90)


def _cell(options_: Namespace, place: Path, weights: Path, strategy: str) -> dict[str, Any]:
    """One fit, with the forecast before it."""
    out, cache = place / f"run-{strategy}", place / "cache"
    command = [sys.executable, "-c", CHILD, "fit", str(place / "images"), "--base", str(weights)]
    command += ["--arch", f"timm:{options_.network}", "--strategy", strategy]
    command += ["--budget", options_.budget, "--set", f"input.size={options_.size}"]
    streams = "false" if options_.in_memory else "true"
    command += ["--set", f"training.offload={streams}", "--set", "training.engine=torch"]
    if strategy != "head":
        command += [word for one in options_.set for word in ("--set", one)]
    env = os.environ | {"WARMSTART_CACHE": str(cache)}
    output, watch = place / f"forecast-{strategy}.json", Watch(place, f"used-{strategy}.jsonl", env)
    if out.exists():  # an earlier one was stopped
        command = [sys.executable, "-c", CHILD, "resume", str(out), "-q"]
    else:
        job = subprocess.run([*command, "--dry-run", "--json"], env=env, capture_output=True)
        if job.returncode:
            sys.exit(f"dry run: {job.stderr.decode()[-500:]}")
        output.write_bytes(job.stdout)
        command += ["--out", str(out), "-q"]
    code = watch.run(command)
    if code not in (0, 3):
        sys.exit(f"fit {strategy}: exit {code}: {(place / 'log').read_text()[-500:]}")
    expected_group = json.loads(output.read_text())["forecast"]
    summary = json.loads((out / "summary.json").read_text())
    passed = {part["name"]: part["macs"] for part in _parts(out)}
    return {
        "strategy": strategy,
        "network": options_.network,
        "images": options_.images,
        "size_px": options_.size,
        "streamed": not options_.in_memory,
        "exit": code,
        "parameters": summary["base"]["parameters"],
        "gmacs_an_image": round(sum(passed.values()) / 1e9, 2),
        "blocks": len(passed),
        **watch.peaks(),
        "feature_seconds_an_image": round(summary["seconds"]["features"] / options_.images, 3),
        "forecast": {
            "seconds": expected_group["seconds"]["total"],
            "memory_mb": expected_group["memory_mb"],
            "disk_mb": expected_group["disk_mb"],
        },
        "seconds_by_stage": summary["seconds"],
        "verdict": summary["verdict"]["kind"],
    }


def _parts(out: Path) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads((out / "network.json").read_text())["blocks"]
    return result


@dataclass(frozen=True)
class Watch:
    """Child processes of one cell, watched from outside; `name` keeps what each of them used."""

    place: Path
    name: str
    env: dict[str, str]

    def run(self, command: list[str], beside: Callable[[int], None] = lambda pid: None) -> int:
        """Run one to its end, note what it used, and give its exit code.

        `beside` runs in a thread meanwhile, and is given the child's number.
        """
        before, most, peak = self._disk(), 0, 0.0
        began = time.perf_counter()
        with open(self.place / "log", "w") as log:
            child = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
            looker = Thread(target=beside, args=(child.pid,))
            looker.start()
            while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
                peak = max(peak, _peak(child.pid))
                most = max(most, self._disk())
                time.sleep(SAMPLE_S)
        looker.join()
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        used = {
            "seconds": round(time.perf_counter() - began, 1),
            "processor_seconds": round(ended[2].ru_utime + ended[2].ru_stime, 1),
            "peak_rss_mb": round(peak / 1e6),
            "disk_gb": round((most - before) / 1e9, 2),
            "cache_before_gb": round(before / 1e9, 2),
            "exit": child.returncode,
        }
        with open(self.place / self.name, "a") as file:
            file.write(json.dumps(used) + "\n")
        return child.returncode

    def peaks(self) -> dict[str, float]:
        """All processes of the cell together: the largest memory, the sum of the seconds."""
        lines = (self.place / self.name).read_text().splitlines()
        used = [json.loads(line) for line in lines]
        sums = {
            key: round(sum(u[key] for u in used), 1) for key in ("seconds", "processor_seconds")
        }
        peaks = {key: max(u[key] for u in used) for key in ("peak_rss_mb", "disk_gb")}
        return {
            **sums,
            **peaks,
            "processes": len(used),
            "cache_before_gb": used[0]["cache_before_gb"],
        }

    def _disk(self) -> int:
        """Bytes of the cache and of runs."""
        own = ("images", "data")
        folders = (path for path in self.place.iterdir() if path.is_dir() and path.name not in own)
        return sum(size_of(folder) for folder in folders)


def _peak(pid: int) -> float:
    """VmHWM: the largest resident memory of a process so far; 0 once it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((1024.0 * int(s.split()[1]) for s in lines if s.startswith("VmHWM")), default=0.0)


def size_of(place: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # gone meanwhile
            continue
    return total


def _verdict(row: dict[str, Any]) -> str:
    within = {
        "memory": row["peak_rss_mb"] <= MOST_MEMORY_MB,
        "disk": row["disk_gb"] <= MOST_DISK_GB,
        "time": row["seconds"] <= 60 * MOST_MINUTES,
    }
    lost = [name for name, holds in within.items() if not holds]
    return (
        f"{row['parameters'] / 1e6:.0f} M parameters, {row['images']:,} images: "
        f"{row['seconds'] / 60:.1f} min ({row['processor_seconds'] / 60:.1f} of a processor), "
        f"{row['peak_rss_mb']:,} MB, {row['disk_gb']:.1f} GB of disk; "
        f"{'above in ' + ', '.join(lost) if lost else 'within all three'}"
    )
