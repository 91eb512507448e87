"""Wrong preprocessing (brightness, contrast, channel order): detected where it costs accuracy?"""

from __future__ import annotations

import copy
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import sets
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.evidence.preprocessing import SWAPPED, USUAL, try_preprocessing, warning
from warmstart.evidence.probe import best_left_out, open_probe
from warmstart.features.extraction import extract_features
from warmstart.network.load import PretrainedModel, load
from warmstart.records.inputs import pictures
from warmstart.run import cleaning
from warmstart.stats.paired import mean_interval
from warmstart.training.dataset import draw, training_dataset

SETS = ("ants_bees", "clothing", "trashnet", "textures10", "skin_lesions", "pacs_photo")
COSTLY = 0.03  # accuracy from which a wrong preprocessing is held to cost something


def add_options(parser: ArgumentParser) -> None:
    """--sets."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))


def measure(args: Namespace) -> dict[str, Any]:
    """Right preprocessing and four wrong ones: cost, and findings."""
    result = []
    for name in args.sets:
        right, _ = _hits(args, name, load("lite0"))
        for wrong, base in _wrong().items():
            hits, seen = _hits(args, name, base)
            cost, low, high = mean_interval(right - hits, np.arange(len(hits)))
            finding = warning(seen)
            result.append(
                {
                    "set": name,
                    "fed in": wrong,
                    "cost": cost,
                    "low": low,
                    "high": high,
                    "found": finding is not None,
                    "says": seen.details.get("best", "nothing"),
                    "gain seen": seen.value,
                    "images": seen.n,
                }
            )
            print(result[-1], flush=True)
        false = warning(_hits(args, name, load("lite0"))[1])
        result.append({"set": name, "fed in": "as it should be", "found": false is not None})
    costly = [r for r in result if r.get("low", 0.0) > 0 and r["cost"] >= COSTLY]
    clean = [r for r in result if r["fed in"] == "as it should be"]
    return {
        "summary": {
            "costly (3 points and more, surely above 0)": len(costly),
            "of them found": sum(r["found"] for r in costly),
            "right way warned of": sum(r["found"] for r in clean),
        },
        "rows": result,
    }


def _wrong() -> dict[str, PretrainedModel]:
    """Starts whose preprocessing is not theirs, and one that wants blue before red."""
    base = load("lite0")
    prep = pictures(base.record.preprocessing)
    made = {
        name: load("lite0", preprocessing=replace(prep, mean=mean, std=std))
        for name, (mean, std) in USUAL.items()
        if (mean, std) != (prep.mean, prep.std)
    }
    module = copy.deepcopy(base.module)
    stem = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        stem.weight.copy_(stem.weight[:, [2, 1, 0]].clone())
    made[SWAPPED] = load(module, preprocessing=prep)
    return made


def _hits(args: Namespace, name: str, base: PretrainedModel) -> tuple[np.ndarray, Any]:
    """Left-out hits on all training rows, and the evidence on a few of them."""
    collection = drain(read(sets.root(args) / name / "train"))
    extracted = drain(extract_features(collection, base))
    settled = cleaning.clean(collection, extracted)
    training_data = training_dataset(settled, extracted, base.record, "balanced", 0)
    sample = draw(training_data, training_data.labelled.n_train)
    head = best_left_out(
        sample.kernels, sample.labels, sample.group_rows, training_data.labelled.n_classes
    )
    return head.hits(sample.labels), try_preprocessing(open_probe(training_data))
