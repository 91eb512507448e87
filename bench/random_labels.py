"""Shuffled labels: the estimate must be chance, and the verdict `no-signal`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

from bench import pools, sets
from warmstart.evidence.probe import permutation_evidence
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.planning.verdict import VerdictFacts, verdict_kind
from warmstart.solve.kernels import mixed_kernels
from warmstart.stats.metrics import accuracy_estimate


def add_options(parser: ArgumentParser) -> None:
    """--sets, --draws."""
    parser.add_argument("--sets", nargs="+", default=list(sets.EIGHT))
    parser.add_argument("--draws", type=int, default=5)


def measure(args: Namespace) -> dict[str, Any]:
    """Shuffle the training labels of each set; fit; look at estimate and verdict.

    Chance for the predictions made is sum_c (share predicted c)(share labelled c).
    """
    rows = []
    for name in args.sets:
        pool = pools.extracted(args, name, split="train")
        for seed in range(args.draws):
            rows.append({"set": name, "draw": seed, **_one(pool, seed)})
            print(rows[-1], flush=True)
    inside = float(np.mean([r["chance inside"] for r in rows]))
    silent = float(np.mean([r["verdict"] == "no-signal" for r in rows]))
    return {
        "summary": {"interval holds chance": inside, "no-signal": silent, "draws": len(rows)},
        "rows": rows,
    }


def _one(pool: pools.Pool, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 13])
    labels = rng.permutation(pool.labels)
    n, everything = len(labels), np.arange(len(labels))
    fit = pools.fit_rows(pool, everything, labels, rng)
    predicted = fit.probabilities.argmax(axis=1)
    k = int(labels.max()) + 1
    shares = [np.bincount(x, minlength=k) / n for x in (predicted, labels)]
    chance = float(shares[0] @ shares[1])
    claim = accuracy_estimate(fit.probabilities, labels, everything, "nested-cv")
    return {
        "estimate": claim.value,
        "low": claim.low,
        "high": claim.high,
        "chance": chance,
        "chance inside": bool(claim.low <= chance <= claim.high),
        "verdict": _verdict(pool, labels, rng),
    }


def _verdict(pool: pools.Pool, labels: np.ndarray, rng: np.random.Generator) -> str:
    shapes = probe_layers(list(pool.feature_layers))
    rows = np.sort(rng.permutation(len(labels))[: rules.EVIDENCE_ROWS["fast"]])
    pair = mixed_kernels(
        ((layer, x[rows]) for layer, x in pool.feature_layers.items()),
        {k: shapes[k] for k in ("last", "equal")},
    )
    singles = [np.array([i]) for i in range(len(rows))]
    result = permutation_evidence(
        list(pair.values()), labels[rows], singles, rules.PERMUTATIONS["fast"], rng
    ).details
    return verdict_kind(VerdictFacts(p=float(result["p"]), mde=float(result["mde"]), n=len(rows)))
