"""From a task's name to its target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.records.data import Task
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression
from warmstart.tasks.task import Target


def target_of(task: Task, labels: Sequence[str]) -> Target:
    """The target of a task; `labels` are those of the training rows, as in records.

    >>> target_of("regress", ["1", "3"])
    Regression(mean=2.0, spread=1.0)
    """
    if task == "regress":
        return Regression.of(np.array([float(label) for label in labels]))
    return CLASSIFICATION if task == "classify" else MULTILABEL
