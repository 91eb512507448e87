"""Active learning: labelling what `suggest` lists against labelling at random."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from bench import pools
from bench.pools import Labels, Pool
from warmstart.run.suggest import choose_queries
from warmstart.stats.paired import difference, mean_interval
from warmstart.training.linear_probe import HeadFit
from warmstart.training.out_of_distribution import fit_neighbours

LARGEST = ("trashnet", "sign_digits", "skin_lesions")  # the rule was chosen on the other sets
FIRST = 5  # labelled examples a class to begin with
ROUNDS, COUNT = 5, 20

Rows = NDArray[np.intp]
Choose = Callable[[Pool, HeadFit, Rows, Rows], Rows]  # pool, head, labelled, rest -> of the rest


def add_options(parser: ArgumentParser) -> None:
    """--sets, --seeds."""
    parser.add_argument("--sets", nargs="+", default=list(LARGEST))
    parser.add_argument("--seeds", type=int, default=20, help="first draws a set")


def measure(args: Namespace) -> dict[str, Any]:
    """From 5 a class, five rounds of 20: what is asked for against what is drawn."""
    rows = []
    for name in args.sets:
        train, test = pools.extracted(args, name, "train"), pools.extracted(args, name, "test")
        rows.append(_compare(name, train, test, args.seeds))
        print(rows[-1], flush=True)
    better = [r["set"] for r in rows if min(r["low (seeds)"], r["low (images)"]) > 0]
    worse = [r["set"] for r in rows if min(r["high (seeds)"], r["high (images)"]) < 0]
    return {
        "summary": {
            "protocol": f"{FIRST} a class, then {ROUNDS} rounds of {COUNT}; {args.seeds} draws; "
            "accuracy on the test part after the last round, and its mean over the rounds",
            "better by both intervals": better or "none",
            "worse by either": worse or "none",
        },
        "rows": rows,
    }


def _compare(name: str, train: Pool, test: Pool, seeds: int) -> dict[str, Any]:
    requested, drawn = [], []
    for seed in range(seeds):
        first = _first(train.labels, np.random.default_rng([seed, 3]))
        requested.append(_learn(train, test, first, _suggested))
        drawn.append(_learn(train, test, first, _at_random(np.random.default_rng([seed, 4]))))
    hits, others = np.array(requested, dtype=float), np.array(drawn, dtype=float)
    gaps = (hits - others).mean(axis=2)  # (seeds, rounds)
    over_seeds = mean_interval(gaps[:, -1], np.arange(seeds))
    area = mean_interval(gaps.mean(axis=1), np.arange(seeds))
    a, b = hits[:, -1].mean(axis=0), others[:, -1].mean(axis=0)
    over_images = difference(a, b, np.arange(len(a)), np.random.default_rng(0), draws=20_000)
    result = {
        "suggested": a.mean(),
        "at random": b.mean(),
        "difference": over_seeds[0],
        "low (seeds)": over_seeds[1],
        "high (seeds)": over_seeds[2],
        "low (images)": over_images.low,
        "high (images)": over_images.high,
        "mean over rounds": area[0],
        "its low (seeds)": area[1],
        "its high (seeds)": area[2],
    }
    return {"set": name, "seeds": seeds, **{k: round(float(v), 4) for k, v in result.items()}}


def _first(labels: Labels, rng: np.random.Generator) -> Rows:
    """A few rows of every class at random."""
    classes = range(int(labels.max()) + 1)
    drawn = [rng.choice(np.flatnonzero(labels == c), FIRST, replace=False) for c in classes]
    return np.sort(np.concatenate(drawn))


def _learn(train: Pool, test: Pool, rows: Rows, choose: Choose) -> list[NDArray[np.bool_]]:
    """Which test images are right after each round."""
    everything, right = np.arange(len(test.labels)), []
    fit = pools.fit_shipped(train, rows, train.labels[rows])
    for _ in range(ROUNDS):
        rest = np.setdiff1d(np.arange(len(train.labels)), rows)
        rows = np.sort(np.concatenate([rows, rest[choose(train, fit, rows, rest)]]))
        fit = pools.fit_shipped(train, rows, train.labels[rows])
        right.append(pools.predict(fit, test, everything) == test.labels)
    return right


def _suggested(pool: Pool, fit: HeadFit, rows: Rows, rest: Rows) -> Rows:
    """As the verb does, from the features on."""
    joined = np.concatenate(
        [pool.feature_layers[layer][rest] for layer in fit.feature_layers], axis=1
    )
    logits = fit.calibration.scale * (joined @ fit.weight.T + fit.bias)
    probabilities = softmax(logits + fit.calibration.bias, axis=1)
    alone = [np.array([i]) for i in range(len(rows))]
    known, _, _ = fit_neighbours(
        lambda layer: pool.feature_layers[layer][rows], fit.feature_layers, alone, 0
    )
    return choose_queries(probabilities, known.place(joined), known.points, COUNT)


def _at_random(rng: np.random.Generator) -> Choose:
    return lambda pool, fit, rows, rest: rng.permutation(len(rest))[:COUNT]
