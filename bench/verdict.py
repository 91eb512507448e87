"""The verdict on random labels, on real ones, and with shuffled weights of the base model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench import pools, sets
from warmstart.data.dataset import Collection
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.evidence import check
from warmstart.evidence.probe import permutation_evidence
from warmstart.features.batches import normalised
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.modalities.image import IMAGE
from warmstart.network.load import PretrainedModel, load
from warmstart.network.shuffled import CHUNK, shuffled
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.planning.verdict import VerdictFacts, verdict_kind
from warmstart.records.inputs import Preprocessing, pictures
from warmstart.records.summary import Verdict
from warmstart.run import cleaning
from warmstart.solve.kernels import mixed_kernels
from warmstart.training.dataset import training_dataset

NEAR = ("ants_bees", "cats_dogs", "clothing", "pacs_photo", "vehicles", "car_brands", "cat_breeds")
FEW = (20, 30, 39, 60)


def add_options(parser: ArgumentParser) -> None:
    """--sets, --draws, --shuffles, --few."""
    parser.add_argument("--sets", nargs="+", default=list(sets.ALL))
    parser.add_argument("--draws", type=int, default=10, help="random labellings a set")
    parser.add_argument("--shuffles", type=int, default=3, help="shuffled base models a set")
    parser.add_argument("--few", type=int, default=10, help="draws of few examples a set")


def measure(args: Namespace) -> dict[str, Any]:
    """Every set: true labels, random labels, shuffled base models, few examples."""
    result: list[dict[str, Any]] = []
    base = load("lite0")
    for name in args.sets:
        collection = drain(read(sets.root(args) / name))
        extracted = drain(extract_features(collection, base))
        settled = cleaning.clean(collection, extracted)
        result.append(_row(name, "true labels", 0, _judge(settled, extracted, base)))
        for seed in range(args.draws):
            random = _relabelled(settled, seed)
            result.append(_row(name, "random labels", seed, _judge(random, extracted, base, seed)))
        for seed in range(args.shuffles):
            blank = without_knowledge(collection, base, seed)
            seen = drain(extract_features(collection, blank))
            result.append(_row(name, "no knowledge", seed, _judge(settled, seen, blank, seed)))
        result += [_few(args, name, n, seed) for n in FEW for seed in range(args.few)]
        print(*result[-1 - len(FEW) * args.few - args.shuffles - args.draws :][:14], sep="\n")
    return {"summary": _summary(result), "rows": result}


def _judge(
    collection: Collection, extracted: ExtractedFeatures, base: PretrainedModel, seed: int = 0
) -> Verdict:
    training_data = training_dataset(collection, extracted, base.record, "balanced", seed)
    return check.judge(drain(check.check(training_data)))


def _row(name: str, what: str, draw: int, verdict: Verdict) -> dict[str, Any]:
    result = {e.name: e for e in verdict.evidence}
    row = {
        "set": name,
        "what": what,
        "draw": draw,
        "verdict": verdict.kind,
        "n": result["permutation_test"].n,
    }
    row |= {
        "p": result["permutation_test"].details["p"],
        "mde": result["permutation_test"].details["mde"],
    }
    if "transfer_gain" in result:
        row |= {
            "transfer_gain": result["transfer_gain"].value,
            "error": result["transfer_gain"].details["error"],
        }
    return row


def _relabelled(collection: Collection, seed: int) -> Collection:
    """The training labels in a random order; the pictures, and their copies, as they are."""
    record = collection.record
    train = [e for e in record.examples if e.split == "train"]
    labels = [e.label for e in train]
    order = np.random.default_rng([seed, 13]).permutation(len(train))
    examples = tuple(replace(e, label=labels[i]) for e, i in zip(train, order, strict=True))
    return replace(collection, record=replace(record, examples=examples))


def without_knowledge(collection: Collection, base: PretrainedModel, seed: int) -> PretrainedModel:
    """The base model with each weight tensor shuffled; BatchNorm learns its statistics here."""
    blank = shuffled(base.module, np.random.default_rng([seed, 17]))
    prep = pictures(base.record.preprocessing)
    examples = [e for e in collection.record.examples if e.split == "train"][::4][: 4 * CHUNK]
    pixels = np.stack([IMAGE.encode(collection.load(e.id), e.id, prep) for e in examples])
    settle_norms(blank, pixels, prep)
    return load(blank, preprocessing=prep)


def settle_norms(module: nn.Module, pixels: np.ndarray, prep: Preprocessing) -> None:
    """Let BatchNorm take the mean statistics of these pictures (n, H, W, C)."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    with torch.inference_mode():
        for batch in np.array_split(pixels, max(1, len(pixels) // CHUNK)):
            module(normalised(batch, prep))
    module.eval()


def _few(args: Namespace, name: str, n: int, seed: int) -> dict[str, Any]:
    """Few examples: `no-signal` is wrong where the model beats chance on all the rest."""
    pool = pools.extracted(args, name)
    rng = np.random.default_rng([seed, n, 19])
    drawn = pools.draw(pool.labels, n, rng) if _fits(pool, n) else None
    if drawn is None:
        return {"set": name, "what": "few", "draw": seed, "n": n, "verdict": "too many classes"}
    shapes = probe_layers(list(pool.feature_layers))
    pair = {key: shapes[key] for key in ("last", "equal")}
    kernels = mixed_kernels(((layer, x[drawn]) for layer, x in pool.feature_layers.items()), pair)
    labels = pool.labels[drawn]
    singles = [np.array([i]) for i in range(n)]
    details = permutation_evidence(
        list(kernels.values()), labels, singles, rules.PERMUTATIONS["balanced"], rng
    ).details
    kind = verdict_kind(VerdictFacts(p=float(details["p"]), mde=float(details["mde"]), n=n))
    fit = pools.fit_rows(pool, drawn, labels, rng)
    rest = np.setdiff1d(np.arange(len(pool.labels)), drawn)
    right = pools.predict(fit, pool, rest) == pool.labels[rest]
    usual = float(np.bincount(pool.labels[rest]).max() / len(rest))  # always the largest class
    error = float(np.sqrt(usual * (1 - usual) / len(rest)))
    beats = bool(right.mean() > usual + 1.96 * error)
    return {
        "set": name,
        "what": "few",
        "draw": seed,
        "n": n,
        "verdict": kind,
        "p": details["p"],
        "mde": details["mde"],
        "accuracy": float(right.mean()),
        "beats chance": beats,
    }


def _fits(pool: pools.Pool, n: int) -> bool:
    return n >= 3 * (int(pool.labels.max()) + 1)


def _summary(result: list[dict[str, Any]]) -> dict[str, Any]:
    by = {what: [r for r in result if r["what"] == what] for what in ("random labels", "few")}
    random, few = by["random labels"], by["few"]
    true = [r for r in result if r["what"] == "true labels"]
    blank = [r for r in result if r["what"] == "no knowledge"]
    large = [r for r in blank if r["n"] >= 130]
    first_row = [r for r in random if r["p"] > 0.01 and r["verdict"] == "inconclusive"]
    silent = [r for r in random if r["verdict"] == "no-signal"]
    return {
        "random labels": dict(Counter(r["verdict"] for r in random)),
        "random labels called no-signal, or inconclusive by the first row": round(
            (len(silent) + len(first_row)) / max(len(random), 1), 4
        ),
        "true labels": dict(Counter(r["verdict"] for r in true)),
        "near sets called no-transfer": [
            r["set"] for r in true if r["set"] in NEAR and r["verdict"] == "no-transfer"
        ],
        "no knowledge, 130 images and more": dict(Counter(r["verdict"] for r in large)),
        "no knowledge, fewer": dict(Counter(r["verdict"] for r in blank if r["n"] < 130)),
        "few examples": dict(Counter(r["verdict"] for r in few)),
        "few examples called no-signal though the model beats chance": sum(
            r["verdict"] == "no-signal" and r.get("beats chance", False) for r in few
        ),
    }
