"""Whether copies of one picture agree on its label, task by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from warmstart.records import Task

CLOSE = 0.25  # standard deviations that numbers of one picture may lie apart


@dataclass(frozen=True, slots=True)
class Agreeing:
    """`agree` says whether the labels of some copies do; `chance` how often any two would.

    `apart` are the words for labels that do not, of which `many` is one.
    """

    agree: Callable[[Sequence[str]], bool]
    chance: float
    apart: str
    many: str


def agreeing(task: Task, labels: Sequence[str]) -> Agreeing:
    """For the labels of a training part, as records hold them.

    >>> agreeing("classify", ["a", "b"]).agree(["a", "b"])
    False
    >>> numbers = agreeing("regress", ["0", "10", "20"])
    >>> numbers.agree(["10", "10.5"]), numbers.agree(["10", "19"])
    (True, False)
    """
    if task == "regress":
        return _numbers(labels)
    counts = Counter(labels)
    chance = sum(n * n for n in counts.values()) / max(len(labels), 1) ** 2
    return Agreeing(lambda some: len(set(some)) < 2, chance, "different labels", "labels")


def _numbers(labels: Sequence[str]) -> Agreeing:
    values = np.sort(np.array([float(label) for label in labels]))
    close = CLOSE * float(values.std()) if len(values) else 0.0
    near = np.searchsorted(values, values + close, "right") - np.searchsorted(
        values, values - close
    )
    chance = float(near.mean() / len(values)) if len(values) else 0.0
    return Agreeing(partial(_within, close), chance, "numbers far apart", "numbers")


def _within(close: float, some: Sequence[str]) -> bool:
    values = [float(label) for label in some]
    return max(values) - min(values) <= close
