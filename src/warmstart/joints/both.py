"""Two forms of one model on the same labelled images, by the score of its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from warmstart.data.split import blocks
from warmstart.records import DataRecord, Example, Task
from warmstart.stats.paired import Difference, difference
from warmstart.stats.paired_hits import hits_difference
from warmstart.tasks.find import target_of
from warmstart.tasks.numbers import Numbers

Said = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Both:
    """Scores of the first form and of the second, and the second less the first.

    `same`: share of answers that are the same in both; None for numbers. `metric`: the score,
    None for accuracy.
    """

    before: float
    after: float
    gap: Difference
    same: float | None
    metric: str | None


def judge_both(said: Said, there: Sequence[Example], record: DataRecord) -> Both:
    """Shapes: said (2, n, K), logits of both forms, or numbers (2, n, 1); n examples."""
    return _JUDGES[record.task](said, there, record)


def _classes(said: Said, there: Sequence[Example], record: DataRecord) -> Both:
    number = {label: index for index, label in enumerate(record.classes)}
    labels = np.array([number[example.label] for example in there])
    named = said.argmax(axis=2)
    hits = (named == labels).astype(float)
    gap = hits_difference(hits[1], hits[0], blocks(there, record.twins))
    same = float((named[0] == named[1]).mean())
    return Both(float(hits[0].mean()), float(hits[1].mean()), gap, same, None)


def _others(said: Said, there: Sequence[Example], record: DataRecord) -> Both:
    """By what each image adds to the mean average precision, or to R²."""
    learnt = [example.label for example in record.examples if example.split != "test"]
    target = target_of(record.task, learnt)
    truth = target.read([example.label for example in there], record.classes)
    same: float | None = None
    if isinstance(target, Numbers):
        answers = (said - target.mean) / target.spread
    else:
        answers, same = (
            expit(said.astype(np.float64)),
            float(((said[0] > 0) == (said[1] > 0)).mean()),
        )
    before, after = (target.credits(one.astype(np.float64), truth) for one in answers)
    gap = difference(after, before, blocks(there, record.twins), np.random.default_rng(0))
    return Both(float(before.mean()), float(after.mean()), gap, same, target.metric)


_JUDGES: dict[Task, Callable[[Said, Sequence[Example], DataRecord], Both]] = {
    "classify": _classes, "multilabel": _others, "regress": _others,
}  # fmt: skip
