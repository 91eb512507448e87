"""Fine-tuning gain and estimate of `fit` against the truth on all other images.

Draws of some images of a set learn; all its other images, test set included, are the truth.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench import results, sets
from bench.trial import LEAST, measured, set_up, try_fine_tuning
from warmstart.planning.settings import parse_settings
from warmstart.request import Request
from warmstart.stats.metrics import MODEL_VARIANCE, hits_estimate
from warmstart.stats.paired import hits_difference
from warmstart.training import ship
from warmstart.training.ship import FINE_TUNED, PROBE, SHARES, decide

KEPT = results.FOLDER / "gain.jsonl"
SETS = (
    "clothing",
    "pacs_sketch",
    "skin_lesions",
    "textures10",
    "sign_digits",
    "wbc_cells",
    "trashnet",
    "cat_breeds",
    "ants_bees",
    "pacs_photo",
    "cats_dogs",
    "vehicles",
)
TRIED = (0.0, 0.25, 0.5, 1.0)  # of RESTORED


def add_options(parser: ArgumentParser) -> None:
    """--sets, --sizes, --draws, --side, --arrays."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 200])
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=128, help="px; smaller pictures train faster")
    parser.add_argument("--again", action="store_true", help="from the answers in --arrays")
    parser.add_argument("--arrays", type=Path, help="folder for the answers of every cell")


