"""Heads that reuse an earlier head for classes of the same name: are they better?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import pools
from bench.pools import Pool
from warmstart.events import drain
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.solve.calibration import log_losses
from warmstart.solve.kernels import mixed_kernels
from warmstart.stats.paired import mean_interval
from warmstart.training.head_families import SUFFIX, Prior, SelectionProblem, prior_of
from warmstart.training.linear_probe import HeadFit, families, fit_head

OTHER_PLACE = (
    ("wbc_cells", "wbc_cells_site2"),
    ("wbc_cells_site2", "wbc_cells"),
    ("pacs_photo", "pacs_sketch"),
    ("pacs_sketch", "pacs_photo"),
)
SAME_PLACE = ("sign_digits", "clothing", "skin_lesions", "textures10", "trashnet")
SIZES = (30, 58, 120)

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class _Case:
    """An older run and what comes after it: rows of two sets, or halves of one."""

    older: Pool
    newer: Pool
    test: Pool
    is_halved: bool


def add_options(parser: ArgumentParser) -> None:
    """--draws."""
    parser.add_argument("--draws", type=int, default=10, help="draws of new images a size")


def measure(args: Namespace) -> dict[str, Any]:
    """An older head on all of one set (or half of it); new heads on draws of the other.

    Heads, depths and penalties as `fit --budget fast` has them. `last`: the prior competes on
    the last feature layer alone; `every depth`: it replaces the plain ridge at every depth (kept).
    """
    rows: list[dict[str, Any]] = []
    for older, newer in (*OTHER_PLACE, *((name, name) for name in SAME_PLACE)):
        trained = pools.extracted(args, older, "train")
        other = trained if older == newer else pools.extracted(args, newer, "train")
        case = _Case(trained, other, pools.extracted(args, newer, "test"), older == newer)
        most = len(other.labels) // (2 if case.is_halved else 1)
        for n in (*(n for n in SIZES if n < most), most):
            draws = 1 if n == len(other.labels) else args.draws  # all there are: one way to draw
            rows.append({"older": older, "newer": newer, "n": n, **_row(case, n, draws)})
            print(rows[-1], flush=True)
    return {"summary": _summary(rows), "rows": rows}


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for place, is_here in (("another place", False), ("the same place", True)):
        some = [row for row in rows if (row["older"] == row["newer"]) == is_here]
        for kind in ("none", "last", "every depth"):
            accuracy = np.mean([row[f"accuracy, {kind}"] for row in some])
            loss = np.mean([row[f"log-loss, {kind}"] for row in some])
            result[f"{place}, prior {kind}"] = f"accuracy {accuracy:.3f}, log-loss {loss:.3f}"
    return result


def _row(case: _Case, n: int, draws: int) -> dict[str, Any]:
    scores: dict[str, list[tuple[float, float]]] = {}
    for older, rows in _draws(case, n, draws):
        head = _fit(case.older, older, None, every=False)
        prior = _prior(head, case.older)
        for kind, fit in (
            ("older head alone", head),
            ("none", _fit(case.newer, rows, None, every=False)),
            ("last", _fit(case.newer, rows, prior, every=False)),
            ("every depth", _fit(case.newer, rows, prior, every=True)),
        ):
            scores.setdefault(kind, []).append(_score(fit, case.test))
    means = {kind: np.mean(result, axis=0) for kind, result in scores.items()}
    gains = np.subtract(scores["every depth"], scores["none"])
    result = {f"accuracy, {kind}": round(float(mean[0]), 4) for kind, mean in means.items()}
    result |= {f"log-loss, {kind}": round(float(mean[1]), 4) for kind, mean in means.items()}
    for column, name in enumerate(("accuracy", "log-loss")):
        interval = mean_interval(gains[:, column], np.arange(draws)) if draws > 1 else ()
        result[f"{name}, gain"] = round(float(gains[:, column].mean()), 4)
        for end, value in zip(("low", "high"), interval[1:], strict=False):
            result[f"{name}, {end}"] = round(float(value), 4)
    return result


def _draws(case: _Case, n: int, draws: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows of the older run, and n new ones with each class among them."""
    everything = np.arange(len(case.older.labels))
    for seed in range(draws):
        rng = np.random.default_rng([seed, n])
        older, pool = everything, np.arange(len(case.newer.labels))
        if case.is_halved:
            half = rng.permutation(everything)
            older, pool = np.sort(half[: len(half) // 2]), half[len(half) // 2 :]
        rows = rng.choice(pool, size=n, replace=False)
        while len(np.unique(case.newer.labels[rows])) < len(np.unique(case.newer.labels)):
            rows = rng.choice(pool, size=n, replace=False)
        yield older, np.sort(rows)


def _fit(pool: Pool, rows: Rows, prior: Prior | None, *, every: bool) -> HeadFit:
    """The head that ships, without its estimate."""
    labels, n, k = pool.labels[rows], len(rows), int(pool.labels.max()) + 1
    shapes = probe_layers(list(pool.feature_layers))
    names = tuple(shapes)
    if prior is not None:
        begun = tuple(name + SUFFIX for name in names)
        names = begun if every else (names[0], begun[0], *names[1:])
    heads = rules.candidates(n, k, int(np.bincount(labels).min()), names, "fast")
    feature_layers = {layer: values[rows] for layer, values in pool.feature_layers.items()}
    kernels = mixed_kernels(feature_layers.items(), shapes)
    made = families(
        heads, shapes, kernels, feature_layers.__getitem__, rules.penalties(n), 0, prior
    )
    alone = tuple(np.array([i]) for i in range(n))
    return drain(fit_head(made, SelectionProblem(labels, k, alone, ())))


def _prior(head: HeadFit, pool: Pool) -> Prior | None:
    """The sets give both sides the same names in the same order."""
    names = [str(number) for number in range(len(head.bias))]
    widths = [pool.feature_layers[layer].shape[1] for layer in head.feature_layers]
    older = head.weight.astype(np.float64), head.bias.astype(np.float64)
    return prior_of(head.feature_layers, widths, older, names, names)


def _score(head: HeadFit, test: Pool) -> tuple[float, float]:
    """Accuracy and log-loss on the test part."""
    joined = np.concatenate([test.feature_layers[layer] for layer in head.feature_layers], axis=1)
    scores = joined.astype(np.float64) @ head.weight.T + head.bias
    logits = head.calibration.scale * scores + head.calibration.bias
    hits = logits.argmax(axis=1) == test.labels
    return float(hits.mean()), float(log_losses(scores, test.labels, head.calibration).mean())
