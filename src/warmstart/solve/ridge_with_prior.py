"""Kernel ridge around scores that are known beforehand, with exact leave-out and nested folds.

Known scores S (an older head's, on these rows) stand for its weights W0. Minimised is

    ||Y - a S - Phi D - 1 b'||^2 + penalty ||D||^2        over D, b and one factor a >= 0:

a ridge whose weights are drawn towards a W0 instead of towards zero (W = a W0 + D). For a
given `a` it is the ridge of `solve.ridge` on the residual targets Y - a S. With its matrix
G the best factor is

    a = <S, G Y> / <S, G S>        (Frobenius products)

and for every set of rows B, from the residuals E_Y and E_S of leaving B out of ridges on Y
and on S,

    <S, G Y> without B      =  <S, G Y> - <(G S)_B, E_Y>         (the same with S for Y)
    prediction without B    =  Y_B - E_Y + a E_S                 with the `a` of the other rows:

no row has a say in the factor that it is judged with. The factor makes scores of any scale
usable (logits, one-hot, distances), and fades a head that says nothing of these rows.
Zellner's g-prior mean with an unknown scale; the rest is block inversion.

Shapes: n rows, K classes; all arrays float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Dual, Rows

_NOTHING = 1e-9  # share of <S, G S> below which what is left of it is rounding


@dataclass(frozen=True, slots=True)
class Anchored:
    """Ridges on targets and known scores side by side, and the products behind the factor.

    Shapes: the dual's targets and coefficients (n, 2 K), targets first; mean (K,) of the
    known scores, which are centred inside.
    """

    dual: Dual
    mean: Array
    with_targets: float  # <S, G Y>
    with_itself: float  # <S, G S>


def fit(kernel: Array, targets: Array, known: Array, penalty: float) -> Anchored:
    """Solve for all rows. Shapes: kernel (n, n), targets (n, K), known (n, K).

    >>> y = np.array([[1.0], [1.0], [0.0], [0.0]])
    >>> round(solve(fit(np.eye(4), y, known=5 * y, penalty=1.0))[0], 6)
    0.2
    """
    mean = known.mean(axis=0)
    centred = known - mean  # an intercept is free: constants are nothing to begin from
    dual = ridge.fit(kernel, np.concatenate([targets, centred], axis=1), penalty)
    of_targets, of_known = np.split(dual.coefficients, 2, axis=1)
    return Anchored(dual, mean, _product(centred, of_targets), _product(centred, of_known))


def solve(anchored: Anchored) -> tuple[float, Array]:
    """The factor, and dual coefficients (n, K) of what is learnt beside a S."""
    of_targets, of_known = np.split(anchored.dual.coefficients, 2, axis=1)
    factor = _factor(anchored.with_targets, anchored.with_itself, anchored)
    return factor, of_targets - factor * of_known


def intercept(kernel: Array, anchored: Anchored, penalty: float) -> Array:
    """What is added to a S + k(x, rows) A. Shapes: returns (K,)."""
    factor, coefficients = solve(anchored)
    targets, known = np.split(anchored.dual.targets, 2, axis=1)
    dual = Dual(anchored.dual.inverse, coefficients, targets - factor * known)
    result: Array = ridge.intercept(kernel, dual, penalty) - factor * anchored.mean
    return result


def left_out(anchored: Anchored, group_rows: Sequence[Rows]) -> Array:
    """Prediction of every row from all rows outside its group, the factor among them.

    Shapes: groups partition the n rows; returns (n, K).
    """
    dual = anchored.dual
    missed = dual.targets - ridge.left_out(dual, group_rows)
    return _predict(anchored, dual.targets, missed, dual.coefficients, group_rows)


def nested(
    anchored: Anchored, held_out: Rows, group_rows: Sequence[Rows]
) -> tuple[Rows, Array, Array]:
    """The same on all rows but `held_out`: what it says inside and outside, as `ridge.nested`.

    Returns the kept rows (m,), their leave-group-out predictions (m, K), and the
    predictions (n - m, K) for the held-out rows.
    """
    dual = anchored.dual
    keep, inside, outside = ridge.nested(dual, held_out, group_rows)
    missed = dual.targets[held_out] - outside
    inner = _without(anchored, dual.coefficients[held_out], missed)
    factor = _factor(inner.with_targets, inner.with_itself, anchored)
    y, s = np.split(missed, 2, axis=1)
    found = np.split(dual.targets[held_out], 2, axis=1)[0] - y + factor * s
    cross = dual.inverse[np.ix_(keep, held_out)]
    coefficients = dual.coefficients[keep] - cross @ missed
    place = np.full(len(dual.targets), -1)
    place[keep] = np.arange(len(keep))
    within = [place[rows] for rows in group_rows if place[rows[0]] >= 0]
    targets = dual.targets[keep]
    return keep, _predict(inner, targets, targets - inside, coefficients, within), found


def _predict(
    anchored: Anchored,
    targets: Array,
    missed: Array,
    coefficients: Array,
    group_rows: Sequence[Rows],
) -> Array:
    """Leave-group-out predictions from the residuals of both sides. Shapes: (m, 2 K) to (m, K)."""
    y, s = np.split(missed, 2, axis=1)
    of_known = np.split(coefficients, 2, axis=1)[1]
    number = np.empty(len(targets), dtype=np.intp)
    for index, rows in enumerate(group_rows):
        number[rows] = index
    gone = np.zeros((2, len(group_rows)))
    np.add.at(gone[0], number, (of_known * y).sum(axis=1))
    np.add.at(gone[1], number, (of_known * s).sum(axis=1))
    factors = _factors(anchored.with_targets - gone[0], anchored.with_itself - gone[1], anchored)
    result: Array = np.split(targets, 2, axis=1)[0] - y + factors[number, None] * s
    return result


def _without(anchored: Anchored, coefficients: Array, missed: Array) -> Anchored:
    """The products without some rows. Shapes: coefficients, missed (b, 2 K) of those rows."""
    of_known = np.split(coefficients, 2, axis=1)[1]
    y, s = np.split(missed, 2, axis=1)
    return Anchored(
        anchored.dual,
        anchored.mean,
        anchored.with_targets - _product(of_known, y),
        anchored.with_itself - _product(of_known, s),
    )


def _factor(with_targets: float, with_itself: float, whole: Anchored) -> float:
    return float(_factors(np.array([with_targets]), np.array([with_itself]), whole)[0])


def _factors(with_targets: Array, with_itself: Array, whole: Anchored) -> Array:
    """Never negative: a head whose answers are the wrong way round is no prior."""
    is_alive = with_itself > max(_NOTHING * whole.with_itself, np.finfo(float).tiny)
    ratio = with_targets / np.where(is_alive, with_itself, 1.0)
    result: Array = np.where(is_alive, np.maximum(ratio, 0.0), 0.0)
    return result


def _product(a: Array, b: Array) -> float:
    return float((a * b).sum())