def measure(args: Namespace) -> dict[str, Any]:
    """Train what is not kept yet, then summarise all that is kept.

    A change of the rule needs no new training: with --again all is decided anew from --arrays.
    """
    if args.again:
        return _again(args)
    rows = results.lines(KEPT)
    done = {(row["set"], row["n"], row["draw"]) for row in rows}
    for draw in args.draws:
        for n in args.sizes:
            for name in args.sets:
                if (name, n, draw) not in done:
                    row = _row(sets.root(args) / name, n, draw, args)
                    if row is not None:
                        rows.append(row)
                        results.add(KEPT, row)
                        print(json.dumps(row), file=sys.stderr, flush=True)
    return {"summary": summary(rows), "rows": rows}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bias and coverage of what is stated, over all cells and over those that ship fine-tuned."""
    shipped = [row for row in rows if row["shipped"] > 0]
    result: dict[str, Any] = {}
    for name, some in (("all", rows), ("fine-tuned ships", shipped)):
        if not some:
            continue
        gap = np.array([row["gain"] - row["realised"] for row in some])
        claim = np.array([row["estimate"] - row["truth"] for row in some])
        inside = [row["gain_low"] <= row["realised"] <= row["gain_high"] for row in some]
        held = [row["low"] <= row["truth"] <= row["high"] for row in some]
        result[name] = {
            "cells": len(some),
            "stated gain": _points(np.mean([row["gain"] for row in some])),
            "realised gain": _points(np.mean([row["realised"] for row in some])),
            "stated minus realised": _interval(gap),
            "its interval holds the realised": f"{np.mean(inside):.3f}",
            "estimate minus truth": _interval(claim),
            # The same draws are hard or easy for both: what is left is the fine-tuning's own.
            "less that of the linear probe": _interval(
                claim - np.array([row["linear_probe"] - row["linear_truth"] for row in some])
            ),
            "its interval holds the truth": f"{np.mean(held):.3f}",
        }
    return result


def _points(share: float) -> float:
    return round(100 * float(share), 2)


def _interval(gaps: np.ndarray) -> str:
    """Mean in points with its standard error."""
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
    return f"{100 * gaps.mean():+.2f} ± {100 * error:.2f}"


def _row(folder: Path, n: int, draw: int, args: Namespace) -> dict[str, Any] | None:
    """One draw; None where the set is too small to leave as many for the truth."""
    files = sorted(p for block in ("train", "test") for p in (folder / block).glob("*/*"))
    if len(files) < 2 * n:
        return None
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        _draw(files, n, np.random.default_rng([draw, n]), Path(place))
        request = Request(
            data=Path(place),
            budget="balanced",
            seed=draw,
            settings=parse_settings([f"input.size={args.side}"]),
        )
        training_data, base = set_up(request)
        trial = try_fine_tuning(request, training_data, base)
        claim = measured(trial)
    kind, head = trial.chosen, trial.fine_tuned.head
    if args.arrays is not None and trial.fine_tuned.probe_answers is not None:
        args.arrays.mkdir(parents=True, exist_ok=True)
        labelled = trial.training_data.labelled
        np.savez_compressed(
            args.arrays / f"{folder.name}-{n}-{draw}.npz",
            probe=trial.head.probabilities,
            before=trial.fine_tuned.probe_answers,
            tuned=head.probabilities,
            labels=labelled.labels,
            fold=head.fold,
            groups=labelled.groups(),
            tested=trial.tested,
            test_labels=labelled.test_labels,
        )
    gain, right = claim.gain, trial.hits.mean(axis=1)
    best = trial.tuned
    return {
        "set": folder.name,
        "n": n,
        "draw": draw,
        "side": args.side,
        "shipped": SHARES[kind] if kind != PROBE else 0.0,
        "compared": SHARES[best],
        "gain": _share(gain.value if gain else 0.0),
        "gain_low": _share(gain.low if gain else 0.0),
        "gain_high": _share(gain.high if gain else 0.0),
        "realised": _share(right[best] - right[PROBE]),
        "estimate": _share(claim.estimate.value),
        "low": _share(claim.estimate.low),
        "high": _share(claim.estimate.high),
        "truth": _share(right[kind]),
        "linear_probe": _share(claim.linear_probe.value),
        "linear_truth": _share(right[PROBE]),
        "n_test": len(trial.hits[0]),
        "guards": [g.kind for g in trial.fine_tuned.guards],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _again(args: Namespace) -> dict[str, Any]:
    """Every kept cell under the rule as it is now, and with its constant set on other sets."""
    stored = results.lines(KEPT)
    tried = {}
    for share in TRIED:
        with mock.patch.object(ship, "RESTORED", share):
            tried[share] = [_decided(old, args.arrays) for old in stored]
    rows = [_decided(old, args.arrays) for old in stored]
    KEPT.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen, apart = {}, []
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen[name] = min(TRIED, key=lambda share: abs(_gap(tried[share], without=name)))
        apart += [row for row in tried[chosen[name]] if row["set"] == name]
    return {
        "summary": summary(rows)
        | {
            "stated minus realised, by the share restored": {
                str(share): _interval(
                    np.array([row["gain"] - row["realised"] for row in tried[share]])
                )
                for share in TRIED
            },
            "share set on all other sets": {
                "chosen": {str(share): list(chosen.values()).count(share) for share in TRIED},
                **summary(apart)["all"],
            },
        },
        "rows": rows,
    }


def _gap(rows: list[dict[str, Any]], without: str) -> float:
    """Stated minus realised gain, mean over all other sets."""
    return float(np.mean([r["gain"] - r["realised"] for r in rows if r["set"] != without]))


def _decided(old: dict[str, Any], arrays: Path) -> dict[str, Any]:
    """A cell from its kept answers."""
    stored = np.load(arrays / f"{old['set']}-{old['n']}-{old['draw']}.npz")
    fold, labels, groups = stored["fold"], stored["labels"], stored["groups"]
    decision = decide(stored["probe"], stored["before"], stored["tuned"], labels, fold, groups)
    held = fold >= 0
    logs = np.log(np.maximum(stored["tested"], LEAST))
    right = [
        float(((s * logs[1] + (1 - s) * logs[0]).argmax(axis=1) == stored["test_labels"]).mean())
        for s in SHARES
    ]
    hits = [
        (answers[held].argmax(axis=1) == labels[held]).astype(float)
        for answers in (stored["probe"], decision.fine_tuned, decision.probabilities)
    ]
    kind, best = decision.kind, decision.kind or FINE_TUNED
    apart = hits_difference(hits[1], hits[0], groups[held], MODEL_VARIANCE)
    probe, claim = (hits_estimate(h, groups[held], "nested-cv") for h in (hits[0], hits[2]))
    return old | {
        "shipped": SHARES[kind],
        "compared": SHARES[best],
        "gain": _share(apart.value),
        "gain_low": _share(apart.low),
        "gain_high": _share(apart.high),
        "realised": _share(right[best] - right[PROBE]),
        "estimate": _share(claim.value),
        "low": _share(claim.low),
        "high": _share(claim.high),
        "truth": _share(right[kind]),
        "linear_probe": _share(probe.value),
        "linear_truth": _share(right[PROBE]),
    }


def _share(value: float | None) -> float:
    return round(float(value or 0.0), 4)


def _draw(files: list[Path], n: int, rng: np.random.Generator, place: Path) -> None:
    """Copies of `n` of the files as train, classes in proportion, to all others as test."""
    by_class: dict[str, list[Path]] = {}
    for file in files:
        by_class.setdefault(file.parent.name, []).append(file)
    for label, own in by_class.items():
        count = max(round(n * len(own) / len(files)), 2)
        order = rng.permutation(len(own))
        for block, some in (("train", order[:count]), ("test", order[count:])):
            folder = place / block / label
            folder.mkdir(parents=True)
            for k in some:
                link = folder / f"{own[k].parent.parent.name}-{own[k].name}"
                link.write_bytes(own[k].read_bytes())
