"""training.parallel: rows shared by several processes, or the network's parts, as a pipeline."""

from __future__ import annotations

import re

from warmstart.records import Choice

DATA = "data"
_PIPELINE = re.compile(r"pipeline:([1-9][0-9]{0,3})")
MICRO = 4  # micro-batches a stage: Huang et al. 2019, "GPipe", §3: the rest is idle by then
KIND = "data, or pipeline:N for as many processes"


def n_stages(value: object) -> int:
    """Stages of the pipeline that a value of training.parallel asks for; 0: none.

    >>> n_stages("pipeline:4"), n_stages("data"), n_stages("pipeline:x")
    (4, 0, 0)
    """
    found = _PIPELINE.fullmatch(str(value))
    return int(found[1]) if found else 0


def is_way(value: object) -> bool:
    """Whether training.parallel may be so.

    >>> is_way("pipeline:2"), is_way("pipeline")
    (True, False)
    """
    return value == DATA or n_stages(value) > 0


def in_turn(batch: int, n: int) -> Choice:
    """How many images of a batch pass through `n` stages at once.

    A batch goes in equal parts, at most four a stage: while one part is in the second stage,
    the next is in the first.

    >>> in_turn(32, 2).value, in_turn(30, 4).value, in_turn(7, 2).value
    (4, 2, 1)
    """
    parts = max(m for m in range(1, min(MICRO * n, batch) + 1) if batch % m == 0)
    why = f"a batch passes through {n} stages in {parts} parts, so that all of them have work"
    return Choice(value=batch // parts, because=why, source="rule")


def least_idle(n: int, parts: int) -> float:
    """The share of time that stages of equal cost stand idle: GPipe, §2.3.

    >>> round(least_idle(2, 8), 3)
    0.111
    """
    return (n - 1) / (parts + n - 1)
