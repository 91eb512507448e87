"""Gradient boosting of trees, beside a network: what a table of numbers gives without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.events import Event, Steps
from warmstart.solve.ridge import Array, Rows

ROUNDS = (10, 30, 100)  # trees a class, to choose from
RATE, DEPTH = 0.1, 3
MANY = 500  # rows from which histograms are quicker than sorted values
VERY_MANY = 20_000  # rows that more than one thread is worth it for
LEAST = 1e-6  # probability: no log-loss is infinite


@dataclass(frozen=True, slots=True)
class Boosted:
    """What boosting says of each row without it. Shapes: probabilities (n, K), fold (n,)."""

    probabilities: Array
    fold: Rows
    name: str


def boost(
    rows: Array, labels: Rows, n_classes: int, outer: Sequence[Rows],
    inner: Callable[[Rows], Sequence[Rows]], seed: int,
) -> Steps[Boosted]:  # fmt: skip
    """Fit without each outer fold, with as many rounds as inner folds say; NaN if never held out.

    Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine".
    Shapes: rows (n, F), labels (n,). `inner` parts the rows it is given, as places among them.
    """
    said = np.full((len(labels), n_classes), np.nan)
    fold = np.full(len(labels), -1, dtype=np.int64)
    for number, held in enumerate(outer):
        keep = np.setdiff1d(np.arange(len(labels)), held)
        x, y = rows[keep], labels[keep]
        rounds = _choose(x, y, n_classes, inner(keep), seed)
        said[held] = _fit(x, y, rounds, n_classes, seed)(rows[held])[-1]
        fold[held] = number
        yield Event(stage="tune", kind="step", step=number + 1, of=len(outer),
                    values={"title": "Boosting"})  # fmt: skip
    return Boosted(said, fold, "gradient boosting")


def _choose(x: Array, y: Rows, n_classes: int, parts: Sequence[Rows], seed: int) -> int:
    """The number of rounds with the least log-loss on parts that were held out."""
    losses = np.zeros(len(ROUNDS))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(y)), part)
        stages = _fit(x[rest], y[rest], ROUNDS[-1], n_classes, seed)(x[part])
        for place, rounds in enumerate(ROUNDS):
            p = stages[rounds - 1][np.arange(len(part)), y[part]]
            losses[place] -= np.log(np.maximum(p, LEAST)).sum()
    return ROUNDS[int(losses.argmin())]


def _fit(
    x: Array, y: Rows, rounds: int, n_classes: int, seed: int
) -> Callable[[Array], list[Array]]:
    """From rows (m, F) to probabilities (m, K) after each round."""
    from sklearn import config_context
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    present = np.unique(y)
    if len(present) == 1:
        only = np.eye(n_classes)[present[0]]
        return lambda new: [np.tile(only, (len(new), 1))] * rounds
    model: Any
    if len(y) < MANY:
        model = GradientBoostingClassifier(
            n_estimators=rounds, learning_rate=RATE, max_depth=DEPTH, subsample=0.8,
            random_state=seed,
        )  # fmt: skip
    else:
        model = HistGradientBoostingClassifier(
            max_iter=rounds, learning_rate=RATE, max_leaf_nodes=2**DEPTH, early_stopping=False,
            random_state=seed,
        )  # fmt: skip
    # Settings would be checked once a tree; threads would wait for each other on so few rows.
    with config_context(skip_parameter_validation=True), threadpool_limits(_threads(len(y))):
        model.fit(x, y)

    def stages(new: Array) -> list[Array]:
        found = []
        for p in model.staged_predict_proba(new):
            full = np.zeros((len(new), n_classes))
            full[:, present] = p
            found.append(full)
        return found

    return stages


def _threads(n: int) -> int | None:
    return None if n >= VERY_MANY else 1
