"""Where a training might have ended: looks on the way, and shares of the way from the start.

Which end is taken is chosen on rows held out. The estimate stays honest because the choice for
each part of them is made on the other parts alone, as for its calibration; the choice for the
final training is made on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array
from warmstart.tasks.classify import CLASSES
from warmstart.tasks.task import Target, Truth
from warmstart.training.cross_calibration import LEAST, cross_parts

LOOKS = 5  # at equal distances; the last is the end
SHARES = (0.75, 0.5, 0.25)  # of the way from the start's weights to the end's
WORST = 27.6  # nats, the most that a row's loss counts: one in 10^12; of what is no number, too


@dataclass(frozen=True, slots=True)
class Route:
    """How far a training goes: up to a look (1..LOOKS), then a share of the way from its start.

    `n_stages`: groups of parts that join, None where all do.
    """

    look: int = LOOKS
    share: float = 1.0
    n_stages: int | None = None

    def n_steps(self, n_steps: int) -> int:
        """Updates up to the look, of all that a plan makes.

        >>> [Route(look=k).n_steps(7) for k in (1, 3, 5)]
        [1, 4, 7]
        """
        return max(self.look * n_steps // LOOKS, 1)


CANDIDATES: tuple[Route, ...] = (
    *(Route(look=look) for look in range(1, LOOKS + 1)),
    *(Route(share=share) for share in SHARES),
)
END = LOOKS - 1  # the candidate that is all of the way
REFIT = len(CANDIDATES)  # from here on: some of these ends, then an output in closed form
REFITTED = (END, *(LOOKS + SHARES.index(share) for share in (0.5, 0.25)))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The end that is taken, and what held-out rows then say.

    Shapes: scores (n, K), each part's from the end chosen on the others; losses (C, n),
    calibrated log-loss of each candidate. Both NaN for rows that were never held out.
    """

    candidate: int
    scores: Array
    losses: Array

    @property
    def route(self) -> Route:
        """The candidate as a route."""
        number = REFITTED[self.candidate - REFIT] if self.is_refitted else self.candidate
        return CANDIDATES[number]

    @property
    def is_refitted(self) -> bool:
        """Whether the output is fitted anew in closed form at the end."""
        return self.candidate >= REFIT


def choose(
    scores: Array,
    labels: Truth,
    fold: Labels,
    blocks: Labels,
    plain: Calibration,
    target: Target = CLASSES,
    usual: int = END,
) -> Chosen:
    """Choose among candidates by calibrated log-loss on held-out rows; few rows choose nothing.

    Then it is the `usual` one, as where no other is better. Five parts of them, blocks whole,
    choose for each other. A candidate with scores that are no numbers is never chosen.
    Shapes: scores (C, n, K) in the order of `CANDIDATES`, then those of `REFITTED`, where
    there are such; labels and blocks (n,), fold (n,) with -1 for rows that no fold holds out.
    `plain` calibrates where too few rows are there.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> good, bad = 4 * np.eye(2)[labels], rng.normal(size=(40, 2))
    >>> scores = np.stack([bad, bad, good + 0.1 * bad, bad, bad, bad, bad, bad])
    >>> fold, plain = np.arange(40) % 4, Calibration(1.0, np.zeros(2))
    >>> choose(scores, labels, fold, np.arange(40), plain).candidate
    2
    """
    held = np.flatnonzero(fold >= 0)
    part = cross_parts(blocks[held])
    said, truth = scores[:, held], labels[held]
    said = np.where(
        np.isfinite(said).all(axis=(1, 2), keepdims=True), said, np.nan
    )  # or not at all
    losses = np.full(scores.shape[:2], np.nan)
    losses[:, held] = [_apart(one, truth, part, plain, target) for one in said]
    if len(held) < LEAST:
        return Chosen(usual, scores[usual], losses)
    found = np.full(scores.shape[1:], np.nan)
    for number in np.unique(part):
        inside, others = part == number, part != number
        best = usual
        if others.sum() >= LEAST:
            # Calibrated anew, without this part: what calibrates has a say in the choice.
            tried = [_calibrated(one[others], truth[others], target) for one in said]
            best = _best(np.stack(tried), usual)
        found[held[inside]] = said[best, inside]
    return Chosen(_best(losses[:, held], usual), found, losses)


def _apart(scores: Array, labels: Truth, part: Labels, plain: Calibration, target: Target) -> Array:
    """Log-loss of each row, calibrated on the rows of other parts. Shapes: (m, K) to (m,)."""
    found = np.full(len(labels), WORST)
    for number in np.unique(part) if np.isfinite(scores).all() else ():
        inside, others = part == number, part != number
        calibration = plain
        if others.sum() >= LEAST:
            calibration = target.recalibrate(scores[others], labels[others])
        found[inside] = target.losses(scores[inside], labels[inside], calibration)
    clipped: Array = np.minimum(found, WORST)
    return clipped


def _calibrated(scores: Array, labels: Truth, target: Target) -> Array:
    """Log-loss of each row, calibrated on these rows: one number fits no noise that matters."""
    if not np.isfinite(scores).all():
        return np.full(len(labels), WORST)
    losses = target.losses(scores, labels, target.recalibrate(scores, labels))
    return np.minimum(losses, WORST)


def _best(losses: Array, usual: int) -> int:
    """The candidate with the lowest mean loss; the usual one, where it is as good."""
    means = losses.mean(axis=1)
    return usual if means[usual] <= means.min() else int(means.argmin())
