"""The tasks: a new one is a file with its class, and a line here."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from warmstart.errors import RunFolderError
from warmstart.records.data import Task
from warmstart.records.summary import Estimate, TestScores

if TYPE_CHECKING:
    from warmstart.tasks.task import Form, Target

DEFAULT_TASK: Task = "classify"


class _Tasks(MutableMapping[Task, "Target"]):
    """By name. Loaded on first use, as NumPy takes long to import and help needs none."""

    def __init__(self, **names: str) -> None:
        self._members: dict[Task, Target | str] = dict(names)  # a name: not loaded yet

    def __getitem__(self, task: Task) -> Target:
        if task not in self._members:
            raise RunFolderError(f"the task {task} is none of {', '.join(self)}; restore its file.")
        target = self._members[task]
        if isinstance(target, str):
            target = getattr(import_module(f"warmstart.tasks.{task}"), target)
            self._members[task] = target
        return cast("Target", target)

    def get(self, task: Task, default: Any = None) -> Any:
        return self[task] if task in self._members else default

    def __contains__(self, task: object) -> bool:
        return task in self._members

    def __setitem__(self, task: Task, target: Target) -> None:
        self._members[task] = target

    def __delitem__(self, task: Task) -> None:
        del self._members[task]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


TASKS = _Tasks(classify="CLASSIFICATION", multilabel="MULTILABEL", regress="REGRESSION")


def target_of(task: Task, labels: Sequence[str]) -> Target:
    """The target of a task; `labels` are those of the training rows, as in records.

    >>> target_of("regress", ["1", "3"])
    Regression(mean=2.0, spread=1.0)
    """
    return TASKS[task].fit(labels)


def task_of_form(form: Form) -> Target:
    """The task that labels of a source plainly make.

    >>> task_of_form("sets").task
    'multilabel'
    """
    return next(one for one in TASKS.values() if one.form == form)


# ---- Classification is the default: several records leave it out.


def task_or_default(task: Task | None) -> Target:
    """The task of a record that names none for classification."""
    return TASKS[DEFAULT_TASK if task is None else task]


def none_if_default(task: Task) -> Task | None:
    """The name of a task for such a record."""
    return None if task == DEFAULT_TASK else task


# ---- The metrics of a test set, by their record.


def task_of_scores(scores: TestScores) -> Target:
    """The task that is measured so."""
    return next(one for one in TASKS.values() if isinstance(scores, one.score_record))


def score_of(scores: TestScores) -> float:
    """The main score of the task: accuracy, mean average precision or R²."""
    return float(getattr(scores, task_of_scores(scores).metric))


def test_estimate(scores: TestScores) -> Estimate:
    """The main score of a test set, with its interval."""
    return Estimate(
        metric=task_of_scores(scores).metric,
        value=score_of(scores),
        low=scores.low,
        high=scores.high,
        n=scores.n,
        method="holdout",
    )


def other_metrics(scores: TestScores) -> str:
    """The other metrics of a test set, as one sentence without its first word."""
    return task_of_scores(scores).other_metrics(scores)
