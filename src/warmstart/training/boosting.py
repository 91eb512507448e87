"""Gradient boosting as a baseline for tables, on the same rows and folds as the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.data.splits import folds
from warmstart.events import Event, Steps, note
from warmstart.modalities.registry import MODALITIES
from warmstart.records.summary import Baseline
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups
from warmstart.stats.metrics import accuracy_estimate
from warmstart.stats.paired import hits_difference
from warmstart.tasks.words import points
from warmstart.training.batches import decode_images
from warmstart.training.dataset import TrainingDataset, members, rows_by_fold
from warmstart.training.fine_tune import FineTuned

ROUNDS = (10, 30, 100)  # candidate numbers of trees per class
RATE, DEPTH = 0.1, 3
MANY = 500  # rows from which histograms are faster than sorted values
VERY_MANY = 20_000  # rows from which several threads pay off
LEAST = 1e-6  # probability, so that no log-loss is infinite
INNER = 2  # inner folds, each of which is held out once


def boost(
    rows: Array,
    labels: Rows,
    n_classes: int,
    outer: Sequence[Rows],
    inner: Callable[[Rows], Sequence[Rows]],
    seed: int,
) -> Steps[tuple[Array, Rows]]:
    """Out-of-fold probabilities (n, K) and folds (n,); NaN and -1 for rows never held out.

    `inner` returns folds of the rows it gets, as places in them, which choose the rounds. Friedman
    2001, "Greedy Function Approximation: A Gradient Boosting Machine".
    """
    probabilities = np.full((len(labels), n_classes), np.nan)
    fold = np.full(len(labels), -1, dtype=np.int64)
    for number, held in enumerate(outer):
        keep = np.setdiff1d(np.arange(len(labels)), held)
        x, y = rows[keep], labels[keep]
        trees = _Trees(x, y, n_classes, seed)
        trees.grow(_choose_rounds(x, y, n_classes, inner(keep), seed))
        probabilities[held] = trees.predict(rows[held])
        fold[held] = number
        title: dict[str, float | int | str] = {"title": "Boosting"}
        yield Event(stage="fine_tune", kind="step", step=number + 1, of=len(outer), values=title)
    return probabilities, fold


def _choose_rounds(x: Array, y: Rows, n_classes: int, folds: Sequence[Rows], seed: int) -> int:
    """The number of rounds after which held-out log-loss rises."""
    rest = [np.setdiff1d(np.arange(len(y)), fold) for fold in folds]
    models = [_Trees(x[rows], y[rows], n_classes, seed) for rows in rest]
    best, chosen = np.inf, ROUNDS[0]
    for rounds in ROUNDS:
        loss = 0.0
        for fold, trees in zip(folds, models, strict=True):
            trees.grow(rounds)
            p = trees.predict(x[fold])[np.arange(len(fold)), y[fold]]
            loss -= float(np.log(np.maximum(p, LEAST)).sum())
        if loss >= best:
            break
        best, chosen = loss, rounds
    return chosen


class _Trees:
    """Boosted trees that can grow. Shapes: x (n, F), y (n,) in 0..K-1."""

    def __init__(self, x: Array, y: Rows, n_classes: int, seed: int) -> None:
        from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

        self._x, self._y, self._n_classes = x, y, n_classes
        self._present = np.unique(y)
        options: dict[str, Any] = {"learning_rate": RATE, "random_state": seed, "warm_start": True}
        if len(y) < MANY:
            self._rounds = "n_estimators"
            self._model: Any = GradientBoostingClassifier(max_depth=DEPTH, subsample=0.8, **options)
        else:
            self._rounds, options["early_stopping"] = "max_iter", False
            self._model = HistGradientBoostingClassifier(max_leaf_nodes=2**DEPTH, **options)

    def grow(self, rounds: int) -> None:
        from sklearn import config_context

        if len(self._present) == 1:
            return
        self._model.set_params(**{self._rounds: rounds})
        # Settings would be checked once per tree; threads would wait for each other on few rows.
        threads = 1 if len(self._y) < VERY_MANY else None
        with config_context(skip_parameter_validation=True), threadpool_limits(threads):
            self._model.fit(self._x, self._y)

    def predict(self, new: Array) -> Array:
        """Probabilities of rows (m, F): (m, K)."""
        probabilities = np.zeros((len(new), self._n_classes))
        is_one = len(self._present) == 1
        probabilities[:, self._present] = 1.0 if is_one else self._model.predict_proba(new)
        return probabilities


def compare_boosting(
    training_data: TrainingDataset, fine_tuned: FineTuned
) -> Steps[tuple[Baseline, ...]]:
    """Compare boosting with what ships, for tables, on the folds by which that was evaluated."""
    labelled, record = training_data.labelled, training_data.collection.record
    if MODALITIES[record.kind].form != "rows" or not labelled.target.has_classes:
        return ()
    head, labels, groups = fine_tuned.head, labelled.labels, labelled.groups()
    outer = [np.flatnonzero(head.fold == number) for number in np.unique(head.fold[head.fold >= 0])]

    def inner(keep: Rows) -> tuple[Rows, ...]:
        rng = np.random.default_rng([training_data.seed, 16])
        group_of = number_groups(members(groups[keep]))
        return rows_by_fold(folds(labels[keep], group_of, INNER, rng))

    yield Event(stage="fine_tune", kind="begin", of=len(outer), values={"title": "Boosting"})
    pixels = decode_images(training_data.collection, labelled.learn, training_data.prep)
    probabilities, fold = yield from boost(
        np.stack([*pixels]), labels, labelled.n_classes, outer, inner, training_data.seed
    )
    held = np.flatnonzero(fold >= 0)
    truth, group_of = labels[held], groups[held]
    method: Literal["holdout", "nested-cv"] = "holdout" if labelled.holdout else "nested-cv"
    estimate = accuracy_estimate(probabilities[held], truth, group_of, method)
    ours, theirs = (
        (answers[held].argmax(axis=1) == truth).astype(float)
        for answers in (head.probabilities, probabilities)
    )
    gap = hits_difference(theirs, ours, group_of)
    baseline = Baseline(
        name="gradient boosting",
        estimate=estimate,
        difference=gap.value,
        low=gap.low,
        high=gap.high,
        n=len(held),
        is_better=gap.low > 0,
        sentence=_sentence(estimate.value, gap.value, gap.low, gap.high),
    )
    yield note("fine_tune", "Baseline", baseline.sentence)
    return (baseline,)


def _sentence(accuracy: float, gap: float, low: float, high: float) -> str:
    more = f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'} than this model"
    interval = f"95 % CI {points(low)} to {points(high)}"
    figures = f"held-out accuracy {100 * accuracy:.1f} %, {more} ({interval})"
    if low > 0:
        return f"Gradient boosting is better here: {figures}; use it."
    if high < 0:
        return f"Gradient boosting is worse here: {figures}."
    return f"Gradient boosting is about as good here: {figures}, which may be chance."
