"""Label issues of numbers: further from what a model says than its own errors explain.

Honest errors of a model are taken for a power law within the exponent, of whatever shape they
show: flat with b large, normal with b = 2, heavy in the tails below that. A wrong number lies
anywhere within the range of the numbers. So errors are fitted as

    p(error) = (1 - e) b / (2 s Gamma(1/b)) exp(-|error / s|^b) + e / range,

with e the share of wrong numbers; rows of one block share the weight of one. Where heavy tails
explain all errors, e is 0 and nothing is counted. Source: Box & Tiao 1973, "Bayesian Inference in
Statistical Analysis", §3.2, for the errors; when a number is stated as in `label_issues.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from warmstart.evidence.label_issue_words import said
from warmstart.evidence.label_issues import LEAST, RATES, block_weights
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import LabelIssue, LabelIssues, Share, Why
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

TRIED = RATES[RATES <= 0.12]  # of wrong numbers; with more than these nothing can be told
# Twice the gain in log-likelihood of any rate over none, how likely a number must be wrong, and the
# usual error over that of the median, below which numbers are called wrong: with 5 % of them
# swapped, 89 % of those named were (bench/results/task_doubts.json). A model that
# knows little says nothing: its errors are those of the numbers themselves (turned photographs,
# R² .3: 15 of 300 would have been named).
EVIDENCE, LIKELY, SKILL = 6.0, 0.9, 0.5
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_SHAPES = (0.4, 12.0)  # from very heavy tails to hardly any
_SLIGHT, _NONE = 1e-6, 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedNumbers:
    """Rows from the farthest off on, issues first. Shapes: (m,) each but the sizes.

    `score` is exp(-|error| / the usual error), 0 to 1; the rest is as in `JudgedLabels`.
    """

    rows: Rows
    score: Array
    is_issue: NDArray[np.bool_]
    count: int | None
    rate: Share | None
    why: Why | None


def judge_numbers(
    answers: Array, truth: Array, blocks: Labels, excuse: Why | None = None
) -> JudgedNumbers:
    """Rank rows by how much left-out answers contradict their numbers.

    Shapes: answers (n,) out of fold, NaN in rows that no fold held out; truth, blocks (n,).

    >>> rng = np.random.default_rng(0)
    >>> answers = rng.normal(size=200)
    >>> truth = answers + 0.1 * rng.normal(size=200)
    >>> truth[[7, 9]] = 3.0, -3.0
    >>> found = judge_numbers(answers, truth, np.arange(200))
    >>> sorted(found.rows[found.is_issue].tolist()), found.count
    ([7, 9], 2)
    """
    rows = np.flatnonzero(np.isfinite(answers))
    error = answers[rows] - truth[rows]
    weights, n_blocks = block_weights(blocks[rows])
    score = np.exp(-np.abs(error) / max(_usual(error), _SLIGHT))
    rate, wrong = None, np.zeros(len(rows))
    is_small = n_blocks < LEAST or np.abs(error).max(initial=0.0) <= _SLIGHT
    why: Why | None = excuse or ("too-few" if is_small else None)
    if why is None:
        middle = truth[rows] - np.median(truth[rows])
        rate, why, wrong = _fitted(error, middle, float(np.ptp(truth[rows])), weights)
    is_issue = wrong > LIKELY
    if why is None and not is_issue.any():
        why, rate = "rate-unclear", None
    order = np.lexsort((-np.abs(error), ~is_issue))
    count = len(np.unique(blocks[rows][is_issue])) if why is None else None
    return JudgedNumbers(
        rows=rows[order],
        score=score[order],
        is_issue=is_issue[order],
        count=0 if why == "not-significant" else count,
        rate=rate,
        why=why,
    )


def _fitted(
    error: Array, middle: Array, span: float, weights: Array
) -> tuple[Share | None, Why | None, Array]:
    """The rate or why there is none, and how likely each number is to be wrong where there is."""
    none = np.zeros(len(error))
    if _usual(error) >= SKILL * _usual(middle):
        return None, "weak-model", none
    fits = [_fit(error, span, float(rate), weights) for rate in TRIED]
    values = np.array([likelihood for likelihood, _ in fits])
    best = int(values.argmax())
    rate, inside = float(TRIED[best]), TRIED[values >= values[best] - _DROP]
    if 2 * (values[best] - values[0]) < EVIDENCE or inside.min() == 0:
        return None, "not-significant", none
    if inside.max() >= TRIED[-1]:
        return None, "rate-unclear", none
    honest = (1 - rate) * np.exp(_log_density(error, *fits[best][1]))
    wrong: Array = (rate / span) / (honest + rate / span + _NONE)
    return Share(value=rate, low=float(inside.min()), high=float(inside.max())), None, wrong


def _usual(distance: Array) -> float:
    """The distance that half of them are within."""
    return float(np.median(np.abs(distance))) if len(distance) else 0.0


def _log_density(error: Array, log_scale: float, log_shape: float) -> Array:
    """Of honest errors. Shapes: (n,)."""
    shape = float(np.clip(np.exp(log_shape), *_SHAPES))
    power = (np.abs(error) * np.exp(-log_scale)) ** shape
    found: Array = np.log(shape / 2) - log_scale - gammaln(1 / shape) - power
    return found


def _fit(
    error: Array, span: float, rate: float, weights: Array
) -> tuple[float, tuple[float, float]]:
    """The honest errors that explain most, given the rate: log-likelihood, (log s, log b)."""

    def loss(curve: Array) -> float:
        honest = (1 - rate) * np.exp(_log_density(error, float(curve[0]), float(curve[1])))
        return -float(np.log(np.maximum(honest + rate / span, _NONE)) @ weights)

    middle = float(np.log(max(np.median(np.abs(error)), _SLIGHT)))
    simplex = np.array([[middle + 0.5, 0.5], [middle + 1.2, 0.5], [middle + 0.5, 1.3]])
    options = {"maxiter": 200, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    found = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return -float(found.fun), (float(found.x[0]), float(found.x[1]))


def of_numbers(
    found: JudgedNumbers,
    ids: Sequence[str],
    labels: Sequence[str],
    answers: Array,
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The record: every issue, and the `most` numbers farthest from the model's.

    Shapes: answers (n,), in the user's unit; `labels` are the numbers as the data write them.
    `disagreements` counts the numbers that are off by more than twice the usual error.
    """
    n_issues = int(found.is_issue.sum())
    shown = range(min(max(n_issues, most), len(found.rows)))
    ranked = tuple(
        LabelIssue(
            id=ids[row],
            label=labels[row],
            suggested=f"{answers[row]:.4g}",
            probability=None,
            score=round(float(found.score[at]), 4),
            is_issue=bool(found.is_issue[at]),
        )
        for at, row in ((at, int(found.rows[at])) for at in shown)
    )
    far = int((found.score < np.exp(-2.0)).sum())
    told = said(
        judged=len(found.rows),
        disagreements=far,
        count=found.count,
        rate=found.rate,
        why=found.why,
        error=None,
        listed=n_issues,
        nouns=nouns,
        noun="number",
    )
    return LabelIssues(
        judged=len(found.rows),
        disagreements=far,
        count=found.count,
        rate=found.rate,
        why=found.why,
        sentence=told,
        ranked=ranked,
    )
