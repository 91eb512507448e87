"""Guards: alarms in broken trainings, false alarms in healthy ones."""

from __future__ import annotations

import math
import statistics
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.sets import root
from bench.trainings import Trained, TrainingSpec, train_all
from warmstart.tasks.classify import entropy
from warmstart.training.guards import FIRST, Alarm, Watch, overfit

SETS = (
    "ants_bees",
    "clothing",
    "sign_digits",
    "wbc_cells",
    "pacs_sketch",
    "skin_lesions",
    "trashnet",
    "vehicles",
)
FRESH = ("clothing", "sign_digits", "pacs_sketch", "vehicles")  # from scratch takes minutes each
BROKEN = ("ants_bees", "sign_digits", "wbc_cells", "pacs_sketch", "skin_lesions")
STRATEGIES = ("last:4", "last:6+gradual", "head+add", "full", "scratch")
RATES = {"rate x 1,000": 1e3, "rate x 1,000,000": 1e6, "rate x 0.000001": 1e-6}
SHORT = 400  # images seen in all epochs
SHORTER = {"full": 160, "scratch": 320}  # where a step takes long and something is wrong
N_FLAT, N_ROWS = 1000, 60  # simulated trainings whose held-out loss goes nowhere, rows held out


def add_options(parser: ArgumentParser) -> None:
    """--seeds, --trainings."""
    parser.add_argument("--seeds", type=int, default=3, help="draws of each set, clean")
    parser.add_argument("--trainings", type=Path, help="file that keeps every training done")


def measure(args: Namespace) -> dict[str, Any]:
    """Train clean and broken, replay the losses through the guards, count the alarms."""
    cases = {
        "clean": clean(args.seeds),
        "60 % of labels exchanged": _others(("last:4", "head+add", "full"), wrong=0.6),
        "all labels exchanged": _others(("last:4", "head+add", "full"), wrong=1.0),
        "a constant before the output": _others(("last:4", "head+add"), is_blind=True),
        **{
            name: [_ask(s, 0, strategy, factor) for s in BROKEN for strategy in STRATEGIES]
            for name, factor in RATES.items()
        },
    }
    rows = []
    for case, specs in cases.items():
        trained = train_all(specs, root(args), args.trainings)
        by_strategy = {s: [t for t in trained if t.spec.strategy == s] for s in STRATEGIES}
        rows.append(_row(case, "all", trained))
        rows += [_row(case, s, result) for s, result in by_strategy.items() if result]
    chance = {n: by_chance(n, np.random.default_rng(0)) for n in (5, 12)}
    shares = {f"overfit by chance, {n} looks": share for n, share in chance.items()}
    for level in (0.7, 0.85):
        result = by_scatter(level, np.random.default_rng(0))
        shares[f"stuck by scatter at {level} of blind answers"] = result
    heard = {row["case"]: _in_words(row) for row in rows if row["of"] == "all"}
    return {"summary": {**heard, **shares}, "rows": rows}


def _in_words(row: dict[str, Any]) -> str:
    put_back = f", {row['put_back']} without one put back" if row["put_back"] else ""
    return f"{row['heard']} of {row['n']} heard{put_back}"


def clean(n_seeds: int) -> list[TrainingSpec]:
    """Nothing wrong: every set and strategy; whole networks and fresh ones on one draw."""
    specs = [
        _ask(s, seed, name) for seed in range(n_seeds) for s in SETS for name in STRATEGIES[:3]
    ]
    return specs + [_ask(s, 0, "full") for s in SETS] + [_ask(s, 0, "scratch") for s in FRESH]


def _ask(name: str, seed: int, strategy: str, factor: float = 1.0) -> TrainingSpec:
    """A short training; clean ones from scratch, and of the second draw, are of full length."""
    if factor != 1:
        return TrainingSpec(name, seed, strategy, factor, SHORTER.get(strategy, SHORT))
    is_long = strategy == "scratch" or (seed == 1 and strategy != "full")
    return TrainingSpec(name, seed, strategy, factor, None if is_long else SHORT)


def _others(
    strategies: Iterable[str], wrong: float = 0.0, is_blind: bool = False
) -> list[TrainingSpec]:
    return [
        TrainingSpec(name, 0, strategy, 1.0, SHORT, wrong=wrong, is_blind=is_blind)
        for name in BROKEN
        for strategy in strategies
    ]


