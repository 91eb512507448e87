"""Scores to probabilities label by label: sigmoid(slope * score + shift).

Platt 1999, "Probabilistic outputs for support vector machines", §2.2: targets are smoothed by
the counts of either side, so that a label that is told apart without a mistake, or has two
examples, does not get certain answers. Newton steps with halving, for all labels at once.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from warmstart.solve.ridge import Array

_MOST = 1e3  # a slope, of scores that were brought to a spread of 1
_STEADY = 1e-3  # added to the curvature: of a score without any spread nothing can be learnt


def log_losses_of(logits: Array, truth: Array) -> Array:
    """Mean log-loss over the labels of each row, in nats. Shapes: (n, K) both; returns (n,).

    >>> log_losses_of(np.zeros((1, 2)), np.array([[1.0, 0.0]])).round(4).tolist()
    [0.6931]
    """
    found: Array = (np.logaddexp(0.0, logits) - truth * logits).mean(axis=1)
    return found


def fit_slopes(scores: Array, truth: Array) -> tuple[Array, Array]:
    """Slope (never below 0) and shift of each label. Shapes: (n, K) both; returns (K,) twice.

    `scores` are of rows that were left out, `truth` 0 and 1.

    >>> s = np.array([[0.9], [0.8], [0.1], [0.2]])
    >>> slope, shift = fit_slopes(s, (s > 0.5).astype(float))
    >>> bool(slope[0] > 1 and 0.5 < expit(slope * 0.9 + shift)[0] < 0.95)
    True
    """
    centre, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (scores - centre) / spread
    plus = truth.sum(axis=0)
    minus = len(truth) - plus
    smooth = np.where(truth > 0, (plus + 1) / (plus + 2), 1 / (minus + 2))
    slope, shift = np.ones_like(plus, dtype=float), np.log((plus + 1) / (minus + 1))
    loss = _loss(z, smooth, slope, shift)
    for _ in range(60):
        step = _step(z, smooth, slope, shift)
        size = np.ones_like(slope)
        for _ in range(30):
            new = np.clip(slope - size * step[0], 0.0, _MOST), shift - size * step[1]
            fresh = _loss(z, smooth, *new)
            worse = fresh > loss
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        better = fresh < loss
        slope, shift = np.where(better, new[0], slope), np.where(better, new[1], shift)
        gained, loss = float(np.max(loss - fresh, initial=0.0)), np.minimum(fresh, loss)
        if gained < 1e-10:
            break
    return slope / spread, shift - slope * centre / spread


def _loss(z: Array, smooth: Array, slope: Array, shift: Array) -> Array:
    logits = slope * z + shift
    found: Array = (np.logaddexp(0.0, logits) - smooth * logits).mean(axis=0)
    return found


def _step(z: Array, smooth: Array, slope: Array, shift: Array) -> tuple[Array, Array]:
    """Newton's step for each label. Shapes: (K,) twice."""
    p = expit(slope * z + shift)
    error, heavy = p - smooth, p * (1 - p)
    g = (error * z).mean(axis=0), error.mean(axis=0)
    aa, ab = (heavy * z * z).mean(axis=0) + _STEADY, (heavy * z).mean(axis=0)
    bb = heavy.mean(axis=0) + _STEADY
    det = aa * bb - ab * ab
    return (bb * g[0] - ab * g[1]) / det, (aa * g[1] - ab * g[0]) / det
