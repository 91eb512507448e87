"""Linear probe, fine-tuned network, or an ensemble of both: chosen on rows that none had seen.

The ensemble is a weighted mean of the two networks' log-probabilities, which is a linear head on
the features of both.

**At full size.** A linear probe is cross-validated in ten folds or more, each of which learns from
nine tenths or more. Fine-tuning can afford three to five folds. What it loses by that is restored
in part: a share, `RESTORED`, of what the linear probe's scores gain from its larger folds is added
to the fine-tuned network's scores. All of it would add as much noise as it removes bias. An
ensemble is made of these and of the linear probe's scores, as in the network that ships. These are
the out-of-fold predictions of what ships; they stand in predictions.jsonl, and every figure is made
of them (bench/results/gain.json: how near they come to the truth).
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
from warmstart.training.selection import cross_calibrated, cross_folds

# Of the tuned network in the mean, from the simplest choice to the one that is only taken where
# neither of the two alone is as good.
SHARES = (0.0, 1.0, 0.25, 0.5, 0.75)
PROBE, FINE_TUNED = 0, 1
WORTH = 0.5  # v0: standard errors by which a more elaborate choice has to be better
WORSE = 0.005  # of accuracy that it may lose against the head, beyond half a standard error
RESTORED = 0.25  # bench/results/gain.json: of 0, 1/4, 1/2 and 1 nearest to the realised gain
_NONE = 1e-6  # nats: below it two options are the same but for rounding


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of `SHARES`, as it answers rows held out.

    Shapes: probabilities (n, K), calibrated on other folds, NaN for rows never held out.
    """

    share: float
    probabilities: Array
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Decision:
    """What is shipped, and how it and the linear probe answer the same rows held out.

    Shapes: probabilities (n, K) are the out-of-fold predictions of what ships. Where it is not the
    linear probe, each row is answered by what the other rows choose: the choice is nested, as
    every other choice is, so that it does not flatter its own estimate (Varma & Simon 2006, "Bias
    in error estimation when using cross-validation for model selection"). `tuned` (n, K) are those
    that `fine_tuning_gain` compares with the linear probe: of what ships, or, where that is the
    linear probe, of the best choice that was not taken. `ahead` is the accuracy of `tuned` less
    that of the linear probe.
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
    """Scores of an ensemble whose fine-tuned part learnt from more examples than its folds had.

    Shapes: probe (n, K) answers of the linear probe's own folds; before, tuned (n, K) answers of
    linear probe and fine-tuned network from the smaller folds; `share` of the fine-tuned network,
    the rest is the linear probe. Returns (n, K) scores, to be calibrated.

    >>> p, fewer, tuned = (np.array([[x, 1 - x]]) for x in (0.8, 0.6, 0.75))
    >>> found = at_full_size(p, fewer, tuned)
    >>> round(float(found[0, 0] - found[0, 1]), 3)  # log-odds 1.099 + (1.386 - 0.405) / 4
    1.344
    """
    scores, other, own = (target.scores_of(one) for one in (probe, before, tuned))
    found: Array = share * (own + RESTORED * (scores - other)) + (1 - share) * scores
    return found


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

    Layers that learnt from pairs (`is_paired`) draw classes apart whatever a text's doubts are:
    how sure they are says little, and of a handful of texts no share of a mean can be told. They
    ship where they are more often right than the linear probe, by half a standard error.
    `is_apart`: the network did not begin with the linear probe's head, so that what it says stands
    for itself. `may_ensemble`: whether both can stand in one network, so that means of the two may
    ship. `is_set`: the user has set the strategy, so that the fine-tuned network ships as it is.

    Shapes: probe, before, tuned (n, K) answers as of `at_full_size`, NaN for rows not held out;
    labels, blocks (n,), fold (n,) with -1 for rows that no fold holds out.

    >>> labels, fold = np.arange(60) % 2, np.arange(60) % 3
    >>> good, coin = np.eye(2)[labels] * 0.8 + 0.1, np.full((60, 2), 0.5)
    >>> decide(coin, coin, good, labels, fold, np.arange(60)).option.share
    1.0
    >>> decide(good, good, good, labels, fold, np.arange(60)).option.share
    0.0
    """
    shares = SHARES if may_ensemble else SHARES[: FINE_TUNED + 1]
    own = target.scores_of(tuned)
    if not (is_apart or is_paired):
        own = at_full_size(probe, before, tuned, target)
    options = [
        _option(share, target.scores_of(probe), own, labels, fold, groups, target)
        for share in shares
    ]
    held = np.flatnonzero(fold >= 0)
    truth, own_groups = labels[held], groups[held]
    # The linear probe is calibrated inside its folds already: one row has one answer everywhere.
    said = np.stack([probe[held], *(option.probabilities[held] for option in options[1:])])
    # All options are compared after the same calibration, the linear probe's included.
    losses = np.stack([target.said_losses(one.probabilities[held], truth) for one in options])
    hits = np.stack([target.credits(one, truth) for one in said])

    def choose(rows: Labels) -> int:
        if is_paired:
            return _more_right(hits[:, rows], own_groups[rows])
        return _best(losses[:, rows], hits[:, rows], own_groups[rows])

    def choose_tuned(rows: Labels) -> int:
        return FINE_TUNED if is_paired else 1 + int(losses[1:, rows].mean(axis=1).argmin())

    everything = np.arange(len(held))
    kind, inner = FINE_TUNED if is_set else choose(everything), cross_folds(own_groups)
    chosen = np.full(len(held), kind)
    if kind != PROBE and not is_set:
        chosen = _nested(choose, inner)
    other = _nested(choose_tuned, inner) if kind == PROBE else chosen
    shipped, best = np.full(probe.shape, np.nan), np.full(probe.shape, np.nan)
    shipped[held], best[held] = said[chosen, everything], said[other, everything]
    ahead = target.credits(best[held], truth).mean() - hits[PROBE].mean()
    return Decision(options[kind], shipped, best, float(ahead))


