"""Where a training might have ended: looks on the way, and shares of the way from the start.

Which end is taken is chosen on rows held out. The estimate stays honest because the choice for
each fold is made on the other folds' rows alone, as for its calibration; the choice for the
final training is made on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.solve.ridge import Array
from warmstart.solve.temperature import Calibration, Labels
from warmstart.training.crossfit import LEAST, cross_calibrated

LOOKS = 5  # at equal distances; the last is the end
SHARES = (0.75, 0.5, 0.25)  # of the way from the start's weights to the end's


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


@dataclass(frozen=True, slots=True)
class Chosen:
    """The end that is taken, and what held-out rows then say.

    Shapes: scores (n, K), each fold's from the end chosen on the others; losses (C, n),
    calibrated log-loss of each candidate. Both NaN for rows that were never held out.
    """

    candidate: int
    scores: Array
    losses: Array

    @property
    def route(self) -> Route:
        """The candidate as a route."""
        return CANDIDATES[self.candidate]


def choose(
    scores: Array, labels: Labels, fold: Labels, blocks: Labels, plain: Calibration
) -> Chosen:
    """Choose among candidates by calibrated log-loss on held-out rows; few rows choose nothing.

    Shapes: scores (C, n, K) in the order of `CANDIDATES`, labels and blocks (n,), fold (n,)
    with -1 for rows that no fold holds out. `plain` calibrates where too few rows are there.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> good, bad = 4 * np.eye(2)[labels], rng.normal(size=(40, 2))
    >>> scores = np.stack([bad, bad, good + 0.1 * bad, bad, bad, bad, bad, bad])
    >>> fold, plain = np.arange(40) % 4, Calibration(1.0, np.zeros(2))
    >>> choose(scores, labels, fold, np.arange(40), plain).candidate
    2
    """
    held = np.flatnonzero(fold >= 0)
    losses = np.full(scores.shape[:2], np.nan)
    for number, one in enumerate(scores):
        probabilities, _ = cross_calibrated(one, labels, fold, blocks, plain)
        chance = probabilities[held, labels[held]]
        losses[number, held] = -np.log(np.clip(chance, 1e-12, None))
    if len(held) < LEAST:
        return Chosen(END, scores[END], losses)
    part = fold[held]
    if len(np.unique(part)) < 2:
        part = np.unique(blocks[held], return_inverse=True)[1] % 2
    found = np.full(scores.shape[1:], np.nan)
    for number in np.unique(part):
        inside, others = held[part == number], held[part != number]
        best = _best(losses[:, others]) if len(others) else END
        found[inside] = scores[best][inside]
    return Chosen(_best(losses[:, held]), found, losses)


def _best(losses: Array) -> int:
    """The candidate with the lowest mean loss; the end, where it is as good."""
    means = losses.mean(axis=1)
    return END if means[END] <= means.min() else int(means.argmin())
