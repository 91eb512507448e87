"""Label issues of multi-label and regression: detection and false alarms."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from bench.tasks import PAIRED, TURNED, pool_of, wine_table
from warmstart.evidence.label_issues import judge_numbers, judge_sets
from warmstart.evidence.probe import best_probabilities
from warmstart.planning.rules import probe_layers
from warmstart.records.data import Share, Why
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels
from warmstart.tasks.regress import Regression
from warmstart.tasks.task import Target, Truth

SHARE = 0.05  # of the examples that get something wrong
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """Truth with mistakes, and the cells that they are in: (row, label), or (row, 0)."""

    truth: Truth
    wrong: set[tuple[int, int]]


def add_options(parser: ArgumentParser) -> None:
    """--train, --test, --draws."""
    parser.add_argument("--train", type=int, default=300, help="images of a set, with --test")
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--draws", type=int, default=4, help="of mistakes, a set")


def measure(args: Namespace) -> dict[str, Any]:
    """Labels of pairs of pictures; angles of pictures and columns of tables as numbers."""
    rows: list[dict[str, Any]] = []
    for name in PAIRED:
        pool = pool_of(args, "multilabel", name)
        rows += _rows(name, "labels", pool.feature_layers, pool.truth, pool.target, args.draws)
    for name in TURNED:
        pool = pool_of(args, "regress", name)
        rows += _rows(name, "numbers", pool.feature_layers, pool.truth, pool.target, args.draws)
    for name, feature_layers, values in _columns(args):
        target = Regression.of(values)
        truth = (values - target.mean) / target.spread
        rows += _rows(name, "numbers", feature_layers, truth, target, args.draws)
    return {"summary": {**_sums(rows, "labels"), **_sums(rows, "numbers")}, "rows": rows}


def _rows(
    name: str,
    task: str,
    feature_layers: dict[FeatureLayer, NDArray[np.float32]],
    truth: Truth,
    target: Target,
    draws: int,
) -> list[dict[str, Any]]:
    result = [
        {"set": name, "task": task, **row}
        for row in label_issues(feature_layers, truth, target, draws)
    ]
    print(result[0], result[-1], flush=True)
    return result


def _sums(rows: list[dict[str, Any]], task: str) -> dict[str, int]:
    clean, wrong = (
        [row for row in rows if row["task"] == task and (row["planted"] > 0) == is_planted]
        for is_planted in (False, True)
    )
    sums = {f"planted, {key}": sum(row[key] for row in wrong) for key in ("named", "rightly")}
    sums |= {
        "planted": sum(row["planted"] for row in wrong),
        "sets": len(clean),
        "as they are, of": sum(row["n"] for row in clean),
        "as they are, named": sum(row["named"] for row in clean),
    }
    return {f"{task}: {key}": value for key, value in sums.items()}


def _columns(
    args: Namespace,
) -> Iterator[tuple[str, dict[FeatureLayer, NDArray[np.float32]], Array]]:
    """A column of measurements each, from the others."""
    tables = {
        "breast cancer": (load_breast_cancer().data, (0, 3, 5, 10, 13)),
        "wine": (load_wine().data, (0, 5, 9, 12)),
        "red wine": (wine_table(args)[0], (0, 7, 10)),
    }
    tables["diabetes"] = (np.column_stack(load_diabetes(return_X_y=True)), (10,))
    for name, (values, chosen) in tables.items():
        for k in chosen:
            others = np.delete(values, k, axis=1)
            others = (others - others.mean(axis=0)) / others.std(axis=0)
            feature_layers = {FeatureLayer(block=1, pool="neck"): others.astype(np.float32)}
            yield f"{name} {k}", feature_layers, values[:, k]


def label_issues(
    feature_layers: dict[FeatureLayer, NDArray[np.float32]],
    truth: Truth,
    target: Target,
    draws: int,
) -> list[dict[str, Any]]:
    """One row for the data as they are, one for each draw of mistakes."""
    shapes = probe_layers(list(feature_layers))
    pair: dict[str, Mapping[FeatureLayer, float]] = {
        name: shapes[name] for name in ("last", "equal") if name in shapes
    }
    kernels = [*mixed_kernels(feature_layers.items(), pair).values()]
    plant = _flipped if truth.ndim > 1 else _moved
    args = [Planted(truth, set()), *(plant(truth, np.random.default_rng(s)) for s in range(draws))]
    return [_judged(one, kernels, target) for one in args]


def _flipped(truth: Truth, rng: np.random.Generator) -> Planted:
    """A label too many, or one missing, in some rows."""
    made, wrong = truth.copy(), set[tuple[int, int]]()
    for row in rng.permutation(len(truth))[: round(SHARE * len(truth))]:
        k = int(rng.integers(truth.shape[1]))
        made[row, k] = 1 - made[row, k]
        wrong.add((int(row), k))
    return Planted(made, wrong)


def _moved(truth: Truth, rng: np.random.Generator) -> Planted:
    """The numbers of some rows among each other."""
    rows = rng.permutation(len(truth))[: round(SHARE * len(truth))]
    made = truth.copy()
    made[rows] = truth[np.roll(rows, 1)]
    return Planted(made, {(int(row), 0) for row in rows})


def _judged(args: Planted, kernels: list[Array], target: Target) -> dict[str, Any]:
    n, truth = len(args.truth), args.truth
    singles = [np.array([i]) for i in range(n)]
    summary = best_probabilities(kernels, truth, singles, target.n_outputs(truth), target)
    find: Callable[..., tuple[list[tuple[int, int]], Share | None, Why | None]]
    find = _cells if truth.ndim > 1 else _numbers
    named, rate, why = find(summary, truth)
    hits = len(args.wrong & set(named))
    return {
        "n": n,
        "planted": len(args.wrong),
        "named": len(named),
        "rightly": hits,
        "rate": rate and rate.value,
        "why": why,
    }


Found = tuple[list[tuple[int, int]], Share | None, Why | None]


def _cells(summary: Array, truth: Truth) -> Found:
    result = judge_sets(summary, truth, np.arange(len(truth)))
    named = [divmod(int(cell), truth.shape[1]) for cell in result.rows[result.is_issue]]
    return named, result.rate, result.why


def _numbers(summary: Array, truth: Truth) -> Found:
    result = judge_numbers(summary[:, 0], truth, np.arange(len(truth)))
    return [(int(row), 0) for row in result.rows[result.is_issue]], result.rate, result.why
