"""The curves of a training, read from its events: a name, a step and a number at a time.

Each training has its own names: `fold1/loss` where rows are held out, `final/loss` where it
learns from all. Steps count the updates of the run, over all its trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmstart.events import BESIDE, Event
from warmstart.records.summary import Summary
from warmstart.tasks.words import test_estimate

Curves = dict[str, float]
Choices = dict[str, float | int | str]

# What an event calls it, and what the curve is called.
OF_A_TRAINING = {
    "loss": "loss",
    "val_loss": "val_loss",
    "val": "val_accuracy",
    "head": "head_accuracy",
}
OF_ALL = {"per_second": "speed/images_per_second", "memory_mb": "memory/peak_mb"}


FINAL = "final"  # the last training on all rows; those before it are numbered


class CurveReader:
    """Reads events in their order; remembers how many trainings there are.

    `rate`: that of the uppermost tuned part at its peak, where it is known.
    """

    def __init__(self) -> None:
        self.trainings: int | None = None
        self.folds: int | None = None  # of them, those that hold rows out
        self.rate: float | None = None
        self._is_beside = False  # trainings to compare with have no curves here

    def read(self, event: Event) -> Curves:
        """The points that an event adds, all at its step; none where it adds none.

        >>> event = Event(stage="fine_tune", kind="step", step=3, values={"loss": 0.5, "job": 1})
        >>> CurveReader().read(event)
        {'fold1/loss': 0.5}
        """
        self._remember(event)
        if event.stage != "fine_tune" or self._is_beside:
            return {}
        if event.kind == "guard":
            return {f"guard/{event.values.get('guard') or event.values.get('kind') or 'any'}": 1.0}
        if event.kind != "step" or "loss" not in event.values:
            return {}
        group, numbers = self._group(event.values.get("job")), numbers_of(event.values)
        own = {OF_A_TRAINING[name]: v for name, v in numbers.items() if name in OF_A_TRAINING}
        if "factor" in numbers and self.rate is not None:
            own["rate"] = numbers["factor"] * self.rate
        points = {f"{group}/{name}": value for name, value in own.items()}
        return points | {OF_ALL[n]: v for n, v in numbers.items() if n in OF_ALL}

    def _remember(self, event: Event) -> None:
        if event.stage != "fine_tune" or event.kind != "begin":
            return
        self._is_beside = BESIDE in event.values
        if "trainings" in event.values:
            self.trainings = int(event.values["trainings"])
            self.folds = int(event.values.get("folds", self.trainings - 1))

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
    """The updates made, as trackers want them: never fewer than before.

    A training that begins anew at a lower rate counts on.

    >>> axis = Axis()
    >>> for step in (1, 2, 3, 1, 2, 0):
    ...     axis.see(Event(stage="fine_tune", kind="step" if step else "guard", step=step))
    >>> axis.at
    5
    """

    at: int = 0
    ahead: int = 0

    def see(self, event: Event) -> None:
        """Take in an event of a training."""
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


def choices_in(plan: Mapping[str, Any], above: str = "") -> Choices:
    """The values of a plan.toml under their paths, as --set names them; the reasons stay behind.

    >>> choices_in({"base": {"value": "lite0"}, "training": {"epochs": {"value": 9}}})
    {'base': 'lite0', 'training.epochs': 9}
    >>> choices_in({"block": [{"name": "blocks.0", "action": {"value": "tuned"}}]})
    {'block.blocks.0.action': 'tuned'}
    """
    found: Choices = {}
    for key, item in plan.items():
        path = f"{above}{key}"
        if isinstance(item, dict) and "value" in item:
            value = item["value"]
            is_plain = isinstance(value, (int, float, str))
            found[path] = value if is_plain else ",".join(map(str, value))
        elif isinstance(item, dict):
            found |= choices_in(item, f"{path}.")
        elif key == "block":
            for part in item:
                found |= choices_in(part, f"block.{part['name']}.")
    return found


def results_of(summary: Summary) -> Curves:
    """What a finished run is worth, in numbers by which runs are compared."""
    found: Curves = {}
    if summary.estimate is not None:
        value = summary.estimate
        found = {
            f"result/{value.metric}": value.value,
            "result/low": value.low,
            "result/high": value.high,
        }
    if summary.test is not None:
        claim = test_estimate(summary.test)
        found[f"result/test_{claim.metric}"] = claim.value
    return found
