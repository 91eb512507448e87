"""Metrics of tasks other than one class an example: `test`, and `evaluate --json`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One label of several: how well rows are ranked by it, and found by its threshold."""

    label: str
    n: int  # rows that have it
    average_precision: float | None  # None: no row has it
    f1: float
    precision: float
    recall: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """Multi-label metrics on data that no choice has seen; `mAP` is mean average precision.

    `low` and `high` are of `mAP`. `exact` is the share of rows whose labels are all right.
    """

    n: int
    mAP: float  # as the whole field writes it
    low: float
    high: float
    macro_f1: float
    micro_f1: float
    exact: float
    log_loss: float
    ece: float
    labels: tuple[LabelScore, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberScores:
    """Regression metrics on data that no choice has seen; errors in the user's unit.

    `low` and `high` are of `r2`. `coverage` is the share of rows inside their interval, which
    promises `promised`; None where there were too few examples to promise any.
    """

    n: int
    r2: float
    low: float
    high: float
    mae: float
    rmse: float
    coverage: float | None
    promised: float
