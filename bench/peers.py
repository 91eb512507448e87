"""Other tools' recipes and `warmstart fit` on the same images, from 5 a class to all of them."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import results, sets

KEPT = results.FOLDER / "peers_sizes.jsonl"
SCRIPT = Path(__file__).with_name("image_peers.py")
OURS = {"warmstart fast": "fast", "warmstart": "balanced"}
METHODS = (*OURS, "onelook", "fastai5", "trainer3", "keras", "timm")
SETS = ("ants_bees", "pacs_sketch", "trashnet")  # near, far, middling
SIZES = (5, 20, 100, 0)  # a class; 0: all there are

Key = tuple[str, str, int, int]


def add_options(parser: ArgumentParser) -> None:
    """--python, --methods, --sets, --sizes, --seeds, --threads, --most."""
    parser.add_argument("--python", default=sys.executable, help="one that has the other tools")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=1000, help="runs in this call")


def measure(args: Namespace) -> dict[str, Any]:
    """Run what this machine has not run yet; everything that is kept is told."""
    rows = results.lines(KEPT)
    cpu = results.machine()["cpu"]
    done = {_key(row) for row in rows if row["cpu"] == cpu}
    for key in [key for key in _wanted(args) if key not in done][: args.most]:
        row = _row(args, key) | {"cpu": cpu, "threads": args.threads}
        results.add(KEPT, row)
        rows.append(row)
    order = [(size, name, method) for size in SIZES for name in SETS for method in METHODS]
    rows.sort(key=lambda row: (order.index((row["size"], row["set"], row["method"])), row["seed"]))
    return {"summary": summary(rows), "rows": rows}


def _key(row: dict[str, Any]) -> Key:
    return row["method"], row["set"], row["size"], row["seed"]


def _wanted(args: Namespace) -> Iterator[Key]:
    """Few images first."""
    for size in sorted(args.sizes, key=lambda size: size or np.inf):
        for name in args.sets:
            least = min(_counts(sets.root(args) / name))
            if size >= least:  # the same as all
                continue
            for seed in args.seeds:
                yield from ((method, name, size, seed) for method in args.methods)


def _counts(folder: Path) -> list[int]:
    return [sum(1 for _ in one.iterdir()) for one in (folder / "train").iterdir()]


def _row(args: Namespace, key: Key) -> dict[str, Any]:
    method, name, size, seed = key
    with tempfile.TemporaryDirectory() as place:
        data = drawn(sets.root(args) / name, Path(place), size, seed)
        n = sum(_counts(data))
        output = (
            _ours(data, Path(place), OURS[method], seed, args.threads)
            if method in OURS
            else _theirs(args, method, data, seed)
        )
    right = np.array([int(digit) for digit in output["correct"]])
    return {
        "method": method,
        "set": name,
        "size": size,
        "seed": seed,
        "n": n,
        "accuracy": round(float(right.mean()), 4),
        **output,
    }


def drawn(source: Path, place: Path, size: int, seed: int) -> Path:
    """A copy of `size` training images a class, and of the whole test part."""
    rng, target = random.Random(f"{source.name} {seed}"), place / source.name
    for block in ("train", "test"):
        for one in sorted((source / block).iterdir()):
            files = sorted(one.iterdir())
            rng.shuffle(files)
            (target / block / one.name).mkdir(parents=True)
            for file in files[: size or None] if block == "train" else files:
                shutil.copy(file, target / block / one.name / file.name)
    return target


def _theirs(args: Namespace, method: str, data: Path, seed: int) -> dict[str, Any]:
    command = [args.python, str(SCRIPT), method, str(data), "--seed", str(seed)]
    command += ["--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{method} on {data.name}: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _ours(data: Path, place: Path, budget: str, seed: int, threads: int) -> dict[str, Any]:
    """`warmstart fit` in a process of its own, with a cold cache."""
    out = place / "run"
    env = os.environ | {"WARMSTART_CACHE": str(place / "cache"), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "warmstart", "fit", str(data), "--out", str(out)]
    command += ["--budget", budget, "--seed", str(seed), "--quiet"]
    began, used = time.perf_counter(), _used()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    seconds, cpu = time.perf_counter() - began, _used() - used
    if done.returncode not in (0, 3):
        sys.exit(f"{data.name}: {done.stderr.strip()[-500:]}")
    output = json.loads((out / "summary.json").read_text())
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    tests = sorted((p["target"], p["id"], p["label"]) for p in lines if p["split"] == "test")
    weights = [file.stat().st_size for file in (out / "model").glob("*.safetensors")]
    return {
        "correct": "".join(str(int(target == label)) for target, _, label in tests),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(output["peak_rss_mb"]),
        "model_mb": round(sum(weights) / 1e6, 1),
        "verdict": output["verdict"]["kind"],
        "shipped": output["shipped"]["strategy"],
        "estimate": [round(output["estimate"][k], 4) for k in ("value", "low", "high")],
    }


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy and processor seconds of each method, by size, where all were run."""
    result: dict[str, Any] = {}
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        by_method = {
            m: {(r["set"], r["seed"]): r for r in own if r["method"] == m} for m in METHODS
        }
        shared = set.intersection(*(set(one) for one in by_method.values() if one))
        for method, one in by_method.items():
            if one and shared:
                mean = {
                    k: float(np.mean([one[s][k] for s in shared]))
                    for k in ("accuracy", "cpu_seconds")
                }
                result[f"{method}, {size or 'all'} a class"] = {
                    "sets": len(shared),
                    "accuracy": round(mean["accuracy"], 4),
                    "cpu_seconds": round(mean["cpu_seconds"], 1),
                }
    return result