def _nested(choose: Callable[[Labels], int], folds: Labels) -> Labels:
    """What all other folds choose for the rows of each fold. Shapes: folds (m,), returns (m,)."""
    chosen = np.empty(len(folds), dtype=np.int64)
    everything = np.arange(len(folds))
    for number in np.unique(folds):
        others = everything[folds != number]
        chosen[folds == number] = choose(others if len(others) else everything)
    return chosen


def _option(
    share: float,
    head: Array,
    tuned: Array,
    labels: Truth,
    fold: Labels,
    groups: Labels,
    target: Target,
) -> Candidate:
    """Calibrated again, all alike: a mean of two is less sure of itself than it may be."""
    plain = Calibration(1.0, np.zeros(head.shape[1]))
    mean = share * tuned + (1 - share) * head
    return Candidate(share, *cross_calibrated(mean, labels, fold, groups, plain, target))


def _more_right(hits: Array, groups: Labels) -> int:
    gap = hits[FINE_TUNED] - hits[PROBE]
    return FINE_TUNED if gap.mean() > WORTH * standard_error(gap, groups) else PROBE


def _best(losses: Array, hits: Array, groups: Labels) -> int:
    """The simplest option that no other is clearly better than, and no less right than the head."""
    means, lost = losses.mean(axis=1), hits[PROBE] - hits
    slack = np.array([WORTH * standard_error(row, groups) for row in lost])
    allowed = np.flatnonzero(lost.mean(axis=1) <= WORSE + slack)
    best = int(allowed[means[allowed].argmin()])
    for simple in (PROBE, FINE_TUNED):
        gap = losses[simple] - losses[best]
        if simple in allowed and gap.mean() <= _NONE + WORTH * standard_error(gap, groups):
            return simple
    return best
