"""Kernel ridge around prior scores, with exact leave-group-out and nested folds.

Prior scores S (an older head's, on these rows) stand for its weights W0. Minimised is

    ||Y - a S - Phi D - 1 b'||^2 + penalty ||D||^2        over D, b and one factor a >= 0:

a ridge whose weights shrink towards a W0 instead of zero (W = a W0 + D). For a fixed `a` it is
the ridge of `solve.ridge` on the residual targets Y - a S. With its matrix G the best factor is

    a = <S, G Y> / <S, G S>        (Frobenius products)

and for every set of rows B, with the residuals E_Y and E_S of ridges on Y and S without B,

    <S, G Y> without B      =  <S, G Y> - <(G S)_B, E_Y>         (the same with S for Y)
    prediction without B    =  Y_B - E_Y + a E_S                 with the `a` of the other rows.

The factor makes scores of any scale usable (logits, one-hot, distances), and vanishes where a head
is uninformative. It is the mean of Zellner's g-prior with an unknown scale; the rest is block
inversion. Shapes: n rows, K classes; all arrays float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Dual, Rows

_ROUNDING = 1e-9  # share of <S, G S> below which the rest of it is rounding


@dataclass(frozen=True, slots=True)
class RidgeWithPrior:
    """Ridges on targets and prior scores side by side, and the products behind the factor.

    Shapes: the dual's targets and coefficients (n, 2 K), targets first; mean (K,) of the prior
    scores, which the dual holds centred.
    """

    dual: Dual
    mean: Array
    with_targets: float  # <S, G Y>
    with_itself: float  # <S, G S>


def fit(kernel: Array, targets: Array, prior: Array, penalty: float) -> RidgeWithPrior:
    """Solve for all rows. Shapes: kernel (n, n), targets (n, K), prior scores (n, K).

    >>> y = np.array([[1.0], [1.0], [0.0], [0.0]])
    >>> round(solve(fit(np.eye(4), y, prior=5 * y, penalty=1.0))[0], 6)
    0.2
    """
    mean = prior.mean(axis=0)
    centred = prior - mean  # an intercept is free
    dual = ridge.fit(kernel, np.concatenate([targets, centred], axis=1), penalty)
    of_targets, of_prior = np.split(dual.coefficients, 2, axis=1)
    return RidgeWithPrior(dual, mean, _product(centred, of_targets), _product(centred, of_prior))


def solve(fitted: RidgeWithPrior) -> tuple[float, Array]:
    """The factor a, and dual coefficients (n, K) of the rest."""
    of_targets, of_prior = np.split(fitted.dual.coefficients, 2, axis=1)
    factor = float(_factors(fitted.with_targets, fitted.with_itself, fitted))
    return factor, of_targets - factor * of_prior


def intercept(kernel: Array, fitted: RidgeWithPrior, penalty: float) -> Array:
    """The intercept (K,), for predictions a S + k(x, rows) A + b."""
    factor, coefficients = solve(fitted)
    targets, prior = np.split(fitted.dual.targets, 2, axis=1)
    dual = Dual(fitted.dual.inverse, coefficients, targets - factor * prior)
    result: Array = ridge.intercept(kernel, dual, penalty) - factor * fitted.mean
    return result


def left_out(fitted: RidgeWithPrior, group_rows: Sequence[Rows]) -> Array:
    """Prediction of every row from all rows outside its group, the factor's too.

    Shapes: groups partition the n rows; returns (n, K).
    """
    dual = fitted.dual
    residuals = dual.targets - ridge.left_out(dual, group_rows)
    return _predict(fitted, dual.targets, residuals, dual.coefficients, group_rows)


def nested(
    fitted: RidgeWithPrior, held_out: Rows, group_rows: Sequence[Rows]
) -> tuple[Rows, Array, Array]:
    """`ridge.nested` with prior scores: predictions inside and outside of all rows but `held_out`.

    Returns: the rows inside (m,), their leave-group-out predictions (m, K), and the predictions
    (n - m, K) for the held-out rows.
    """
    dual = fitted.dual
    keep, inside, outside = ridge.nested(dual, held_out, group_rows)
    residuals = dual.targets[held_out] - outside
    of_prior = np.split(dual.coefficients[held_out], 2, axis=1)[1]
    y, s = np.split(residuals, 2, axis=1)
    inner = replace(
        fitted,
        with_targets=fitted.with_targets - _product(of_prior, y),
        with_itself=fitted.with_itself - _product(of_prior, s),
    )
    factor = float(_factors(inner.with_targets, inner.with_itself, fitted))
    predictions = np.split(dual.targets[held_out], 2, axis=1)[0] - y + factor * s
    cross = dual.inverse[np.ix_(keep, held_out)]
    coefficients = dual.coefficients[keep] - cross @ residuals
    place = np.full(len(dual.targets), -1)
    place[keep] = np.arange(len(keep))
    groups = [place[rows] for rows in group_rows if place[rows[0]] >= 0]
    targets = dual.targets[keep]
    return keep, _predict(inner, targets, targets - inside, coefficients, groups), predictions


def _predict(
    fitted: RidgeWithPrior,
    targets: Array,
    residuals: Array,
    coefficients: Array,
    group_rows: Sequence[Rows],
) -> Array:
    """Leave-group-out predictions from the residuals of both sides. Shapes: (m, 2 K) to (m, K)."""
    y, s = np.split(residuals, 2, axis=1)
    of_prior = np.split(coefficients, 2, axis=1)[1]
    number = np.empty(len(targets), dtype=np.intp)
    for index, rows in enumerate(group_rows):
        number[rows] = index
    with_targets, with_itself = np.zeros((2, len(group_rows)))
    np.add.at(with_targets, number, (of_prior * y).sum(axis=1))
    np.add.at(with_itself, number, (of_prior * s).sum(axis=1))
    factors = _factors(fitted.with_targets - with_targets, fitted.with_itself - with_itself, fitted)
    result: Array = np.split(targets, 2, axis=1)[0] - y + factors[number, None] * s
    return result


def _factors(
    with_targets: float | Array, with_itself: float | Array, whole: RidgeWithPrior
) -> Array:
    """Never negative: a head whose answers are the wrong way round is no prior."""
    is_informative = with_itself > max(_ROUNDING * whole.with_itself, np.finfo(float).tiny)
    ratio = with_targets / np.where(is_informative, with_itself, 1.0)
    result: Array = np.where(is_informative, np.maximum(ratio, 0.0), 0.0)
    return result


def _product(a: Array, b: Array) -> float:
    return float((a * b).sum())
