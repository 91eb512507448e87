"""Bytes exchanged by two processes of one job, by number of images."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench import results
from bench.scale_data import WEIGHTS, images, write_shards
from bench.sets import root
from warmstart.planning.rules import DUAL_LIMIT

# Run in a network of its own, where nobody else's bytes are counted.
LAUNCH = """
import fcntl, os, re, socket, struct, subprocess, sys
up = struct.pack("16sH14s", b"lo", 0x41, b"")  # IFF_UP | IFF_RUNNING
fcntl.ioctl(socket.socket(), 0x8914, up)  # SIOCSIFFLAGS
n, command = int(sys.argv[1]), sys.argv[2:]
ranks = [
    os.environ | {"RANK": str(k), "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": "29501", "OMP_NUM_THREADS": "1"}
    for k in range(n)
]
jobs = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for env in ranks]
codes = [job.wait() for job in jobs]
sent = re.search(r"lo:\\s*(\\d+)", open("/proc/net/dev").read())[1]
print(sent if set(codes) <= {0, 3} else f"exit {codes}")
"""


def add_options(parser: ArgumentParser) -> None:
    """--sizes, --processes, --network, --place: images, who shares them, where rows are kept.

    Two sizes at least up to 2,000: above, heads are fitted from sums, which are sent too.
    """
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 3000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--network", default="test_efficientnet")
    parser.add_argument("--place", type=Path, help="folder that keeps rows: go on where stopped")


def measure(args: Namespace) -> dict[str, Any]:
    """A look and a head by several processes, in a network that holds nothing else (Linux)."""
    with tempfile.TemporaryDirectory() as name:
        place = args.place or Path(name)
        place.mkdir(exist_ok=True)
        stored = place / "exchange.jsonl"
        known = {row["n"] for row in results.lines(stored)}
        for n in args.sizes:
            if n not in known:
                row = {"n": n, "processes": args.processes, "mb": _sent(args, n) / 1e6}
                results.add(stored, row)
        rows = results.lines(stored)
    few = [row for row in rows if row["n"] <= DUAL_LIMIT]
    each = (few[-1]["mb"] - few[0]["mb"]) / (few[-1]["n"] - few[0]["n"])
    sums = [row["mb"] - few[0]["mb"] - each * (row["n"] - few[0]["n"]) for row in rows[len(few) :]]
    summary = {
        "bytes an image": round(1e6 * each),
        "MB once, where a head is added up": [round(step, 1) for step in sums],
    }
    return {"summary": summary, "rows": rows}


def _sent(args: Namespace, n: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = place / "start.safetensors"
        subprocess.run([sys.executable, "-c", WEIGHTS, args.network, weights], check=True)
        write_shards(place / "data", images(root(args), n))
        fit = [sys.executable, "-m", "warmstart", "fit", str(place / "data")]
        fit += ["--base", str(weights), "--arch", f"timm:{args.network}", "--strategy", "head"]
        fit += ["--budget", "fast", "--set", "input.size=32", "--set", "training.engine=torch"]
        fit += ["--out", str(place / "run"), "-q"]
        alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        job = subprocess.run(
            [*alone, sys.executable, "-c", LAUNCH, str(args.processes), *fit],
            env=os.environ | {"WARMSTART_CACHE": str(place / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
    if not job.stdout.strip().isdigit():
        sys.exit(f"{job.stdout}{job.stderr[-800:]}")
    return int(job.stdout)
