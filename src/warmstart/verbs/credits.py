"""What each example held out adds to a run's score, from its line in predictions.jsonl."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from warmstart.records import DataRecord, Task
from warmstart.solve.platt import log_losses_of
from warmstart.tasks.label_sets import LABEL_SETS

Credit = Callable[[Mapping[str, Any]], float | None]
# What the mean of these is called. Of several labels: log-loss against that of a coin, 1 where
# every label is certain and right, 0 where all are called even.
METRICS: dict[Task, str] = {"classify": "accuracy", "multilabel": "log_score", "regress": "r2"}


def _numbers(data: DataRecord) -> Credit:
    values = np.array([float(e.label) for e in data.examples if e.split != "test"])
    variance = max(float(values.var()), 1e-300)
    return lambda told: 1 - (float(told["value"]) - float(told["target"])) ** 2 / variance


def _label_sets(data: DataRecord) -> Credit:
    def credit(told: Mapping[str, Any]) -> float:
        truth = LABEL_SETS.read([told["target"]], data.classes)
        said = np.array([[told["scores"][name] for name in data.classes]])
        return 1 - float(log_losses_of(LABEL_SETS.scores_of(said), truth)[0]) / math.log(2)

    return credit


_CREDITS: dict[Task, Callable[[DataRecord], Credit]] = {
    "classify": lambda data: lambda told: None,  # the label is the target, or not
    "multilabel": _label_sets,
    "regress": _numbers,
}


def credit_of(data: DataRecord) -> Credit:
    """From a line to its credit; None where label and target say all."""
    return _CREDITS[data.task](data)
