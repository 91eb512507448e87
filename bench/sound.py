"""Spoken digits: new recordings of known speakers, new speakers, shuffled labels."""

from __future__ import annotations

import csv
import json
import random
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import warmstart
from bench import results

SET = "spoken_digits"


def add_options(parser: ArgumentParser) -> None:
    """--budget, --speakers, --minutes, --again."""
    parser.add_argument("--budget", default="fast", choices=("fast", "balanced"))
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no run after these")
    parser.add_argument("--again", action="store_true", help="make anew what is kept already")
    parser.add_argument("--speakers", type=int, default=6, help="left out one after the other")


def measure(args: Namespace) -> dict[str, Any]:
    """Fit by the official split, then without one speaker at a time, then on shuffled labels.

    Each run is a line of results/sound-BUDGET.jsonl; those that are there are not made again.
    `--data` is the folder that holds spoken_digits/{train,test}/<digit>/<digit>_<speaker>_*.wav.
    """
    clips = [_clip(path) for path in sorted((args.data / SET).rglob("*.wav"))]
    stored = results.FOLDER / f"sound-{args.budget}.jsonl"
    rows = [] if args.again or not stored.exists() else _lines(stored)
    made, until = {row["what"] for row in rows}, time.monotonic() + 60 * args.minutes
    for what, table in _draws(clips, args.speakers):
        if what in made or time.monotonic() > until:
            continue
        rows.append({"what": what, **_fitted(table, args.budget)})
        stored.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(rows[-1], file=sys.stderr, flush=True)
    speakers = [row["test"] for row in rows if row["what"].startswith("without")]
    output = {row["what"]: row for row in rows}
    summary: dict[str, Any] = {}
    if "new recordings" in output:
        row = output["new recordings"]
        summary["new recordings"] = row["test"]
        summary["new recordings, low"], summary["new recordings, high"] = row["low"], row["high"]
    if speakers:
        summary["new speakers, mean"] = float(np.mean(speakers))
        summary["speakers left out"] = len(speakers)
    if "shuffled" in output:
        summary["shuffled labels"] = output["shuffled"]["verdict"]
    return {"summary": summary, "budget": args.budget, "rows": rows}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _clip(path: Path) -> dict[str, str]:
    label, speaker, _ = path.stem.split("_")
    return {
        "path": str(path.absolute()),
        "label": label,
        "speaker": speaker,
        "split": path.parts[-3],
    }


def _draws(clips: list[dict[str, str]], n: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """What is asked, and the table for it."""
    yield "new recordings", clips
    for left in sorted({clip["speaker"] for clip in clips})[:n]:
        blocks = [{**c, "split": "test" if c["speaker"] == left else "train"} for c in clips]
        yield f"without {left}", blocks
    train = [clip for clip in clips if clip["split"] == "train"]
    labels = [clip["label"] for clip in train]
    random.Random(0).shuffle(labels)
    yield "shuffled", [{**c, "label": label} for c, label in zip(train, labels, strict=True)]


def _fitted(table: list[dict[str, str]], budget: str) -> dict[str, Any]:
    """One run; speakers are groups where one of them is left out."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "clips.csv"
        with open(file, "w", newline="") as opened:
            writer = csv.DictWriter(opened, ["path", "label", "speaker", "split"])
            writer.writeheader()
            writer.writerows(table)
        speakers = [
            {c["speaker"] for c in table if c["split"] == block} for block in ("train", "test")
        ]
        group = "speaker" if speakers[1] and not speakers[0] & speakers[1] else None
        began = time.perf_counter()
        run = warmstart.fit(file, budget=budget, group=group, out=Path(place) / "run")
        result = run.summary
    return {
        "test": result.test and result.test.accuracy,
        "low": result.test and result.test.low,
        "high": result.test and result.test.high,
        "log_loss": result.test and result.test.log_loss,
        "estimate": result.estimate and result.estimate.value,
        "verdict": result.verdict.kind,
        "strategy": result.shipped.strategy,
        "seconds": round(time.perf_counter() - began, 1),
        "findings": sorted({finding.kind for finding in result.findings}),
    }
