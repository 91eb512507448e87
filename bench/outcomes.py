"""Verdict against outcome: linear probe, fine-tuning and scratch in full on small sets."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import results, sets
from bench.small import copy_few
from bench.trial import judged, set_up, try_fine_tuning
from bench.verdict import without_knowledge
from warmstart.events import drain
from warmstart.evidence import check
from warmstart.features.batches import to_tensor
from warmstart.network.feature_layers import feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.ledger import take_digests
from warmstart.network.load import PretrainedModel, load
from warmstart.planning.schedule import schedule
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import parse
from warmstart.records.inputs import pictures
from warmstart.records.network import FeatureLayer
from warmstart.request import Request, read_data
from warmstart.run import plan as run_plan
from warmstart.stats.paired import mean_interval
from warmstart.training.batches import open_source, read_pixels
from warmstart.training.dataset import TrainingDataset
from warmstart.training.linear_probe import zero_head
from warmstart.training.loop import TrainingJob
from warmstart.training.trainable import trainable

KEPT = results.FOLDER / "outcomes.jsonl"
SIDE = "input.size=96"  # px; everything is run at it, scratch too
POINT = 0.01
CHUNK = 50  # images that are asked about at once
KINDS = ("linear-probe", "fine-tune", "no-transfer", "no-signal")


@dataclass(frozen=True)
class Cell:
    """Some images of a set, a base model, true or random labels."""

    set: str
    n: int  # training images, about
    base: str = "lite0"  # or "blank": the same, its weights shuffled
    labels: str = "true"  # or "random"


def cells() -> Iterator[Cell]:
    """True labels, a base model with shuffled weights, random labels; then more images."""
    few = ("car_brands", "wbc_cells_site2")
    yield from (Cell(name, 100) for name in sets.ALL)
    yield from (Cell(name, 100, base="blank") for name in sets.ALL[:9])
    yield from (Cell(name, 100, labels="random") for name in sets.ALL[:9])
    yield from (Cell(name, 240) for name in sets.ALL if name not in few)


def add_options(parser: ArgumentParser) -> None:
    """--most, --only: cells run in this call; those that are kept are not run again."""
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=list(sets.ALL), help="sets")


def measure(args: Namespace) -> dict[str, Any]:
    """Run the cells that are missing, then judge the verdicts of all that are kept."""
    rows = results.lines(KEPT)
    done = {Cell(**row["cell"]) for row in rows}
    todo = [c for c in cells() if c not in done and c.set in args.only]
    for cell in todo[: args.most]:
        rows.append(_run(sets.root(args), cell))
        with open(KEPT, "a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "hits"}), file=sys.stderr)
    order = [*cells()]
    rows.sort(key=lambda row: order.index(Cell(**row["cell"])))
    return {"summary": summary(rows), "rows": [_row(row) for row in rows]}


# ---- one cell ----------------------------------------------------------------------------


def _run(root: Path, cell: Cell) -> dict[str, Any]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = copy_few(root / cell.set, Path(place), most=cell.n)
        if cell.labels == "random":
            _shuffle(data, np.random.default_rng(len(cell.set)))
        request = Request(data=data, settings=parse_settings([SIDE]))
        if cell.base == "blank":
            known = load("lite0")
            blank = without_knowledge(drain(read_data(request)), known, 0)
            request = replace(
                request, base=blank.module, preprocessing=pictures(blank.record.preprocessing)
            )
        training_data, base = set_up(request)
        inspection = drain(check.check(training_data))
        trial = try_fine_tuning(request, training_data, base)
        verdict = judged(trial, inspection)
        hits = {"linear-probe": trial.hits[0], "fine-tune": trial.hits[trial.tuned]}
        labels = training_data.labelled.test_labels
        usual = int(np.bincount(training_data.labelled.labels).argmax())
        hits["majority"] = (labels == usual).astype(float)
        scratch = _scratch(request, training_data, base)
    hits["scratch"] = hits["majority"] if scratch is None else scratch
    return {
        "cell": asdict(cell),
        "verdict": verdict.kind,
        "n": len(training_data.labelled.learn),
        "n_test": len(labels),
        "evidence": _evidence(verdict.evidence),
        "accuracy": {name: round(float(h.mean()), 4) for name, h in hits.items()},
        "shipped": "linear-probe" if trial.chosen == 0 else "fine-tune",
        "hits": {name: "".join(str(int(x)) for x in h) for name, h in hits.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }


def _shuffle(data: Path, rng: np.random.Generator) -> None:
    """Random labels, in training and test set."""
    for block in ("train", "test"):
        files = sorted((data / block).rglob("*.jpg"))
        homes = [file.parent for file in files]
        moved = [file.rename(data / f"{block}-{i:05d}.jpg") for i, file in enumerate(files)]
        order = rng.permutation(len(files))
        for i, file in enumerate(moved):
            file.rename(homes[order[i]] / f"{i:05d}.jpg")


def _scratch(
    request: Request, training_data: TrainingDataset, base: PretrainedModel
) -> NDArray[np.float64] | None:
    """Whether a network trained from nothing on all images answers each test image rightly.

    None where training was given up.
    """
    labelled, network = training_data.labelled, partition_base(base)
    wanted = replace(request, strategy=parse("scratch"), given=frozenset({"strategy"}))
    plan = run_plan.make_plan(
        wanted,
        labelled.facts(),
        run_plan.network_facts(wanted, base, network, None),
        tuple(training_data.probe_layers),
        training_data.extracted.engine,
    )
    head = zero_head(
        feature_layers(network.record)[-1:], 0, labelled.n_classes, len(labelled.learn)
    )
    job = TrainingJob(
        make=lambda: trainable(network, plan, head, _nothing_read, request.seed),
        schedule=schedule(plan),
        source=drain(open_source(training_data, plan, schedule(plan))),
        digests=take_digests(network),
        rows=np.arange(len(labelled.learn)),
        held=np.arange(0),
    )
    made = drain(job.learn()).trainable
    if made is None:
        return None
    pixels = read_pixels(training_data.collection, labelled.test, training_data.prep)
    chunks = np.split(np.arange(len(pixels)), range(CHUNK, len(pixels), CHUNK))
    with torch.inference_mode():
        reported = [
            made.model(to_tensor(pixels.rows(c), training_data.prep)).argmax(1) for c in chunks
        ]
    return (torch.cat(reported).numpy() == labelled.test_labels).astype(float)


def _nothing_read(layer: FeatureLayer) -> NDArray[np.float32]:
    """No head was fitted."""
    return np.empty((0, 0), np.float32)


def _evidence(result: Any) -> dict[str, Any]:
    """The numbers that the table of the verdict looks at."""
    output: dict[str, Any] = {}
    for one in result:
        if one.name == "permutation_test":
            output |= {"p": one.details["p"], "mde": one.details["mde"], "n": one.n}
            output |= {k: one.details[k] for k in ("plain", "plain_p") if k in one.details}
        elif one.name == "transfer_gain" and one.value is not None:
            output |= {one.name: one.value, f"{one.name}_error": one.details["error"]}
        elif one.name == "fine_tuning_gain" and one.value is not None:
            output |= {one.name: one.value, "fine_tuning_gain_error": (one.high - one.low) / 3.92}
    return output


# ---- what was right ----------------------------------------------------------------------


def right_kinds(row: dict[str, Any]) -> set[str]:
    """Every verdict that the outcome on the test images would bear out."""
    hits = {k: np.array([int(c) for c in text], float) for k, text in row["hits"].items()}
    warm = max(("linear-probe", "fine-tune"), key=lambda k: hits[k].mean())
    best = max(("linear-probe", "fine-tune", "scratch"), key=lambda k: hits[k].mean())
    result = set()
    if _is_near(hits["linear-probe"], hits[best]):
        result.add("linear-probe")
    if _is_near(hits["fine-tune"], hits[best]):
        result.add("fine-tune")
    if _is_near(hits["scratch"], hits[warm]):
        result.add("no-transfer")
    if not any(_beats(hits[k], hits["majority"]) for k in ("linear-probe", "fine-tune", "scratch")):
        result.add("no-signal")
    return result


def _is_near(mine: np.ndarray, best: np.ndarray) -> bool:
    """Within a point, or one standard error of the paired difference."""
    gap = best - mine
    return bool(gap.mean() <= max(POINT, gap.std(ddof=1) / np.sqrt(len(gap))))


def _beats(mine: np.ndarray, usual: np.ndarray) -> bool:
    low = mean_interval(mine - usual, np.arange(len(mine)))[1]
    return low > 0


def _row(row: dict[str, Any]) -> dict[str, Any]:
    cell = row["cell"]
    return {
        "set": cell["set"],
        "n": row["n"],
        "base": cell["base"],
        "labels": cell["labels"],
        "verdict": row["verdict"],
        "right": sorted(right_kinds(row)),
        **row["accuracy"],
        **row["evidence"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often verdicts are right, and what answering always alike would score."""
    output = [row["verdict"] for row in rows]
    right = [right_kinds(row) for row in rows]
    clear = [(t, r) for t, r in zip(output, right, strict=True) if t != "inconclusive"]
    return {
        "cells": len(rows),
        "verdicts": dict(Counter(output)),
        "right of those that say something": f"{sum(t in r for t, r in clear)} of {len(clear)}",
        "inconclusive": f"{output.count('inconclusive')} of {len(rows)}",
        "always the same": {
            kind: round(float(np.mean([kind in r for r in right])), 3) for kind in KINDS
        },
        "wrong": [
            f"{row['cell']['set']} {row['n']} {row['cell']['base']} {row['cell']['labels']}: "
            f"{t}, {'/'.join(sorted(r))}"
            for row, t, r in zip(rows, output, right, strict=True)
            if t != "inconclusive" and t not in r
        ],
    }
