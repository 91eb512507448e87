"""Domain gap of each image set to the pretraining data of the default base model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from bench import sets
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.evidence.preprocessing import measure_domain_gap
from warmstart.evidence.probe import open_probe
from warmstart.features.extraction import extract_features
from warmstart.network.load import load
from warmstart.planning import rules
from warmstart.training.dataset import training_dataset


def add_options(parser: ArgumentParser) -> None:
    """--base."""
    parser.add_argument("--base", default="lite0")


def measure(args: Namespace) -> dict[str, Any]:
    """The evidence `domain_gap` on every set; its values go into evidence/preprocessing.py."""
    base, result = load(args.base), list[dict[str, Any]]()
    for name in sets.ALL:
        collection = drain(read(sets.root(args) / name))
        extracted = drain(extract_features(collection, base))
        training_data = training_dataset(collection, extracted, base.record, "balanced", 0)
        seen = measure_domain_gap(open_probe(training_data)(rules.DOMAIN_GAP_IMAGES))
        result.append({"set": name, "domain_gap": seen.value, "low": seen.low, "high": seen.high})
        print(result[-1], flush=True)
    values = sorted(round(float(row["domain_gap"]), 3) for row in result)
    return {"summary": {"base": args.base, "sorted": values}, "rows": result}
