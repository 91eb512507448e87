"""The head alone, the tuned network, or both in one: chosen on rows that neither had learnt from.

Both in one: a weighted mean of the two networks' log-probabilities, which is a linear output on
the taps of both. An ensemble of a head that listens to many depths and of tuned layers errs less
than either where they err differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.solve.ridge import Array
from warmstart.solve.temperature import Calibration, Labels
from warmstart.stats.bbc import Rows, chosen_hits
from warmstart.stats.intervals import Values, standard_error
from warmstart.tasks.classes import CLASSES
from warmstart.tasks.target import Target, Truth
from warmstart.training.crossfit import cross_calibrated

# Of the tuned network in the mean, from the simplest choice to the one that is only taken where
# neither of the two alone is as good.
SHARES = (0.0, 1.0, 0.25, 0.5, 0.75)
HEAD, TUNED = 0, 1
WORTH = 0.5  # v0: standard errors by which a more elaborate choice has to be better
WORSE = 0.005  # of accuracy that it may lose against the head, beyond half a standard error
_NONE = 1e-6  # nats: below it two options are the same but for rounding


@dataclass(frozen=True, slots=True)
class Option:
    """One of `SHARES`, as it answers rows held out.

    Shapes: probabilities (n, K), calibrated on other folds, NaN for rows never held out.
    """

    share: float
    probabilities: Array
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Decision:
    """What is shipped, and what that is worth.

    Shapes: hits (m,) of the rows held out, each answered by what was chosen without it, -1 to 2
    where they are corrected for how little the trainings had learnt from; deeper (m,) the same,
    chosen among all but the head, not corrected; head (m,) the head's own.
    """

    option: Option
    hits: Values
    deeper: Values
    head: Values
    gain: float  # mean log-loss, in nats, of the head minus that of the tuned network
    error: float  # its standard error

    @property
    def ahead(self) -> float:
        """Accuracy that the best of all but the head has over it, on rows held out."""
        return float(self.deeper.mean() - self.head.mean())

    @property
    def kind(self) -> int:
        """Place in `SHARES`."""
        return SHARES.index(self.option.share)


def decide(
    head: Array,
    tuned: Array,
    labels: Truth,
    fold: Labels,
    blocks: Labels,
    rng: np.random.Generator,
    alone: Array | None = None,
    target: Target = CLASSES,
    *,
    is_paired: bool = False,
) -> Decision:
    """Choose by calibrated log-loss; ties, within half a standard error, go to the simpler.

    Layers that learnt from pairs (`is_paired`) draw classes apart whatever a text's doubts are:
    how sure they are says little, and of a handful of texts no share of a mean can be told. They
    ship where they are more often right than the head, by half a standard error, and are worth
    what they are on these rows: what a head gains by more of them is not what they gain.

    Shapes: head, tuned (n, K) probabilities of rows held out, NaN elsewhere; labels, blocks
    (n,), fold (n,) with -1 for rows that no fold holds out. `alone` (n, K) are the head's own
    from folds that left it more to learn from than the few folds of a training do: they have
    no say in the choice, but tell what the head is worth. The others are worth that, and what
    they are ahead of the head on the same rows and folds.

    >>> labels, fold = np.arange(60) % 2, np.arange(60) % 3
    >>> good, coin = np.eye(2)[labels] * 0.8 + 0.1, np.full((60, 2), 0.5)
    >>> rng = np.random.default_rng(0)
    >>> decide(coin, good, labels, fold, np.arange(60), rng).option.share
    1.0
    >>> decide(good, good, labels, fold, np.arange(60), rng).option.share
    0.0
    """
    options = [_option(share, head, tuned, labels, fold, blocks, target) for share in SHARES]
    held = np.flatnonzero(fold >= 0)
    truth, part = labels[held], blocks[held]
    said = [option.probabilities[held] for option in options]
    losses = np.stack([target.said_losses(one, truth) for one in said])
    hits = np.stack([target.credits(one, truth) for one in said])

    def choose(rows: Rows) -> int:
        if is_paired:
            return _more_right(hits[:, rows], part[rows])
        return _best(losses[:, rows], hits[:, rows], part[rows])

    def choose_deeper(rows: Rows) -> int:
        return TUNED if is_paired else 1 + int(losses[1:, rows].mean(axis=1).argmin())

    told = hits
    if alone is not None:
        own = target.credits(alone[held], truth)
        told = np.stack([own, *hits[1:]]) if is_paired else hits - hits[HEAD] + own
    gap = losses[HEAD] - losses[TUNED]
    return Decision(
        option=options[choose(np.arange(len(held)))],
        hits=chosen_hits(told, choose, part, rng),
        deeper=chosen_hits(hits, choose_deeper, part, rng),
        head=hits[HEAD],
        gain=float(gap.mean()),
        error=standard_error(gap, part),
    )


def _option(
    share: float, head: Array, tuned: Array, labels: Truth, fold: Labels, blocks: Labels,
    target: Target,
) -> Option:  # fmt: skip
    """Calibrated again, all alike: a mean of two is less sure of itself than it may be."""
    plain = Calibration(1.0, np.zeros(head.shape[1]))
    own, other = target.scores_of(tuned), target.scores_of(head)
    mean = share * own + (1 - share) * other
    return Option(share, *cross_calibrated(mean, labels, fold, blocks, plain, target))


def _more_right(hits: Array, blocks: Labels) -> int:
    gap = hits[TUNED] - hits[HEAD]
    return TUNED if gap.mean() > WORTH * standard_error(gap, blocks) else HEAD


def _best(losses: Array, hits: Array, blocks: Labels) -> int:
    """The simplest option that no other is clearly better than, and no less right than the head."""
    means, lost = losses.mean(axis=1), hits[HEAD] - hits
    slack = np.array([WORTH * standard_error(row, blocks) for row in lost])
    allowed = np.flatnonzero(lost.mean(axis=1) <= WORSE + slack)
    best = int(allowed[means[allowed].argmin()])
    for simple in (HEAD, TUNED):
        gap = losses[simple] - losses[best]
        if simple in allowed and gap.mean() <= _NONE + WORTH * standard_error(gap, blocks):
            return simple
    return best
