"""Labels that look wrong: ranked, and how many of them to believe.

Every model errs, and its honest errors grow rarer the surer it is. Wrong labels do not:
they contradict sure predictions as often as unsure ones. So the share of predictions that
a label contradicts is fitted as

    P(label agrees) = (1 - e) s + e (1 - s) / (K - 1),   s = logistic(a x + b),

with x the log-odds of the predicted class, out of fold, and e the share of labels drawn
wrong. Where no such floor shows, e is 0 and nothing is reported, however hard the classes.
Source: Copas 1988, "Binary Regression Models for Contaminated Data", for two classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from warmstart.records import Finding
from warmstart.solve.ridge import Array
from warmstart.solve.temperature import Labels
from warmstart.words import IMAGES, Nouns

RATES = np.concatenate([[0.0], np.geomspace(0.002, 0.3, 20)])
# Twice the gain in log-likelihood of any rate over none from which labels are believed wrong.
# On clean sets of 176 to 1,000 rows at most .3; with 5 % of the labels flipped (4 sets, 5
# draws) more in 16 of 20. On 58 rows it reached 4.5 where hardly a label is wrong: hence LEAST.
EVIDENCE = 0.5
LEAST = 100  # rows below which a share of wrong labels cannot be told
STARTS = np.log([[1.0, 1.0], [4.0, 1.0]])  # (log a, b) from which curves are fitted
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_SURE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLabels:
    """The share of labels drawn wrong, with its 95 % interval.

    `evidence` is twice the gain in log-likelihood over no wrong label; `slope` and `offset`
    turn log-odds into the honest part of the model.
    """

    rate: float
    low: float
    high: float
    evidence: float
    slope: float
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One row, its label, what the model says instead (the label itself where they agree).

    `probability` is the model's for `suggested`, `own` that for `given`; `wrong` is how
    likely the label is to be wrong.
    """

    row: int
    given: int
    suggested: int
    probability: float
    own: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """All judged rows, the most suspicious first; the first `reported` are believed wrong."""

    suspects: tuple[Suspect, ...]
    reported: int
    share: WrongLabels


def rank_suspects(probabilities: Array, labels: Labels, likely: float = 0.5) -> Ranking:
    """Rank rows by how much the out-of-fold probabilities contradict their labels.

    Shapes: probabilities (n, K), NaN in rows that no fold held out (they are left out);
    labels (n,) in 0..K-1. A label is believed wrong from more than `likely` on.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> ranking = rank_suspects(p, np.array([0, 0, 1]))
    >>> [suspect.row for suspect in ranking.suspects], ranking.reported
    ([1, 0, 2], 0)
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    p, given = probabilities[rows], labels[rows]
    top = p.argmax(axis=1)
    share = wrong_labels(p, given)
    wrong = _posterior(p, given, share)
    believed = (wrong > likely) & (share.evidence >= EVIDENCE)
    own = p[np.arange(len(rows)), given]
    order = np.lexsort((own, ~believed))
    suspects = tuple(
        Suspect(
            row=int(rows[i]),
            given=int(given[i]),
            suggested=int(top[i]),
            probability=float(p[i, top[i]]),
            own=float(own[i]),
            wrong=float(wrong[i]),
        )
        for i in order
    )
    return Ranking(suspects, int(believed.sum()), share)


def wrong_labels(probabilities: Array, labels: Labels) -> WrongLabels:
    """Fit the share of wrong labels over a grid of rates. Shapes: (n, K), (n,), no NaN."""
    sure, agrees = _log_odds(probabilities), probabilities.argmax(axis=1) == labels
    if len(labels) < LEAST or agrees.all() or not agrees.any():
        return WrongLabels(rate=0.0, low=0.0, high=1.0, evidence=0.0, slope=1.0, offset=0.0)
    others = max(probabilities.shape[1] - 1, 1)
    likelihoods, curves = [], []
    for rate in RATES:
        tries = [_fit(sure, agrees, float(rate), others, start) for start in STARTS]
        likelihood, curve = max(tries, key=lambda tried: tried[0])
        likelihoods.append(likelihood)
        curves.append(curve)
    values = np.array(likelihoods)
    best = int(values.argmax())
    inside = RATES[values >= values[best] - _DROP]
    return WrongLabels(
        rate=float(RATES[best]),
        low=float(inside.min()),
        high=float(inside.max()),
        evidence=float(2 * (values[best] - values[0])),
        slope=float(np.exp(curves[best][0])),
        offset=float(curves[best][1]),
    )


def _log_odds(probabilities: Array) -> Array:
    top = np.clip(probabilities.max(axis=1), _SURE, 1 - _SURE)
    odds: Array = np.log(top) - np.log1p(-top)
    return odds


def _fit(
    sure: Array, agrees: NDArray[np.bool_], rate: float, others: int, start: Array
) -> tuple[float, Array]:
    """The honest curve that explains most, given the rate: log-likelihood, (log a, b)."""

    def loss(curve: Array) -> float:
        honest = expit(np.exp(np.clip(curve[0], -3, 3)) * sure + curve[1])
        agree = np.clip((1 - rate) * honest + rate * (1 - honest) / others, 1e-9, 1 - 1e-9)
        return -float(np.log(np.where(agrees, agree, 1 - agree)).sum())

    # Large first steps: near-separable data have a flat start far from the best curve.
    simplex = start + np.array([[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]])
    options = {"maxiter": 300, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    found = minimize(loss, start, method="Nelder-Mead", options=options)
    return -float(found.fun), np.asarray(found.x)


def _posterior(probabilities: Array, labels: Labels, share: WrongLabels) -> Array:
    """How likely each label is to be wrong: by Bayes where it contradicts, else 0."""
    honest = expit(share.slope * _log_odds(probabilities) + share.offset)
    wrong, right = share.rate * honest, (1 - share.rate) * (1 - honest)
    posterior = wrong / np.maximum(wrong + right, 1e-12)
    result: Array = np.where(probabilities.argmax(axis=1) == labels, 0.0, posterior)
    return result


def suspect_finding(
    ranking: Ranking, ids: Sequence[str], classes: Sequence[str], nouns: Nouns = IMAGES
) -> Finding | None:
    """The labels that are believed wrong, in words; None if there are none.

    `ids` name the rows that the ranking was made of.
    """
    believed = ranking.suspects[: ranking.reported]
    if not believed:
        return None
    share, n = ranking.share, len(ranking.suspects)
    noun, verb = ("label", "looks") if len(believed) == 1 else ("labels", "look")
    return Finding(
        kind="suspect-label",
        sentence=(
            f"{len(believed):,} {noun} of {n:,} {verb} wrong: the model, sure of itself and "
            f"without having learnt from these {nouns.many}, says another class. In all about "
            f"{100 * share.rate:.0f} % of the labels are wrong ({100 * share.low:.0f} to "
            f"{100 * share.high:.0f} %). Look at these {nouns.many} first and correct their labels."
        ),
        items=tuple(
            f"{ids[s.row]}: {classes[s.given]}, looks like {classes[s.suggested]} "
            f"({100 * s.probability:.0f} %)"
            for s in believed
        ),
    )
