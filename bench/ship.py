"""The ship rule: what each choice is worth on test images, and what the rule's choice loses."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import sets
from warmstart.data.split import blocks
from warmstart.evaluation.metrics import hits_estimate
from warmstart.events import drain
from warmstart.joints import heads, planned, problems, request
from warmstart.joints.look import take_look
from warmstart.joints.model import origin_of
from warmstart.joints.request import Request
from warmstart.joints.scene import Scene, set_scene
from warmstart.joints.score import head_probabilities
from warmstart.joints.ship import tune_and_weigh
from warmstart.joints.starting import choose_start
from warmstart.joints.tune import NO_LIMIT
from warmstart.recording import Clock
from warmstart.stats.paired import mean_interval
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.ship import SHARES, Decision, decide

LEAST = 1e-12


def add_options(parser: ArgumentParser) -> None:
    """--sets, --set, --budget, --seed."""
    parser.add_argument("--sets", nargs="+", default=list(sets.ALL))
    parser.add_argument("--set", action="append", default=[], help="as of `fit`")
    parser.add_argument("--budget", default="balanced")
    parser.add_argument("--seed", type=int, default=0)


def measure(given: Namespace) -> dict[str, Any]:
    """Head and tail of each set, trained once; every share of the two on its test part."""
    rows = []
    for name in given.sets:
        rows.append(_row(sets.root(given) / name, given))
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
    }  # fmt: skip


def _row(folder: Path, given: Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    scene, start = _scene(folder, given)
    asked = Request(data=folder, budget=given.budget, seed=given.seed, settings=tuple(given.set))
    facts = planned.network_facts(asked, start, scene.look.network, None, is_tried=True)
    plan = planned.make_plan(
        planned.settle(asked), scene.arranged.facts(), facts, tuple(scene.profiles),
        scene.look.engine,
    )  # fmt: skip
    head = drain(heads.fit_all(scene, plan))
    digests = origin_of(start, scene.look.network).digests
    own = replace(plan, strategy=replace(plan.strategy, source="user"))  # nothing is chosen here
    worked = drain(_tuned(scene, own, head, digests))
    arranged = scene.arranged
    found = _decision(scene, worked)
    said = [
        head_probabilities(head, scene.look.reader(arranged.test)),
        head_probabilities(worked.head, worked.reader(arranged.test)),
    ]
    logs = [np.log(np.maximum(p, LEAST)) for p in said]
    mixed = [share * logs[1] + (1 - share) * logs[0] for share in SHARES]
    hits = [(one.argmax(axis=1) == arranged.test_labels).astype(float) for one in mixed]
    accuracy = [float(h.mean()) for h in hits]
    kind = found.kind if found is not None else 0
    estimate = _estimate(scene, found)
    truth = mean_interval(hits[kind], blocks(arranged.test, arranged.twins))
    return {
        "set": folder.name, "n": len(arranged.learn), "accuracy": [round(a, 4) for a in accuracy],
        "chosen": SHARES[kind], "chosen_accuracy": round(accuracy[kind], 4),
        "gain": round(found.gain, 4) if found else None,
        "error": round(found.error, 4) if found else None,
        "tail_gain": round(float((found.deeper - found.head).mean()), 4) if found else None,
        "estimate": [round(v, 4) for v in estimate],
        "holds": bool(truth[1] <= estimate[2] and estimate[1] <= truth[2]),
        "seconds": round(time.perf_counter() - began, 1),
        "guards": [g.kind for g in worked.guards],
    }  # fmt: skip


def _scene(folder: Path, given: Namespace) -> tuple[Scene, Any]:
    asked = Request(data=folder, budget=given.budget, seed=given.seed, settings=tuple(given.set))
    collection = drain(request.read_data(asked))
    _, start = drain(choose_start(asked, collection, Clock()))
    look = drain(take_look(collection, start))
    collection = problems.settled(collection, look, None)
    return set_scene(collection, look, start.record, given.budget, given.seed), start


def _tuned(scene: Scene, plan: Any, head: Any, digests: Any) -> Any:
    return tune_and_weigh(scene, plan, head, digests, NoCheckpoints(), NO_LIMIT)


def _decision(scene: Scene, worked: Any) -> Decision | None:
    if worked.before is None:
        return None
    return decide(
        worked.before.probabilities, worked.head.probabilities, scene.arranged.labels,
        worked.before.fold, scene.arranged.blocks(), np.random.default_rng([scene.seed, 10]),
    )  # fmt: skip


def _estimate(scene: Scene, found: Decision | None) -> tuple[float, float, float]:
    if found is None:
        return 0.0, 0.0, 1.0
    claim = hits_estimate(found.hits, scene.arranged.blocks()[: len(found.hits)], "bbc-cv")
    return claim.value, claim.low, claim.high
