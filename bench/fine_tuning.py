"""Fine-tuning: depth, learning rate, epochs and head, on held-out and test images."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench import results, sets
from bench.trial import set_up, try_fine_tuning
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import parse
from warmstart.request import Request
from warmstart.training import fine_tune
from warmstart.training.early_stopping import END, REFIT, ChosenEnd

STORED = results.FOLDER / "fine_tuning.jsonl"
SETS = ("pacs_sketch", "skin_lesions", "clothing")
# Strategy (of 18 blocks), learning rate, epochs.
VARIANTS: dict[str, tuple[str, float, int]] = {
    "third slow short": ("last:6", 3e-4, 5),
    "third fast long": ("last:6", 1e-3, 10),
    "half slow long": ("last:9", 3e-4, 10),
    "half fast long": ("last:9", 1e-3, 10),
}


def add_options(parser: ArgumentParser) -> None:
    """--sets, --variants."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))


def measure(args: Namespace) -> dict[str, Any]:
    """Train what is not kept yet."""
    rows = results.lines(STORED)
    done = {(row["set"], row["variant"]) for row in rows}
    for name in args.sets:
        for variant in args.variants:
            if (name, variant) not in done:
                rows.append(_row(sets.root(args) / name, variant))
                STORED.write_text("".join(json.dumps(row) + "\n" for row in rows))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"summary": summary(rows), "rows": rows}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the sets of each variant."""
    keys = ("head", "tuned", "head_loss", "trained_loss", "joined_loss", "seconds")
    result = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        result[variant] = {
            "sets": len(own),
            **{k: round(float(np.mean([r[k] for r in own])), 4) for k in keys},
        }
    return result


def _row(folder: Path, variant: str) -> dict[str, Any]:
    """`*_loss`: log-loss of rows held out; `head` and `tuned`: accuracy on the test part."""
    strategy, rate, epochs = VARIANTS[variant]
    n = sum(1 for _ in (folder / "train").glob("*/*"))
    request = Request(
        data=folder,
        budget="balanced",
        strategy=parse(strategy),
        given=frozenset({"strategy", "budget"}),
        settings=parse_settings([f"training.lr={rate}", f"training.epochs={epochs}"]),
    )
    training_data, base = set_up(request)
    seen: list[ChosenEnd] = []
    choose, began = fine_tune.choose_end, time.perf_counter()

    def stored(*args: Any, **named: Any) -> ChosenEnd:
        seen.append(choose(*args, **named))
        return seen[-1]

    with patch.object(fine_tune, "choose_end", stored):
        trial = try_fine_tuning(request, training_data, base)
    before = trial.fine_tuned.probe_answers
    head = before if before is not None else trial.head.probabilities
    held = np.isfinite(head[:, 0])
    own = head[held, training_data.labelled.labels[held]]
    losses = np.nanmean(seen[0].losses, axis=1)
    return {
        "set": folder.name,
        "variant": variant,
        "n": n,
        "head": round(float(trial.hits[0].mean()), 4),
        "tuned": round(float(trial.hits[1].mean()), 4),
        "head_loss": round(float(-np.log(np.maximum(own, 1e-12)).mean()), 4),
        "trained_loss": round(float(losses[END]), 4),
        "joined_loss": round(float(losses[REFIT]), 4) if len(losses) > REFIT else None,
        "candidate": seen[0].candidate,
        "guards": [g.kind for g in trial.fine_tuned.guards],
        "seconds": round(time.perf_counter() - began, 1),
    }
