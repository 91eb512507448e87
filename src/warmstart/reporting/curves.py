"""The curves of a training, read from its events: a name, a step and a number at a time.

Each training has its own names: `fold1/loss` where rows are held out, `final/loss` where it
trains on all. Steps count the updates of the run, over all its trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmstart.events import BESIDE, Event
from warmstart.records.summary import Summary
from warmstart.tasks.registry import test_estimate

Curves = dict[str, float]
Choices = dict[str, float | int | str]

# Values of an event and the names of their curves.
OF_A_TRAINING = {
    "loss": "loss",
    "val_loss": "val_loss",
    "val": "val_accuracy",
    "head": "head_accuracy",
}
OF_ALL = {"per_second": "speed/images_per_second", "memory_mb": "memory/peak_mb"}


FINAL = "final"  # the last training, on all rows; those before it are numbered


class CurveReader:
    """Reads events in order; remembers how many trainings there are.

    `lr`: peak learning rate of the uppermost unfrozen block, where it is known.
    """

    def __init__(self) -> None:
        self.trainings: int | None = None
        self.folds: int | None = None  # of them, those that hold rows out
        self.lr: float | None = None
        self._is_beside = False  # trainings made to compare with have no curves

    def read(self, event: Event) -> Curves:
        """The points that an event adds, all at its step; may be empty.

        >>> event = Event(stage="fine_tune", kind="step", step=3, values={"loss": 0.5, "job": 1})
        >>> CurveReader().read(event)
        {'fold1/loss': 0.5}
        """
        values = event.values
        if event.stage == "fine_tune" and event.kind == "begin":
            self._is_beside = BESIDE in values
            if "trainings" in values:
                self.trainings = int(values["trainings"])
                self.folds = int(values.get("folds", self.trainings - 1))
        if event.stage != "fine_tune" or self._is_beside:
            return {}
        if event.kind == "guard":
            return {f"guard/{values.get('guard') or values.get('kind') or 'any'}": 1.0}
        if event.kind != "step" or "loss" not in values:
            return {}
        group, numbers = self._group(values.get("job")), numbers_of(values)
        own = {OF_A_TRAINING[name]: v for name, v in numbers.items() if name in OF_A_TRAINING}
        if "factor" in numbers and self.lr is not None:
            own["lr"] = numbers["factor"] * self.lr
        points = {f"{group}/{name}": value for name, value in own.items()}
        return points | {OF_ALL[n]: v for n, v in numbers.items() if n in OF_ALL}

    def _group(self, job: object) -> str:
        if job is None:
            return "train"
        if job == self.trainings:
            return FINAL
        number = int(str(job))
        after = 0 if self.folds is None else number - self.folds
        return f"{FINAL}{after}" if after > 0 else f"fold{number}"


@dataclass(slots=True)
class Axis:
    """The number of updates, never decreasing, as trackers need it.

    A training that restarts at a lower learning rate counts on.

    >>> axis = Axis()
    >>> for step in (1, 2, 3, 1, 2, 0):
    ...     axis.see(Event(stage="fine_tune", kind="step" if step else "guard", step=step))
    >>> axis.at
    5
    """

    at: int = 0
    ahead: int = 0

    def see(self, event: Event) -> None:
        """Advance by an event of a training."""
        if event.kind != "step":
            return
        if event.step + self.ahead < self.at:
            self.ahead = self.at - event.step + 1
        self.at = event.step + self.ahead


def numbers_of(values: Mapping[str, float | int | str]) -> dict[str, float]:
    """The finite numbers among values."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def choices_in(plan: Mapping[str, Any], prefix: str = "") -> Choices:
    """The values of a plan.toml by their paths, as --set names them, without the reasons.

    >>> choices_in({"base": {"value": "lite0"}, "training": {"epochs": {"value": 9}}})
    {'base': 'lite0', 'training.epochs': 9}
    >>> choices_in({"block": [{"name": "blocks.0", "action": {"value": "tuned"}}]})
    {'block.blocks.0.action': 'tuned'}
    """
    choices: Choices = {}
    for key, item in plan.items():
        path = f"{prefix}{key}"
        if isinstance(item, dict) and "value" in item:
            value = item["value"]
            is_plain = isinstance(value, (int, float, str))
            choices[path] = value if is_plain else ",".join(map(str, value))
        elif isinstance(item, dict):
            choices |= choices_in(item, f"{path}.")
        elif key == "block":
            for block in item:
                choices |= choices_in(block, f"block.{block['name']}.")
    return choices


def results_of(summary: Summary) -> Curves:
    """The scores of a finished run by which runs are compared."""
    results: Curves = {}
    if summary.estimate is not None:
        score = summary.estimate
        results[f"result/{score.metric}"] = score.value
        results |= {"result/low": score.low, "result/high": score.high}
    if summary.test is not None:
        score = test_estimate(summary.test)
        results[f"result/test_{score.metric}"] = score.value
    return results
