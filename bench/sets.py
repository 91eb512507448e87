"""The image sets and fits on them: <root>/<set>/{train,test}/<class>/*."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EIGHT = (
    "ants_bees",
    "clothing",
    "sign_digits",
    "wbc_cells",
    "pacs_sketch",
    "textures10",
    "skin_lesions",
    "trashnet",
)
ALL = (
    *EIGHT,
    "cats_dogs",
    "pacs_photo",
    "vehicles",
    "car_brands",
    "cat_breeds",
    "wbc_cells_site2",
)


def root(args: Namespace) -> Path:
    """The folder of sets: --data, else WARMSTART_IMAGES."""
    named = args.data or os.environ.get("WARMSTART_IMAGES")
    if not named or not Path(named).is_dir():
        sys.exit("name the folder of image sets with --data or WARMSTART_IMAGES")
    return Path(named)


@dataclass(frozen=True)
class Fitted:
    """One fit in a process of its own."""

    seconds: float  # process start to finished run folder
    summary: dict[str, Any]
    correct: str  # one digit a test image, ordered by class and file name
    peak_rss_mb: float


def fit(data: Path, *options: str, cache: Path | None = None) -> Fitted:
    """Run `warmstart fit` with a cold cache (or the one given) and read its folder."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        env = os.environ | {"WARMSTART_CACHE": str(cache or Path(place) / "cache")}
        command = [sys.executable, "-m", "warmstart", "fit", str(data), "--out", str(out), "--json"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *options], env=env, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        if done.returncode not in (0, 3):
            sys.exit(f"{data.name}: {done.stderr.strip()[-500:]}")
        summary = json.loads((out / "summary.json").read_text())
        lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        tests = sorted((p["target"], p["id"], p["label"]) for p in lines if p["split"] == "test")
        correct = "".join(str(int(target == label)) for target, _, label in tests)
        return Fitted(seconds, summary, correct, summary["peak_rss_mb"])
