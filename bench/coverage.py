"""Coverage of the estimate's interval where the true accuracy is known."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

from bench import pools
from bench.pools import Pool
from warmstart.records.network import FeatureLayer
from warmstart.stats.metrics import accuracy_estimate

POOLS = ("trashnet", "sign_digits", "textures10")
N = 100


def add_options(parser: ArgumentParser) -> None:
    """--draws, --synthetic."""
    parser.add_argument("--draws", type=int, default=400, help="draws of 100 images a pool")
    parser.add_argument("--synthetic", type=int, default=2000)


def measure(args: Namespace) -> dict[str, Any]:
    """Draw 100, fit, compare the interval with the accuracy on all the rest."""
    rows = []
    for name in POOLS:
        rows.append(_real(name, pools.extracted(args, name), args.draws))
        print(rows[-1], flush=True)
    rows.append(_synthetic("synthetic", args.synthetic, group=1))
    print(rows[-1], flush=True)
    unequal = _synthetic("synthetic, unequal groups", max(args.synthetic // 4, 1), group=8)
    draws = sum(r["draws"] for r in rows)
    pooled = sum(r["covered"] * r["draws"] for r in rows) / draws
    return {
        "summary": {
            "pooled coverage": f"{pooled:.4f} over {draws} draws",
            "lowest": min(r["covered"] for r in rows),
            "unequal groups, apart": f"{unequal['covered']:.4f} over {unequal['draws']} draws",
        },
        "rows": [*rows, unequal],
    }


def _real(name: str, pool: Pool, draws: int) -> dict[str, Any]:
    hits, widths, bias = [], [], []
    for seed in range(draws):
        rng = np.random.default_rng([seed, 7])
        rows = pools.draw(pool.labels, N, rng)
        fit = pools.fit_rows(pool, rows, pool.labels[rows], rng)
        rest = np.setdiff1d(np.arange(len(pool.labels)), rows)
        truth = float((pools.predict(fit, pool, rest) == pool.labels[rest]).mean())
        claim = accuracy_estimate(fit.probabilities, pool.labels[rows], np.arange(N), "nested-cv")
        hits.append(claim.low <= truth <= claim.high)
        widths.append(claim.high - claim.low)
        bias.append(claim.value - truth)
    return _row(name, hits, widths, bias)


def _synthetic(name: str, draws: int, group: int) -> dict[str, Any]:
    """Gaussian classes on three feature layers; rows of a group share a shift and a label."""
    hits, widths, bias = [], [], []
    for seed in range(draws):
        rng = np.random.default_rng([seed, 11])
        strength = rng.uniform(0.3, 2.0)
        sizes = np.ones(N, int) if group == 1 else rng.integers(1, group + 1, size=N)
        group_of = np.repeat(np.arange(N), sizes)[:N]
        pool, labels = _make(rng, group_of, strength)
        group_rows = [np.flatnonzero(group_of == b) for b in np.unique(group_of)]
        if len(np.unique(labels)) < 3 or np.bincount(labels, minlength=3).min() < 2:
            continue
        fit = pools.fit_rows(pool, np.arange(N), labels, rng, group_rows)
        fresh, truth_labels = _make(rng, np.arange(2000), strength)
        truth = float((pools.predict(fit, fresh, np.arange(2000)) == truth_labels).mean())
        claim = accuracy_estimate(fit.probabilities, labels, group_of, "nested-cv")
        hits.append(claim.low <= truth <= claim.high)
        widths.append(claim.high - claim.low)
        bias.append(claim.value - truth)
    return _row(name, hits, widths, bias)


def _make(
    rng: np.random.Generator, group_of: np.ndarray, strength: float
) -> tuple[Pool, np.ndarray]:
    """Rows of three classes; rows of one block share a label and half of their noise."""
    feature_layers = [
        FeatureLayer(block=1, pool="avg"),
        FeatureLayer(block=2, pool="avg"),
        FeatureLayer(block=3, pool="neck"),
    ]
    n_groups = int(group_of.max()) + 1
    labels = (np.arange(n_groups) % 3)[rng.permutation(n_groups)][group_of]
    features = {}
    for number, layer in enumerate(feature_layers):
        d = 20 * (number + 1)
        means = strength * np.random.default_rng(number).normal(size=(3, d)) * 0.25
        shared = rng.normal(size=(n_groups, d))[group_of]
        own = rng.normal(size=(len(group_of), d))
        features[layer] = (means[labels] + np.sqrt(0.5) * (shared + own)).astype(np.float32)
    return Pool(features, labels), labels


def _row(name: str, hits: list[bool], widths: list[float], bias: list[float]) -> dict[str, Any]:
    return {
        "pool": name,
        "draws": len(hits),
        "covered": round(float(np.mean(hits)), 4),
        "mean width": round(float(np.mean(widths)), 4),
        "mean estimate - truth": round(float(np.mean(bias)), 4),
        "sd": round(float(np.std(bias)), 4),
    }
