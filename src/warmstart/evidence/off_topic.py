"""Off-topic examples: unlike those of every class, as a lamp among flowers.

The distance of an example is the mean to its five nearest others, whatever their class, in the
features that the network's own head saw: square roots, so that a few strong features do not
decide alone, brought to length 1 (Sun et al. 2022, "Out-of-Distribution Detection with Deep
Nearest Neighbors"). Near copies and members of one group are no neighbours of each other. The
logs of such distances are about normal in clean sets; the upper half of them, from the median to
the 90 % quantile, which a tenth of odd ones does not move, tells how wide. An example is off-topic
beyond the normal quantile at which a clean set of this size holds one with a chance of 5 %
(Bonferroni). What clean and planted sets show: bench/label_issues.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from warmstart.evidence.distribution_shift import Drawable
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import Finding, OffTopic, OffTopicExample
from warmstart.solve.calibration import Labels
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows

NEAREST = 5
LEAST = 50  # blocks below which nothing is said of what is usual
MOST = 4000  # examples, drawn, that others are compared with
ALARMS = 0.05  # chance that a clean set holds an example called off-topic
LISTED = 20  # of the farthest, in the record
_CHUNK = 1024  # examples compared at a time
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class OffTopicScore:
    """How odd each row is, in standard deviations of the log distance, and from when on too odd.

    Shapes: scores, is_off (n,). `threshold` is None, and no row is off, where blocks are too few.
    """

    scores: Array
    threshold: float | None
    is_off: NDArray[np.bool_]


def find_off_topic(features: Drawable, groups: Labels) -> OffTopicScore:
    """Score every row by its distance to the nearest of other blocks. Shapes: (n, d), (n,).

    >>> rng = np.random.default_rng(0)
    >>> x = np.abs(rng.normal(size=(200, 60))) + 4
    >>> x[7] = np.abs(rng.normal(size=60)) * 9
    >>> np.flatnonzero(find_off_topic(x.astype(np.float32), np.arange(200)).is_off).tolist()
    [7]
    """
    n, none = len(features), np.zeros(len(features), dtype=bool)
    first = np.unique(groups, return_index=True)[1]
    if len(first) <= NEAREST:
        return OffTopicScore(np.zeros(n), None, none)
    logs = np.log(np.maximum(_distances(features, groups), _CLOSE))
    usual = logs[first]  # a block is one example
    middle, high = np.quantile(usual, [0.5, 0.9])
    width = (high - middle) / norm.isf(0.1)
    scores = (logs - middle) / max(float(width), _CLOSE)
    if len(first) < LEAST or width <= _CLOSE:
        return OffTopicScore(scores, None, none)
    threshold = float(norm.isf(ALARMS / len(first)))
    return OffTopicScore(scores, threshold, scores > threshold)


def _distances(features: Drawable, groups: Labels) -> Array:
    """Mean distance of each row to the nearest of other blocks. Shapes: returns (n,)."""
    n = len(features)
    others = np.arange(n)
    if n > MOST:
        others = np.sort(np.random.default_rng(0).choice(n, MOST, replace=False))
    known = np.concatenate([part for _, part in _placed(features, others)])
    found = np.empty(n)
    for rows, points in _placed(features, np.arange(n)):
        squares = 2 - 2 * (points @ known.T).astype(np.float64)
        squares[groups[rows][:, None] == groups[others]] = np.inf
        nearest = np.partition(squares, NEAREST - 1, axis=1)[:, :NEAREST]
        lengths = np.sqrt(np.maximum(nearest, 0.0))
        found[rows] = np.where(np.isfinite(lengths), lengths, np.nan).mean(axis=1)
    # A row whose block holds nearly all others has no neighbours to be judged by.
    return np.where(np.isfinite(found), found, np.nanmedian(found))


def _placed(features: Drawable, rows: Rows) -> Iterator[tuple[Rows, Features]]:
    """Some rows at a time: signed square roots of length 1."""
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        roots = features[some].astype(np.float32)
        roots = np.sign(roots) * np.sqrt(np.abs(roots))
        lengths = np.linalg.norm(roots, axis=1, keepdims=True)
        yield some, roots / np.maximum(lengths, np.float32(_CLOSE))


def off_topic(
    found: OffTopicScore,
    groups: Labels,
    ids: Sequence[str],
    labels: Sequence[str],
    nouns: Nouns = IMAGES,
) -> OffTopic:
    """The record: every off-topic example, and the farthest others. Shapes: blocks (n,)."""
    order = np.argsort(-found.scores, kind="stable")
    n_off = int(found.is_off.sum())
    ranked = tuple(
        OffTopicExample(
            id=ids[row],
            label=labels[row],
            score=round(float(found.scores[row]), 2),
            is_off_topic=bool(found.is_off[row]),
        )
        for row in order[: max(n_off, LISTED)]
    )
    count = None if found.threshold is None else len(np.unique(groups[found.is_off]))
    threshold = None if found.threshold is None else round(found.threshold, 2)
    told = _said(count, n_off, nouns)
    return OffTopic(count=count, threshold=threshold, sentence=told, ranked=ranked)


def _said(count: int | None, listed: int, nouns: Nouns) -> str:
    if count is None:
        return f"Too few {nouns.many} to say which are off-topic."
    if not count:
        return f"No off-topic {nouns.many} found."
    one = count == 1
    copies = f" ({listed:,} with near copies and groups)" if listed > count else ""
    return (
        f"{nouns.count(count)} {'looks' if one else 'look'} off-topic{copies}: unlike the "
        f"{nouns.many} of every class. Leave {'it' if one else 'them'} out if "
        f"{'it does' if one else 'they do'} not belong."
    )


def off_topic_finding(found: OffTopic | None) -> Finding | None:
    """Off-topic examples as a finding of the data; None where there are none."""
    if found is None or not found.count:
        return None
    items = tuple(f"{one.id}: {one.label}" for one in found.found)
    return Finding(kind="off-topic", sentence=found.sentence, items=items)
