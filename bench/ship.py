"""What ships: test accuracy of each candidate, and what the rule loses."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bench import sets
from bench.trial import measured, set_up, try_fine_tuning
from warmstart.planning.settings import parse_settings
from warmstart.request import Request
from warmstart.stats.paired import mean_interval
from warmstart.training.ship import SHARES


def add_options(parser: ArgumentParser) -> None:
    """--sets, --set, --budget, --seed."""
    parser.add_argument("--sets", nargs="+", default=list(sets.ALL))
    parser.add_argument("--set", action="append", default=[], help="as of `fit`")
    parser.add_argument("--budget", default="balanced")
    parser.add_argument("--seed", type=int, default=0)


def measure(args: Namespace) -> dict[str, Any]:
    """Linear probe and fine-tuned network of each set; every share of the two on its test set."""
    rows = []
    for name in args.sets:
        rows.append(_row(sets.root(args) / name, args))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"summary": summary(rows), "rows": rows}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the sets, in the order of the shares."""
    right = np.array([row["accuracy"] for row in rows])
    chosen = np.array([row["chosen_accuracy"] for row in rows])
    return {
        "shares of the tuned network": list(SHARES),
        "mean test accuracy of each": np.round(right.mean(axis=0), 4).tolist(),
        "of the rule's choice": round(float(chosen.mean()), 4),
        "regret against the best on the test": round(float((right.max(axis=1) - chosen).mean()), 4),
        "intervals of estimate and test meet": f"{sum(r['holds'] for r in rows)} of {len(rows)}",
    }


def _row(folder: Path, args: Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    request = Request(
        data=folder, budget=args.budget, seed=args.seed, settings=parse_settings(args.set)
    )
    training_data, base = set_up(request)
    trial = try_fine_tuning(request, training_data, base)
    result, kind, accuracy = trial.decision, trial.chosen, trial.hits.mean(axis=1)
    claim = measured(trial).estimate
    estimate = claim.value, claim.low, claim.high
    truth = mean_interval(trial.hits[kind], trial.test_blocks)
    return {
        "set": folder.name,
        "n": len(training_data.labelled.learn),
        "accuracy": [round(float(a), 4) for a in accuracy],
        "chosen": SHARES[kind],
        "chosen_accuracy": round(float(accuracy[kind]), 4),
        "gain": round(result.ahead, 4) if result else None,
        "estimate": [round(v, 4) for v in estimate],
        "holds": bool(truth[1] <= estimate[2] and estimate[1] <= truth[2]),
        "seconds": round(time.perf_counter() - began, 1),
        "guards": [g.kind for g in trial.fine_tuned.guards],
        "correct": "".join(str(int(hit)) for hit in trial.hits[kind]),
    }
