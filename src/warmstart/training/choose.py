"""Choosing among trials: the penalty by the one-standard-error rule, then the head.

Ties go to the simpler: a difference that could be chance is no reason for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from warmstart.stats.intervals import Blocks, standard_error
from warmstart.training.trials import Trial

TIE = 0.25  # standard errors of the paired log-loss within which the simpler head wins


def choose_penalty(trials: Sequence[Trial], blocks: Blocks) -> Trial:
    """The strongest penalty whose log-loss is within one paired standard error of the best.

    Shapes: trials in order of rising penalty, blocks (m,) of the kept rows.
    Source: Breiman et al. 1984, §3.4.3; paired as the same rows are judged.
    """
    best = min(trials, key=lambda trial: float(trial.losses.mean()))
    chosen = best
    for trial in trials:
        gap = trial.losses - best.losses
        if trial.penalty > best.penalty and gap.mean() <= standard_error(gap, blocks):
            chosen = trial
    return chosen


def choose_head(trials: Mapping[str, Sequence[Trial]], blocks: Blocks) -> tuple[str, Trial]:
    """The head of least log-loss, or the simplest that ties with it.

    Shapes: trials by head name, simplest first, all over the same kept rows; blocks (m,).
    """
    picked = {name: choose_penalty(each, blocks) for name, each in trials.items()}
    best = min(picked.values(), key=lambda trial: float(trial.losses.mean()))
    for name, trial in picked.items():
        gap = trial.losses - best.losses
        if gap.mean() <= TIE * np.nan_to_num(standard_error(gap, blocks), posinf=0.0):
            return name, trial
    raise AssertionError("the best head ties with itself")
