"""Many small images in shards: how memory, time and disk grow with their number."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import results
from bench.curves import Curve, fitted
from bench.memory import watch
from bench.scale import Watch, size_of
from bench.sets import EIGHT, root

SIDE = 32  # px of an image
SIZES = [1000, 4000, 10_000, 30_000, 100_000]
CROPS = 8  # taken of a real image at a time
IN_A_SHARD = 5000
FORMS = ("shards", "parquet")
MOST_BYTES = 1000  # of memory that one more image may take
# Tests hold at most 2,000 rows at once, as kernels; of more images, equal parts of about as many.
# From here on, at multiples of 2,000, these are as large as they get.
MANY = 4000
WEIGHTS = """
import sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model(sys.argv[1], num_classes=10).state_dict(), sys.argv[2])
"""
QUANTITIES = ("seconds", "processor_seconds", "peak_rss_mb", "disk_mb")


def add_options(parser: ArgumentParser) -> None:
    """--sizes, --form, --network, --place: how many images, packed how, looked at by what."""
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--form", choices=FORMS, default="shards")
    parser.add_argument("--network", default="test_efficientnet")
    parser.add_argument("--place", type=Path, help="folder that keeps rows: go on where stopped")


def measure(args: Namespace) -> dict[str, Any]:
    """Fit each number of images in a child process, with a cache of its own."""
    with tempfile.TemporaryDirectory() as name:
        place = args.place or Path(name)
        place.mkdir(exist_ok=True)
        stored = place / "rows.jsonl"
        known = {(row["n"], row["form"]) for row in results.lines(stored)}
        for n in args.sizes:
            if (n, args.form) not in known:
                results.add(stored, _cell(args, n, place))
        rows = results.lines(stored)
    curves = {form: _curves([r for r in rows if r["form"] == form]) for form in FORMS}
    return {"summary": _summary(rows), "curves": curves, "rows": rows}


def _curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each quantity grows: see `curves`. Memory is that of many images."""
    result: dict[str, Curve] = {}
    for name in QUANTITIES:
        output = [row for row in rows if row["n"] >= MANY] if name == "peak_rss_mb" else rows
        if len(output) > 2:
            result[name] = fitted([row["n"] for row in output], [row[name] for row in output])
    return {name: curve.plain() for name, curve in result.items()}


def _summary(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Bytes of memory and seconds that one more image takes, between least and most."""
    reported = {}
    for form in FORMS:
        own = sorted((r for r in rows if r["form"] == form), key=lambda row: row["n"])
        for less, more in pairwise(own):
            images = more["n"] - less["n"]
            grown = 1e6 * (more["peak_rss_mb"] - less["peak_rss_mb"]) / images
            longer = 1e3 * (more["processor_seconds"] - less["processor_seconds"]) / images
            bar = f"{'within' if grown <= MOST_BYTES else 'above'} {MOST_BYTES:,}"
            if less["n"] < MANY:
                bar = "all rows at once"
            reported[f"{form}, {less['n']:,} to {more['n']:,} images"] = (
                f"{less['peak_rss_mb']:.0f} to {more['peak_rss_mb']:.0f} MB: {grown:,.0f} bytes an "
                f"image, {bar}; {longer:.2f} processor ms an image"
            )
    return reported


# ---- the data ------------------------------------------------------------------------------


def images(source: Path, n: int) -> Iterator[tuple[str, str, bytes]]:
    """Names, labels and JPEGs of n crops of real images, the set's name as label."""
    rng = np.random.default_rng(0)
    files = sorted(path for name in EIGHT for path in (source / name).rglob("*.jpg"))
    number = 0
    while number < n:
        path = files[int(rng.integers(len(files)))]
        with Image.open(path) as image:
            whole = image.convert("RGB")
        for _ in range(min(CROPS, n - number)):
            yield f"{number:07d}", path.relative_to(source).parts[0], _crop(whole, rng)
            number += 1


def _crop(image: Image.Image, rng: np.random.Generator) -> bytes:
    side = int(rng.integers(min(image.size) // 6, min(image.size) // 3))  # few overlap
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    box = (left, top, left + side, top + side)
    block = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    buffer = io.BytesIO()
    block.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(target: Path, result: Iterator[tuple[str, str, bytes]]) -> None:
    """As WebDataset does: 00017.jpg and 00017.cls, so many in a tar."""
    target.mkdir(parents=True)
    for at, chunk in enumerate(_chunks(result)):
        with tarfile.open(target / f"{at:05d}.tar", "w") as archive:
            for name, label, payload in chunk:
                for suffix, content in (("jpg", payload), ("cls", label.encode())):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def write_parquet(target: Path, result: Iterator[tuple[str, str, bytes]]) -> None:
    """As `datasets` does: a struct of bytes and path, and a label, so many in a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target.mkdir(parents=True)
    for at, chunk in enumerate(_chunks(result)):
        columns = {
            "image": [{"bytes": payload, "path": f"{name}.jpg"} for name, _, payload in chunk],
            "label": [label for _, label, _ in chunk],
        }
        pq.write_table(pa.table(columns), target / f"train-{at:05d}.parquet", row_group_size=1000)


def _chunks(result: Iterator[tuple[str, str, bytes]]) -> Iterator[list[tuple[str, str, bytes]]]:
    chunk: list[tuple[str, str, bytes]] = []
    for one in result:
        chunk.append(one)
        if len(chunk) == IN_A_SHARD:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


WRITERS = {"shards": write_shards, "parquet": write_parquet}


# ---- one fit -------------------------------------------------------------------------------


def _cell(args: Namespace, n: int, stored: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=stored) as name:
        place = Path(name)
        weights = place / "start.safetensors"
        subprocess.run([sys.executable, "-c", WEIGHTS, args.network, weights], check=True)
        WRITERS[args.form](place / "data", images(root(args), n))
        command = [sys.executable, "-m", "warmstart", "fit", str(place / "data")]
        command += ["--base", str(weights), "--arch", f"timm:{args.network}"]
        command += ["--set", f"input.size={SIDE}", "--set", "training.engine=torch"]
        command += ["--budget", "fast", "--strategy", "head", "--out", str(place / "run"), "-q"]
        env = os.environ | {"WARMSTART_CACHE": str(place / "cache")}
        peaks: dict[str, float] = {}
        cpu: dict[str, float] = {}
        by_stage = partial(watch, out=place / "run", peaks=peaks, cpu=cpu)
        used = Watch(place, "used.jsonl", env)
        if used.run(command, by_stage) not in (0, 3):
            sys.exit(f"fit on {n:,} images: {(place / 'log').read_text()[-800:]}")
        summary = json.loads((place / "run" / "summary.json").read_text())
        disk = size_of(place / "cache") + size_of(place / "run")
        data, output = size_of(place / "data"), used.peaks()
    return {
        "n": n,
        "form": args.form,
        "network": args.network,
        "size_px": SIDE,
        **{name: output[name] for name in ("peak_rss_mb", "seconds", "processor_seconds")},
        "disk_mb": round(disk / 1e6, 1),
        "data_mb": round(data / 1e6, 1),
        "peak_by_stage_mb": {stage: round(peak, 1) for stage, peak in peaks.items()},
        "cpu_by_stage_s": {stage: round(spent, 1) for stage, spent in cpu.items()},
        "seconds_by_stage": summary["seconds"],
        "duplicates": summary["data"]["duplicates"],
        "accuracy": round(summary["estimate"]["value"], 4),
    }
