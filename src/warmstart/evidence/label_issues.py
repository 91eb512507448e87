"""Label issues: labels ranked by how little a model agrees, and when wrong ones may be counted.

Every label gets a *score*, its own out-of-fold probability ("self-confidence" of confident
learning: Northcutt et al. 2021). That is a ranking, no accusation: on hard data most of what
ranks first are mistakes of the model. Wrong labels are told from those by one thing: honest
mistakes grow rarer the surer a model is, wrong labels contradict its sure predictions as often as
its unsure ones. So the labels are fitted as

    P(label j) = (1 - e) q_j + e sum_i q_i S_ij,   q = softmax(a log p),

with p the out-of-fold probabilities, a > 0 undoing what noise did to them, e the share of labels
that are wrong, and S where these go: to every other class alike, or from each class wherever the
fit itself sends them. For two classes this is Copas 1988, "Binary Regression Models for
Contaminated Data". Rows of one block (near copies, groups) share the weight of one.

A number is stated only where all of this holds:

- labels are there to be corrected (no outcome of a table), training and test set are of one kind,
  and the permutation test found a signal; the caller says so by `excuse`;
- there are at least `LEAST` blocks;
- the model is wrong at most `MOST_WRONG` of the time, besides what e explains at its low end;
- e = 0 is rejected at 95 % where wrong labels go anywhere: its interval excludes 0;
- the interval ends inside the grid of rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.records.data import Share, Why
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

RATES = np.concatenate([[0.0], np.geomspace(0.002, 0.5, 40)])
POWERS = np.geomspace(0.3, 6.0, 30)  # a
LEAST = 100  # blocks
# With 5 to 20 % of the labels of ten sets moved (bench/label_issues.py): where a model was wrong 4
# times in 10, fewer than 60 % of those it called wrong were; up to here 74 % and more in each set.
MOST_WRONG = 0.3
# Evidence of labels that went from class to class from which "none found" is not said. Classes that
# look alike give some as well, up to 26 on clean sets; 20 % moved to the next class gave 16 to 340.
DIRECTED = 30.0
KNOWN = 0.5  # share of a class's labels that the model must confirm to accuse any of them
LIKELY = 0.5  # from which chance on that a label is wrong it is called an issue
CELLS = 2_000_000  # probabilities that a rate is fitted to at most; of more rows some are drawn
_ROUNDS = 6  # of fitting where wrong labels go
_BEGUN = 0.05  # rate by which their destinations are told where the best fit has none
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_SURE, _TINY = 1e-6, 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The share of labels that are wrong, with its 95 % interval, and what honest labels follow.

    `rate` is the mean over both ideas of where wrong labels go, the interval holds those of both;
    `plain` is the rate where they go anywhere, with `power` the exponent there. `directed` is
    twice the gain in log-likelihood over no wrong label where they go from class to class.
    """

    rate: float
    low: float
    high: float
    plain: float
    power: float
    directed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLabels:
    """All judged rows, issues first, then by score. Shapes: (m,) each but the sizes.

    `score` is a label's own probability; `is_issue` where it is called wrong. `count` counts
    issues, those of one block with the same label and suggestion once; it is 0 where none was
    found, None where `why` forbids a number. `error` is how often the model contradicts labels,
    `upper` the largest rate that is not excluded, each None where it was not measured.
    """

    rows: Rows
    labels: Labels
    suggested: Labels
    probability: Array
    score: Array
    is_issue: NDArray[np.bool_]
    count: int | None
    rate: Share | None
    why: Why | None
    error: float
    upper: float | None

    @property
    def disagreements(self) -> int:
        """Labels that the model contradicts."""
        return int((self.labels != self.suggested).sum())


def judge_labels(
    probabilities: Array,
    labels: Labels,
    blocks: Labels,
    excuse: Why | None = None,
    likely: float = LIKELY,
) -> JudgedLabels:
    """Rank labels by their own out-of-fold probability; count issues where that is earned.

    Shapes: probabilities (n, K), NaN in rows that no fold held out (they are left out); labels
    (n,) in 0..K-1, blocks (n,). `excuse` is why no number may be stated whatever the fit says.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> found = judge_labels(p, np.array([0, 0, 1]), np.arange(3))
    >>> found.rows.tolist(), found.score.tolist(), found.count, found.why
    ([1, 0, 2], [0.2, 0.9, 0.9], None, 'too-few')
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    p, given = probabilities[rows], labels[rows]
    weights, n_blocks = block_weights(blocks[rows])
    top, own = p.argmax(axis=1), p[np.arange(len(rows)), given]
    error = float(weights @ (top != given) / max(n_blocks, 1))
    is_tried = excuse is None and n_blocks >= LEAST
    noise = fit_noise(p, given, weights) if is_tried else None
    why = excuse or _forbids(noise, error)
    is_issue = np.zeros(len(rows), dtype=bool)
    if noise is not None and why is None:
        is_known = _known(top, given, weights, p.shape[1])[given]
        is_issue = (_chance_wrong(p, given, noise) > likely) & (top != given) & is_known
        why = None if is_issue.any() else "rate-unclear"
    order = np.lexsort((own, ~is_issue))
    count = 0 if why == "not-significant" else None
    if noise is not None and why is None:
        marks = np.stack([blocks[rows], given, top], axis=1)[is_issue]
        count = len(np.unique(marks, axis=0))
    return JudgedLabels(
        rows=rows[order],
        labels=given[order],
        suggested=top[order],
        probability=p[order, top[order]],
        score=own[order],
        is_issue=is_issue[order],
        count=count,
        why=why,
        error=error,
        upper=None if noise is None else noise.high,
        rate=Share(value=noise.rate, low=noise.low, high=noise.high)
        if noise is not None and why is None
        else None,
    )


def judge_sets(
    probabilities: Array, truth: NDArray[np.float64], blocks: Labels, excuse: Why | None = None
) -> JudgedLabels:
    """The same of several labels an example: whether it has each is a label of two classes.

    Rows are numbered (row, label) row by row. An answer is called wrong from .8 on: of 28 that
    were so from .5 on among planted ones 15 were, of 7 from .8 on 6 (pairs of pictures, 5 % with
    a mistake). Shapes: probabilities, truth (n, K), blocks (n,).

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> found = judge_sets(p, np.array([[1.0, 0.0], [0.0, 0.0]]), np.arange(2))
    >>> divmod(int(found.rows[0]), 2)
    (1, 1)
    """
    flat, k = probabilities.reshape(-1), truth.shape[1]
    answers = truth.reshape(-1).astype(np.int64)
    both = np.stack([1 - flat, flat], axis=1)
    return judge_labels(
        both,
        answers,
        np.repeat(blocks, k) * k + np.tile(np.arange(k), len(truth)),
        excuse,
        likely=0.8,
    )


def block_weights(blocks: Labels) -> tuple[Array, int]:
    """One over the size of each row's block, and how many blocks there are."""
    _, index, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    return 1.0 / sizes[index], len(sizes)