def replay(trained: Trained) -> tuple[list[Alarm], float]:
    """What the guards say of one training, and its highest average loss over that of blind answers.

    A loss that is no number stands at the end of what is on record.
    """
    watch = Watch(
        n_steps=trained.n_steps,
        warm_up=trained.warm_up,
        class_shares=trained.shares,
        begins_fitted=trained.begins_fitted,
    )
    seen, highest = [], 0.0
    for step, loss in enumerate(trained.losses, 1):
        seen.append(watch.see(step, loss))
        if step >= FIRST:
            highest = max(highest, watch.state["short"] / watch.state["short_n"])
    if trained.ended and len(trained.losses) < trained.n_steps:
        seen.append(watch.see(len(trained.losses) + 1, math.nan))
    if trained.moved is not None and trained.n_joined:
        seen.append(watch.finish(trained.moved, trained.end_loss))
    return [alarm for alarm in seen if alarm is not None], highest / entropy(trained.shares)


def _row(case: str, of: str, trained: Sequence[Trained]) -> dict[str, Any]:
    """How many trainings raise an alarm, of which kind first, and how soon.

    `put_back`: no alarm, but the weights are the base model's again: no group of blocks that joined
    helped on examples set apart. `last`: heard only by what the last update left.
    """
    result = [(t, *replay(t)) for t in trained]
    heard = [(t, alarms[0]) for t, alarms, _ in result if alarms]
    quiet = [t for t, alarms, _ in result if not alarms]
    shares = [alarm.step / t.n_steps for t, alarm in heard]
    return {
        "case": case,
        "of": of,
        "n": len(trained),
        "heard": len(heard),
        **Counter(alarm.kind for _, alarm in heard),
        "last": sum(a.step == t.n_steps and a.kind == "diverged" for t, a in heard),
        "put_back": sum(not t.n_joined for t in quiet),
        "median_share_of_steps": round(statistics.median(shares), 3) if shares else None,
        "highest_average": round(max(highest for _, _, highest in result), 2),
        "overfit": sum(_is_overfit(t) for t in trained),
        "which": [f"{t.spec.name} {t.spec.strategy}" for t, _ in heard if case == "clean"]
        or [f"{t.spec.name} {t.spec.strategy}" for t in quiet if "rate" in case],
    }


def _is_overfit(trained: Trained) -> bool:
    looks = [np.array(losses) for losses in trained.looks]
    if not looks:
        return False
    return overfit(looks, np.array(trained.groups), range(1, len(looks) + 1))[0] is not None


def by_chance(n_looks: int, rng: np.random.Generator) -> float:
    """Share of trainings called overfit though held-out losses only wander: no trend in any row."""
    n_alarms = 0
    for _ in range(N_FLAT):
        steps = 0.1 * rng.standard_t(3, size=(n_looks, N_ROWS))
        losses = rng.exponential(0.5, N_ROWS) + np.cumsum(steps, axis=0)
        n_alarms += any(
            overfit([*losses[:n]], np.arange(N_ROWS), range(n))[0] for n in range(1, n_looks + 1)
        )
    return n_alarms / N_FLAT


def by_scatter(level: float, rng: np.random.Generator) -> float:
    """Share of healthy trainings called stuck: one class of a tenth, batches of 8.

    Mistakes cost much and are few; what is said rightly costs little. Their mean loss is
    `level` times the entropy, after a start at half of it.
    """
    shares, n_alarms = (0.9, 0.1), 0
    for _ in range(N_FLAT):
        n_steps = int(rng.choice([50, 125, 500]))
        is_mistake = rng.random((n_steps, 8)) < 0.07
        losses = np.where(is_mistake, 1 + rng.exponential(1.0, is_mistake.shape), 0.05).mean(axis=1)
        losses *= level * entropy(shares) / (0.07 * 2 + 0.93 * 0.05)
        losses[:FIRST] = 0.5 * entropy(shares)
        watch = Watch(n_steps=n_steps, warm_up=0.1, class_shares=shares, begins_fitted=True)
        seen = [watch.see(step, float(loss)) for step, loss in enumerate(losses, 1)]
        n_alarms += any(alarm is not None and alarm.kind == "stuck" for alarm in seen)
    return n_alarms / N_FLAT
