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
        trees = _Trees(x, y, n_classes, seed)
        trees.grow(_choose(x, y, n_classes, inner(keep), seed))
        said[held] = trees.says(rows[held])
        fold[held] = number
        yield Event(stage="tune", kind="step", step=number + 1, of=len(outer),
                    values={"title": "Boosting"})  # fmt: skip
    return Boosted(said, fold, "gradient boosting")


def _choose(x: Array, y: Rows, n_classes: int, parts: Sequence[Rows], seed: int) -> int:
    """The number of rounds after which the log-loss on parts that were held out rises."""
    rest = [np.setdiff1d(np.arange(len(y)), part) for part in parts]
    grown = [_Trees(x[rows], y[rows], n_classes, seed) for rows in rest]
    best, chosen = np.inf, ROUNDS[0]
    for rounds in ROUNDS:
        loss = 0.0
        for part, trees in zip(parts, grown, strict=True):
            trees.grow(rounds)
            p = trees.says(x[part])[np.arange(len(part)), y[part]]
            loss -= float(np.log(np.maximum(p, LEAST)).sum())
        if loss >= best:
            break
        best, chosen = loss, rounds
    return chosen


class _Trees:
    """Trees that can be added to. Shapes: x (n, F), y (n,) in 0..K-1."""

    def __init__(self, x: Array, y: Rows, n_classes: int, seed: int) -> None:
        self._x, self._y, self._n_classes = x, y, n_classes
        self._present = np.unique(y)
        self._model = _model(len(y), seed)

    def grow(self, rounds: int) -> None:
        """Add trees until there are so many a class."""
        from sklearn import config_context

        if len(self._present) == 1:
            return
        self._model.set_params(**{_ROUNDS_OF[type(self._model).__name__]: rounds})
        # Settings would be checked once a tree; threads would wait for each other on few rows.
        few = 1 if len(self._y) < VERY_MANY else None
        with config_context(skip_parameter_validation=True), threadpool_limits(few):
            self._model.fit(self._x, self._y)

    def says(self, new: Array) -> Array:
        """Probabilities of rows (m, F): (m, K)."""
        found = np.zeros((len(new), self._n_classes))
        is_one = len(self._present) == 1
        found[:, self._present] = 1.0 if is_one else self._model.predict_proba(new)
        return found


_ROUNDS_OF = {
    "GradientBoostingClassifier": "n_estimators", "HistGradientBoostingClassifier": "max_iter",
}  # fmt: skip


def _model(n: int, seed: int) -> Any:
    """Boosting for so many rows, no tree grown yet."""
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    if n < MANY:
        return GradientBoostingClassifier(
            learning_rate=RATE, max_depth=DEPTH, subsample=0.8, random_state=seed, warm_start=True
        )
    return HistGradientBoostingClassifier(
        learning_rate=RATE, max_leaf_nodes=2**DEPTH, early_stopping=False, random_state=seed,
        warm_start=True,
    )  # fmt: skip
