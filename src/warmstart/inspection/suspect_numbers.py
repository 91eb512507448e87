"""Numbers that look wrong: further from what a model says than its own errors explain.

Honest errors of a model are taken for a power law within the exponent, of whatever shape they
show: flat with b large, normal with b = 2, heavy in the tails below that. A wrong number lies
anywhere within the range of the numbers. So errors are fitted as

    p(error) = (1 - e) b / (2 s Gamma(1/b)) exp(-|error / s|^b) + e / range,

with e the share of wrong numbers. Where heavy tails explain all errors, e is 0 and nothing is
reported. Source: Box & Tiao 1973, "Bayesian Inference in Statistical Analysis", §3.2, for the
errors; the share of wrong ones as in `suspects.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln

from warmstart.inspection.suspects import LEAST, RATES
from warmstart.records import Finding, SuspectLabel
from warmstart.solve.ridge import Array, Rows
from warmstart.words import IMAGES, Nouns

TRIED = RATES[RATES <= 0.12]  # of wrong numbers; with more than these nothing can be told
# Twice the gain in log-likelihood of any rate over none, how likely a number must be wrong, and the
# usual error over that of the median, below which numbers are believed wrong: with 5 % of them
# swapped, 89 % of those named were (bench/results/task_doubts.json). A model that
# knows little says nothing: its errors are those of the numbers themselves (turned photographs,
# R² .3: 15 of 300 would have been named).
EVIDENCE, LIKELY, SKILL = 6.0, 0.9, 0.5
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_SHAPES = (0.4, 12.0)  # from very heavy tails to hardly any
_SLIGHT, _NONE = 1e-6, 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongNumbers:
    """Rows from the most suspicious on, and the share of numbers that are wrong.

    Shapes: `rows`, `wrong` (how likely each number is to be wrong) (m,), of judged rows alone;
    the first `reported` are believed wrong. `low` and `high` are the ends of the 95 % interval
    of `rate`.
    """

    rows: Rows
    wrong: Array
    reported: int
    rate: float
    low: float
    high: float
    evidence: float


def rank_numbers(said: Array, truth: Array) -> WrongNumbers:
    """Rank rows by how much left-out answers contradict their numbers.

    Shapes: said (n,) out of fold, NaN in rows that no fold held out; truth (n,).

    >>> rng = np.random.default_rng(0)
    >>> said = rng.normal(size=200)
    >>> truth = said + 0.1 * rng.normal(size=200)
    >>> truth[[7, 9]] = 3.0, -3.0
    >>> found = rank_numbers(said, truth)
    >>> sorted(found.rows[: found.reported].tolist())
    [7, 9]
    """
    rows = np.flatnonzero(np.isfinite(said))
    error = said[rows] - truth[rows]
    if len(rows) < LEAST or np.abs(error).max() <= _SLIGHT:
        order = np.argsort(-np.abs(error), kind="stable")
        none = np.zeros(len(rows))
        return WrongNumbers(
            rows=rows[order], wrong=none, reported=0, rate=0.0, low=0.0, high=1.0, evidence=0.0
        )
    span, middle = float(np.ptp(truth[rows])), truth[rows] - np.median(truth[rows])
    fits = [_fit(error, span, float(rate)) for rate in TRIED]
    values = np.array([likelihood for likelihood, _ in fits])
    best = int(values.argmax())
    rate, inside = float(TRIED[best]), TRIED[values >= values[best] - _DROP]
    evidence = float(2 * (values[best] - values[0]))
    honest = (1 - rate) * np.exp(_log_density(error, *fits[best][1]))
    wrong = (rate / span) / (honest + rate / span + _NONE)
    is_weak = best == len(TRIED) - 1 or _usual(error) >= SKILL * _usual(middle)
    is_told = evidence >= EVIDENCE and not is_weak
    believed = (wrong > LIKELY) & is_told
    order = np.lexsort((-np.abs(error), ~believed))
    return WrongNumbers(
        rows=rows[order], wrong=wrong[order], reported=int(believed.sum()), rate=rate,
        low=float(inside.min()), high=float(inside.max()), evidence=evidence,
    )  # fmt: skip


def _usual(distance: Array) -> float:
    """The distance that half of them are within."""
    return float(np.median(np.abs(distance)))


def _log_density(error: Array, log_scale: float, log_shape: float) -> Array:
    """Of honest errors. Shapes: (n,)."""
    shape = float(np.clip(np.exp(log_shape), *_SHAPES))
    power = (np.abs(error) * np.exp(-log_scale)) ** shape
    found: Array = np.log(shape / 2) - log_scale - gammaln(1 / shape) - power
    return found


def _fit(error: Array, span: float, rate: float) -> tuple[float, tuple[float, float]]:
    """The honest errors that explain most, given the rate: log-likelihood, (log s, log b)."""

    def loss(curve: Array) -> float:
        honest = (1 - rate) * np.exp(_log_density(error, float(curve[0]), float(curve[1])))
        return -float(np.log(np.maximum(honest + rate / span, _NONE)).sum())

    middle = float(np.log(max(np.median(np.abs(error)), _SLIGHT)))
    simplex = np.array([[middle + 0.5, 0.5], [middle + 1.2, 0.5], [middle + 0.5, 1.3]])
    options = {"maxiter": 200, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    found = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return -float(found.fun), (float(found.x[0]), float(found.x[1]))


def suspect_numbers(
    ranking: WrongNumbers, ids: Sequence[str], labels: Sequence[str], said: Array, most: int
) -> tuple[SuspectLabel, ...]:
    """A line for each of the `most` suspicious rows, and every believed one.

    Shapes: said (n,), in the user's unit; `labels` are the numbers as the data write them.
    """
    n = max(ranking.reported, most)
    pairs = zip(ranking.rows[:n].tolist(), ranking.wrong[:n].tolist(), strict=True)
    return tuple(
        SuspectLabel(
            id=ids[row], label=labels[row], suggested=f"{said[row]:.4g}", probability=None,
            wrong=round(wrong, 4), believed=place < ranking.reported,
        )
        for place, (row, wrong) in enumerate(pairs)
    )  # fmt: skip


def numbers_finding(
    ranking: WrongNumbers, suspects: Sequence[SuspectLabel], nouns: Nouns = IMAGES
) -> Finding | None:
    """The numbers that are believed wrong, in words; None if there are none."""
    believed = [one for one in suspects if one.believed]
    if not believed:
        return None
    noun, verb = ("number", "looks") if len(believed) == 1 else ("numbers", "look")
    return Finding(
        kind="suspect-label",
        sentence=(
            f"{len(believed):,} {noun} of {len(ranking.rows):,} {verb} wrong: further from what "
            f"the model, without having learnt from these {nouns.many}, says than its usual errors "
            f"explain. In all about {100 * ranking.rate:.1f} % of the numbers are wrong "
            f"({100 * ranking.low:.1f} to {100 * ranking.high:.1f} %). Look at these "
            f"{nouns.many} first and correct their numbers."
        ),
        items=tuple(f"{one.id}: {one.label}, looks like {one.suggested}" for one in believed),
    )
