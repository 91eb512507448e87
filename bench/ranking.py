"""Choosing among base models: how optimistic is the estimate, and are ties ties?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import pools
from bench.pools import Pool
from warmstart.stats.intervals import standard_error
from warmstart.stats.metrics import MODEL_VARIANCE
from warmstart.stats.paired import rank_models

POOLS = ("sign_digits", "textures10", "trashnet")
MODELS = ("lite0", "lite1", "lite2")  # by rising work
N = 100


@dataclass(frozen=True)
class Draw:
    """One draw under every base model. Shapes: hits (S, N) out of fold, truth (S,) on the rest."""

    hits: NDArray[np.float64]
    truth: NDArray[np.float64]

    @property
    def claims(self) -> NDArray[np.float64]:
        """Out-of-fold accuracy of each base model. Shapes: (S,)."""
        return np.asarray(self.hits.mean(axis=1))


def add_options(parser: ArgumentParser) -> None:
    """--draws."""
    parser.add_argument("--draws", type=int, default=60, help="draws of 100 images a pool")


def measure(args: Namespace) -> dict[str, Any]:
    """Draw 100, rank, compare what is claimed of the base model taken with the rest of the pool.

    Optimism: claim minus truth of the base model taken, less what the same one has over all
    draws, chosen or not. Variance ratio: of the paired difference about its truth, over
    what rows at random would give.
    """
    rows = []
    for name in POOLS:
        seen = {base: pools.extracted(args, name, base=base) for base in MODELS}
        rows.append({"pool": name, **_row([_draw(seen, seed) for seed in range(args.draws)])})
        print(rows[-1], flush=True)
    keys = ("optimism, lightest that ties", "optimism, best", "variance ratio")
    return {"summary": {k: f"{np.mean([r[k] for r in rows]):.4f}" for k in keys}, "rows": rows}


def _draw(seen: Mapping[str, Pool], seed: int) -> Draw:
    hits, truth = [], []
    for pool in seen.values():
        rows = pools.draw(pool.labels, N, np.random.default_rng([seed, 7]))
        rest = np.setdiff1d(np.arange(len(pool.labels)), rows)
        fit = pools.fit_rows(pool, rows, pool.labels[rows], np.random.default_rng([seed, 8]))
        hits.append(fit.probabilities.argmax(axis=1) == pool.labels[rows])
        truth.append((pools.predict(fit, pool, rest) == pool.labels[rest]).mean())
    return Draw(np.array(hits, dtype=float), np.array(truth))


def _row(draws: Sequence[Draw]) -> dict[str, Any]:
    own = np.mean([d.claims - d.truth for d in draws], axis=0)
    flatters: dict[str, list[float]] = {"lightest that ties": [], "best": []}
    regret: dict[str, list[float]] = {"lightest that ties": [], "best": []}
    for seed, d in enumerate(draws):
        rng = np.random.default_rng([seed, 3])
        standing = rank_models(d.hits, np.arange(N), rng, MODEL_VARIANCE)
        for rule, i in (
            ("lightest that ties", min(standing.ties[0])),
            ("best", standing.order[0]),
        ):
            flatters[rule].append(float(d.claims[i] - d.truth[i] - own[i]))
            regret[rule].append(float(d.truth.max() - d.truth[i]))
    pairs = [(a, b) for a in range(len(MODELS)) for b in range(a)]
    errors = [
        (d.claims[a] - d.claims[b] - d.truth[a] + d.truth[b]) ** 2 for d in draws for a, b in pairs
    ]
    chance = [
        standard_error(d.hits[a] - d.hits[b], np.arange(N)) ** 2 for d in draws for a, b in pairs
    ]
    return {
        "draws": len(draws),
        **{f"optimism, {rule}": round(float(np.mean(x)), 4) for rule, x in flatters.items()},
        **{f"regret, {rule}": round(float(np.mean(x)), 4) for rule, x in regret.items()},
        "regret, always lite0": round(
            float(np.mean([d.truth.max() - d.truth[0] for d in draws])), 4
        ),
        "variance ratio": round(float(np.mean(errors) / np.mean(chance)), 3),
    }
