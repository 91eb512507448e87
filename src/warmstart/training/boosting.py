"""Gradient boosting of trees, beside a network: what a table of numbers gives without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.data.splits import folds
from warmstart.evaluation.metrics import accuracy_estimate
from warmstart.events import Event, Steps, note
from warmstart.features.extraction import load_same
from warmstart.modalities.preprocessing import encode
from warmstart.records.summary import Baseline
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups
from warmstart.stats.paired import hits_difference
from warmstart.tasks.words import points
from warmstart.training.dataset import TrainingDataset
from warmstart.training.fine_tune import FineTuned

ROUNDS = (10, 30, 100)  # trees a class, to choose from
RATE, DEPTH = 0.1, 3
MANY = 500  # rows from which histograms are quicker than sorted values
VERY_MANY = 20_000  # rows that more than one thread is worth it for
LEAST = 1e-6  # probability: no log-loss is infinite


@dataclass(frozen=True, slots=True)
class BoostingPredictions:
    """What boosting says of each row without it. Shapes: probabilities (n, K), fold (n,)."""

    probabilities: Array
    fold: Rows
    name: str


def boost(
    rows: Array,
    labels: Rows,
    n_classes: int,
    outer: Sequence[Rows],
    inner: Callable[[Rows], Sequence[Rows]],
    seed: int,
) -> Steps[BoostingPredictions]:
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
        yield Event(
            stage="fine_tune",
            kind="step",
            step=number + 1,
            of=len(outer),
            values={"title": "Boosting"},
        )
    return BoostingPredictions(said, fold, "gradient boosting")


def _choose(x: Array, y: Rows, n_classes: int, blocks: Sequence[Rows], seed: int) -> int:
    """The number of rounds after which the log-loss on parts that were held out rises."""
    rest = [np.setdiff1d(np.arange(len(y)), block) for block in blocks]
    grown = [_Trees(x[rows], y[rows], n_classes, seed) for rows in rest]
    best, chosen = np.inf, ROUNDS[0]
    for rounds in ROUNDS:
        loss = 0.0
        for block, trees in zip(blocks, grown, strict=True):
            trees.grow(rounds)
            p = trees.says(x[block])[np.arange(len(block)), y[block]]
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
    "GradientBoostingClassifier": "n_estimators",
    "HistGradientBoostingClassifier": "max_iter",
}


def _model(n: int, seed: int) -> Any:
    """Boosting for so many rows, no tree grown yet."""
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    if n < MANY:
        return GradientBoostingClassifier(
            learning_rate=RATE, max_depth=DEPTH, subsample=0.8, random_state=seed, warm_start=True
        )
    return HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_leaf_nodes=2**DEPTH,
        early_stopping=False,
        random_state=seed,
        warm_start=True,
    )


# ---- Gradient boosting beside a network for tables: the same rows, the same folds, compared.


INNER = 2  # parts of a fold's rows, each of which chooses once


def compare_boosting(
    training_data: TrainingDataset, fine_tuned: FineTuned
) -> Steps[tuple[Baseline, ...]]:
    """What boosting gives on each row without it, against what the run has made; for tables.

    The folds are those by which what is shipped was judged.
    """
    labelled, record = training_data.labelled, training_data.collection.record
    if record.kind != "table" or record.task != "classify":
        return ()
    rows, groups, fold = encoded(training_data), labelled.groups(), fine_tuned.head.fold
    outer = [np.flatnonzero(fold == number) for number in np.unique(fold[fold >= 0])]

    def inner(keep: Rows) -> list[Rows]:
        rng = np.random.default_rng([training_data.seed, 16])
        own = number_groups(_within(groups[keep]))
        part = folds(labelled.labels[keep], own, INNER, rng)
        return [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]

    yield Event(stage="fine_tune", kind="begin", of=len(outer), values={"title": "Boosting"})
    found = yield from boost(
        rows, labelled.labels, labelled.n_classes, outer, inner, training_data.seed
    )
    held = np.flatnonzero(found.fold >= 0)
    method: Literal["holdout", "nested-cv"] = "holdout" if labelled.holdout else "nested-cv"
    estimate = accuracy_estimate(
        found.probabilities[held], labelled.labels[held], groups[held], method
    )
    ours = _hits(fine_tuned, labelled.labels)
    theirs = np.full(len(ours), np.nan)
    theirs[held] = found.probabilities[held].argmax(axis=1) == labelled.labels[held]
    both = np.flatnonzero(np.isfinite(ours) & np.isfinite(theirs))
    gap = hits_difference(theirs[both], ours[both], groups[both])
    told = Baseline(
        name=found.name,
        estimate=estimate,
        difference=gap.value,
        low=gap.low,
        high=gap.high,
        n=len(both),
        is_better=gap.low > 0,
        sentence=_sentence(found.name, estimate.value, gap.value, gap.low, gap.high),
    )
    yield note("fine_tune", "Beside", told.sentence)
    return (told,)


def encoded(training_data: TrainingDataset) -> Array:
    """The learning rows as the network is given them. Shapes: (n, F)."""
    examples = training_data.labelled.learn
    return np.stack(
        [encode(load_same(training_data.collection, e), e.id, training_data.prep) for e in examples]
    )


def _within(groups: Rows) -> list[Rows]:
    return [np.flatnonzero(groups == block) for block in np.unique(groups)]


def _hits(fine_tuned: FineTuned, labels: Rows) -> Array:
    """Whether what is shipped answers each row rightly, (n,); NaN if it was never held out."""
    held = fine_tuned.head.fold >= 0
    found = np.full(len(labels), np.nan)
    found[held] = fine_tuned.head.probabilities[held].argmax(axis=1) == labels[held]
    return found


def _sentence(name: str, accuracy: float, gap: float, low: float, high: float) -> str:
    right = f"{100 * accuracy:.1f} % right on rows held out"
    interval = f"{points(low)} to {points(high)}"
    more = f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'} than this model"
    if low > 0:
        return f"{name.capitalize()} is better here: {right}, {more} ({interval}); use it."
    if high < 0:
        return f"{name.capitalize()} does worse here: {right}, {more} ({interval})."
    return (
        f"{name.capitalize()} is about as good here: {right}, {more} ({interval}), which may be "
        "chance."
    )
