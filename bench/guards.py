"""Do the guards hear broken trainings, and keep quiet over clean ones?"""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.sets import root
from bench.trainings import Ask, Trained, kept
from warmstart.training.guards import Alarm, Watch, overfit

SETS = (
    "ants_bees", "clothing", "sign_digits", "wbc_cells", "pacs_sketch", "skin_lesions",
    "trashnet", "vehicles",
)  # fmt: skip
BROKEN_SETS = SETS[:2] + SETS[2:6]
STRATEGIES = ("last:4", "last:6+gradual", "head+add", "full", "scratch")
FAULTS = {"rate x 1000": 1e3, "rate x 1,000,000": 1e6, "rate x 0.000001": 1e-6}
SHORT = 400  # images passed


def add_options(parser: ArgumentParser) -> None:
    """--seeds, --trainings."""
    parser.add_argument("--seeds", type=int, default=2, help="draws of each set")
    parser.add_argument("--trainings", type=Path, help="file that keeps every training done")


def measure(given: Namespace) -> dict[str, Any]:
    """Train clean and broken, replay the losses through the guards, count the alarms."""
    clean = kept(_asks(SETS, given.seeds, 1.0), root(given), given.trainings)
    rows = [_row("clean", clean)]
    rows += [_row(f"clean {s}", [t for t in clean if t.ask.strategy == s]) for s in STRATEGIES]
    for fault, factor in FAULTS.items():
        broken = kept(_asks(BROKEN_SETS, 1, factor), root(given), given.trainings)
        rows.append(_row(fault, broken))
        rows += [_row(f"{fault} {s}", [t for t in broken if t.ask.strategy == s]) for s in STRATEGIES]
    chance = overfit_by_chance(np.random.default_rng(0))
    return {"summary": {}, "rows": rows, "overfit_by_chance": chance}


def _asks(names: Iterable[str], n_seeds: int, factor: float) -> list[Ask]:
    """One short training for each set, draw and strategy; scratch takes the rule's length."""
    return [
        Ask(name, seed, strategy, factor, None if strategy == "scratch" else SHORT)
        for seed in range(n_seeds) for name in names for strategy in STRATEGIES
    ]  # fmt: skip
