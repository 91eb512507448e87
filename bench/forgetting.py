"""Forgetting: CKA of blocks and agreement of the old head after fine-tuning."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.guards import BROKEN, SHORT, SHORTER, clean
from bench.sets import root
from bench.trainings import Trained, TrainingSpec, train_all
from warmstart.training.guards import forgetting

STRATEGIES = ("last:4", "last:6")
WHOLE = ("sign_digits", "pacs_sketch")  # sets for "full", which takes minutes each
DRAWS = 3  # of each set at the rule's rate
FACTORS = (1.0, 10.0, 100.0, 1000.0)  # times the rule's rate


def add_options(parser: ArgumentParser) -> None:
    """--trainings."""
    parser.add_argument("--trainings", type=Path, help="file that keeps every training done")


def measure(args: Namespace) -> dict[str, Any]:
    """Train at the rule's rate and at higher ones; compare what each tuned part gives."""
    tried = [(strategy, name) for strategy in STRATEGIES for name in BROKEN]
    tried += [("full", name) for name in WHOLE]
    specs = [
        TrainingSpec(name, 0, strategy, factor, SHORTER.get(strategy, SHORT))
        for factor in FACTORS
        for strategy, name in tried
    ]
    specs += [spec for spec in clean(DRAWS) if spec not in specs]
    trained = train_all(specs, root(args), args.trainings)
    rows = [_row(t) for t in trained if t.cka and t.n_joined]
    return {
        "summary": {f"rate x {factor:g}": _summed(rows, factor) for factor in FACTORS},
        "rows": rows,
    }


def _row(trained: Trained) -> dict[str, Any]:
    blocks = [*trained.cka.items()]
    least = min(blocks, key=lambda block: block[1])
    heard = forgetting(trained.cka, trained.agreement, trained.n_steps)
    return {
        "set": trained.spec.name,
        "strategy": trained.spec.strategy,
        "factor": trained.spec.factor,
        "least_cka": round(least[1], 3),
        "least_block": least[0],
        "cka": {name: round(value, 3) for name, value in blocks},
        "agreement": trained.agreement,
        "heard": heard is not None,
        **{name: round(value, 3) for name, value in trained.held.items()},
    }


def _summed(rows: list[dict[str, Any]], factor: float) -> str:
    result = [row for row in rows if row["factor"] == factor]
    least = sorted(row["least_cka"] for row in result)
    agreed = sorted(row["agreement"] for row in result)
    heard = sum(row["heard"] for row in result)
    return (
        f"{heard} of {len(result)} alarms; least CKA {least[0]:.2f} to {least[-1]:.2f}, "
        f"agreement {agreed[0]:.2f} to {agreed[-1]:.2f}"
    )
