"""Ship rule: linear probe, fine-tuned network or an ensemble, chosen on held-out rows.

The ensemble is a weighted mean of the two networks' log-probabilities, which is a linear head on
the features of both. Its out-of-fold predictions are those of predictions.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.stats.intervals import standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.head_families import cross_calibrated, cross_folds

# Of the fine-tuned network in the mean, simplest option first; an ensemble is chosen only where
# neither network alone is as good.
SHARES = (0.0, 1.0, 0.25, 0.5, 0.75)
PROBE, FINE_TUNED = 0, 1
MIN_GAIN = 0.5  # v0: standard errors by which a more complex option has to be better
MAX_LOST = 0.005  # accuracy that it may lose against the probe, beyond half a standard error
RESTORED = 0.25  # bench/results/gain.json: of 0, 1/4, 1/2 and 1 closest to the realised gain
_TIE = 1e-6  # nats: below it two options are equal but for rounding


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of `SHARES` with its predictions (n, K) for held-out rows, NaN for others."""

    share: float
    probabilities: Array
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Decision:
    """What ships, and its predictions for held-out rows.

    Shapes: probabilities (n, K) are the out-of-fold predictions of what ships. Where it is not the
    linear probe, each row is predicted by the option that the other rows choose, so that the choice
    does not flatter its estimate (Varma & Simon 2006, "Bias in error estimation when using
    cross-validation for model selection"). `fine_tuned` (n, K) are those that `fine_tuning_gain`
    compares with the linear probe: of what ships, or else of the best other option. `ahead` is the
    accuracy of `fine_tuned` minus that of the linear probe.
    """

    option: Candidate
    probabilities: Array
    fine_tuned: Array
    ahead: float

    @property
    def kind(self) -> int:
        """Place in `SHARES`."""
        return SHARES.index(self.option.share)


def at_full_size(
    probe: Array, before: Array, tuned: Array, target: Target = CLASSIFICATION, share: float = 1.0
) -> Array:
    """Scores (n, K) of an ensemble whose fine-tuned network sees more examples than in its folds.

    A linear probe is cross-validated in ten folds or more, fine-tuning in three to five: `RESTORED`
    of what the linear probe's scores gain from its larger folds is added to the fine-tuned
    network's; all of it would add as much noise as it removes bias.
    Shapes: probe (n, K) answers of the linear probe from its folds; before, tuned (n, K) of linear
    probe and fine-tuned network from the fewer folds; `share` of the latter.
    """
    full, fewer, trained = (target.scores_of(answers) for answers in (probe, before, tuned))
    ensemble: Array = share * (trained + RESTORED * (full - fewer)) + (1 - share) * full
    return ensemble


def decide(
    probe: Array,
    before: Array,
    tuned: Array,
    labels: Truth,
    fold: Labels,
    groups: Labels,
    target: Target = CLASSIFICATION,
    *,
    is_apart: bool = False,
    is_paired: bool = False,
    may_ensemble: bool = True,
    is_set: bool = False,
) -> Decision:
    """Choose by calibrated log-loss; ties, within half a standard error, go to the simpler.

    Blocks trained on pairs (`is_paired`) separate classes however ambiguous a text is: they ship
    where their accuracy, not their log-loss, beats the linear probe's by half a standard error.
    `is_apart`: the network did not begin with the linear probe's head, so that its scores are used
    unchanged. `may_ensemble`: whether both fit in one network. `is_set`: the user set the strategy,
    so that the fine-tuned network ships.
    Shapes: probe, before, tuned (n, K) as for `at_full_size`, NaN for rows not held out; labels,
    groups (n,), fold (n,) with -1 for rows that no fold holds out.
    """
    shares = SHARES if may_ensemble else SHARES[: FINE_TUNED + 1]
    scores = target.scores_of(tuned)
    if not (is_apart or is_paired):
        scores = at_full_size(probe, before, tuned, target)
    base, plain = target.scores_of(probe), Calibration(1.0, np.zeros(probe.shape[1]))
    options = []
    for share in shares:
        # All calibrated again: a mean of two is less confident than it may be.
        mean = share * scores + (1 - share) * base
        calibrated = cross_calibrated(mean, labels, fold, groups, plain, target)
        options.append(Candidate(share, *calibrated))
    held = np.flatnonzero(fold >= 0)
    truth, group_of = labels[held], groups[held]
    # The linear probe is calibrated inside its folds already: a row has one prediction everywhere.
    answers = np.stack([probe[held], *(option.probabilities[held] for option in options[1:])])
    # All options are compared after the same calibration, the linear probe's included.
    losses = np.stack([target.answer_losses(one.probabilities[held], truth) for one in options])
    hits = np.stack([target.credits(one, truth) for one in answers])

    def choose(rows: Labels) -> int:
        if is_paired:
            gap = hits[FINE_TUNED, rows] - hits[PROBE, rows]
            error = MIN_GAIN * standard_error(gap, group_of[rows])
            return FINE_TUNED if gap.mean() > error else PROBE
        return _best(losses[:, rows], hits[:, rows], group_of[rows])

    def choose_fine_tuned(rows: Labels) -> int:
        return FINE_TUNED if is_paired else 1 + int(losses[1:, rows].mean(axis=1).argmin())

    everything = np.arange(len(held))
    kind, inner = FINE_TUNED if is_set else choose(everything), cross_folds(group_of)
    chosen = np.full(len(held), kind)
    if kind != PROBE and not is_set:
        chosen = _nested(choose, inner)
    other = _nested(choose_fine_tuned, inner) if kind == PROBE else chosen
    shipped, best = np.full(probe.shape, np.nan), np.full(probe.shape, np.nan)
    shipped[held], best[held] = answers[chosen, everything], answers[other, everything]
    ahead = target.credits(best[held], truth).mean() - hits[PROBE].mean()
    return Decision(options[kind], shipped, best, float(ahead))


def _nested(choose: Callable[[Labels], int], folds: Labels) -> Labels:
    """For the rows of each fold, the choice of all other folds. Shapes: (m,) to (m,)."""
    chosen = np.empty(len(folds), dtype=np.int64)
    everything = np.arange(len(folds))
    for number in np.unique(folds):
        others = everything[folds != number]
        chosen[folds == number] = choose(others if len(others) else everything)
    return chosen


def _best(losses: Array, hits: Array, groups: Labels) -> int:
    """The simplest option that none beats clearly, and that is as accurate as the probe."""
    means, lost = losses.mean(axis=1), hits[PROBE] - hits
    slack = np.array([MIN_GAIN * standard_error(row, groups) for row in lost])
    accurate = np.flatnonzero(lost.mean(axis=1) <= MAX_LOST + slack)
    best = int(accurate[means[accurate].argmin()])
    for simple in (PROBE, FINE_TUNED):
        gap = losses[simple] - losses[best]
        if simple in accurate and gap.mean() <= _TIE + MIN_GAIN * standard_error(gap, groups):
            return simple
    return best