def _forbids(noise: Noise | None, error: float) -> Why | None:
    """Why no number may be stated, as far as the fit tells."""
    if noise is None:
        return "too-few"
    if error - noise.low > MOST_WRONG:
        return "weak-model"
    if noise.low == 0:
        return "rate-unclear" if noise.directed >= DIRECTED else "not-significant"
    return "rate-unclear" if noise.high >= RATES[-1] else None


def _known(top: Labels, labels: Labels, weights: Array, k: int) -> NDArray[np.bool_]:
    """Classes whose labels the model confirms often enough. Shapes: returns (K,)."""
    confirmed = np.bincount(labels, weights * (top == labels), minlength=k)
    found: NDArray[np.bool_] = confirmed >= KNOWN * np.bincount(labels, weights, minlength=k)
    return found


def _chance_wrong(p: Array, labels: Labels, noise: Noise) -> Array:
    """How likely each label is to be wrong, by Bayes. Shapes: (n, K), (n,) to (n,)."""
    own = _sharpened(p, noise.power)[np.arange(len(p)), labels]
    wrong = noise.plain * (1 - own) / max(p.shape[1] - 1, 1)
    found: Array = wrong / np.maximum(wrong + (1 - noise.plain) * own, _TINY)
    return found


def fit_noise(probabilities: Array, labels: Labels, weights: Array) -> Noise:
    """Fit the share of wrong labels over a grid of rates. Shapes: (n, K), (n,), (n,), no NaN."""
    p, labels, weights = _drawn(probabilities, labels, weights)
    k = p.shape[1]
    anywhere = (1 - np.eye(k)) / max(k - 1, 1)
    first = last = _fit(p, labels, weights, anywhere)
    for _ in range(_ROUNDS if k > 2 else 0):
        last = _fit(p, labels, weights, _destinations(p, labels, weights, last))
    return Noise(
        rate=(first.rate + last.rate) / 2,
        low=min(first.low, last.low),
        high=max(first.high, last.high),
        plain=first.rate,
        power=first.power,
        directed=last.gain,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best rate and exponent for one idea of where wrong labels go (K, K).

    `gain` is twice the gain in log-likelihood over no wrong label.
    """

    rate: float
    low: float
    high: float
    gain: float
    power: float
    spread: Array


def _fit(p: Array, labels: Labels, weights: Array, spread: Array) -> _Fit:
    rows, reached = np.arange(len(p)), spread[:, labels].T
    found = np.empty((len(RATES), len(POWERS)))
    for at, power in enumerate(POWERS):
        q = _sharpened(p, power)
        own, other = q[rows, labels], (q * reached).sum(axis=1)
        mixed = np.outer(1 - RATES, own) + np.outer(RATES, other)
        found[:, at] = np.log(np.maximum(mixed, _TINY)) @ weights
    profile = found.max(axis=1)
    best = int(profile.argmax())
    inside = RATES[profile >= profile[best] - _DROP]
    return _Fit(
        float(RATES[best]),
        float(inside.min()),
        float(inside.max()),
        2 * float(profile[best] - profile[0]),
        float(POWERS[found[best].argmax()]),
        spread,
    )


def _destinations(p: Array, labels: Labels, weights: Array, fit: _Fit) -> Array:
    """Where the fit itself sends the wrong labels of each class, one added to each count.

    Shapes: returns (K, K), rows that sum to 1.
    """
    k, q = p.shape[1], _sharpened(p, fit.power)
    rate = max(fit.rate, _BEGUN)
    sent = rate * q * fit.spread[:, labels].T
    honest = (1 - rate) * q[np.arange(len(p)), labels]
    sent *= (weights / np.maximum(sent.sum(axis=1) + honest, _TINY))[:, None]
    counts = np.ones((k, k))
    np.add.at(counts.T, labels, sent)
    np.fill_diagonal(counts, 0.0)
    shares: Array = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _sharpened(p: Array, power: float) -> Array:
    """softmax(power log p). Shapes: (n, K) to (n, K)."""
    logits = power * np.log(np.clip(p, _SURE, 1.0))
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return np.asarray(logits)


def _drawn(p: Array, labels: Labels, weights: Array) -> tuple[Array, Labels, Array]:
    """As many rows as may be fitted: all, or a draw that is the same each time."""
    most = max(CELLS // p.shape[1], LEAST)
    if len(p) <= most:
        return p, labels, weights
    rows = np.sort(np.random.default_rng(0).permutation(len(p))[:most])
    return p[rows], labels[rows], weights[rows]
