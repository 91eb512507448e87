"""Off-topic examples: unlike those of every class, as a lamp among flowers.

The score is the mean distance to the five nearest examples of other groups in the last features,
square roots normalised to length 1 (Sun et al. 2022, "Out-of-Distribution Detection with Deep
Nearest Neighbors"). The logs of such distances are about normal in clean sets; median and 90 %
quantile, which a tenth of outliers does not move, give their spread. An example is off-topic beyond
the normal quantile that a clean set of this size passes with a chance of 5 % (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from warmstart.evidence.distribution_shift import FeatureRows
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.data import Finding, OffTopic, OffTopicExample
from warmstart.solve.calibration import Labels
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows

NEAREST = 5
LEAST = 50  # groups that the threshold needs
MOST = 4000  # examples, sampled, that others are compared with
ALARMS = 0.05  # chance that a clean set holds an example called off-topic
LISTED = 20  # of the farthest, in the record
_CHUNK = 1024  # examples compared at a time
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class OffTopicScore:
    """Outlier scores, in standard deviations of the log distance, and their threshold.

    Shapes: scores, is_off (n,). With too few groups `threshold` is None and no row is off.
    """

    scores: Array
    threshold: float | None
    is_off: NDArray[np.bool_]


def find_off_topic(features: FeatureRows, groups: Labels) -> OffTopicScore:
    """Score every row by its distance to the nearest of other groups. Shapes: (n, d), (n,).

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
    usual = logs[first]  # a group counts once
    middle, high = np.quantile(usual, [0.5, 0.9])
    width = (high - middle) / norm.isf(0.1)
    scores = (logs - middle) / max(float(width), _CLOSE)
    if len(first) < LEAST or width <= _CLOSE:
        return OffTopicScore(scores, None, none)
    threshold = float(norm.isf(ALARMS / len(first)))
    return OffTopicScore(scores, threshold, scores > threshold)


def _distances(features: FeatureRows, groups: Labels) -> Array:
    """Mean distance of each row to the nearest of other groups. Shapes: returns (n,)."""
    n = len(features)
    others = np.arange(n)
    if n > MOST:
        others = np.sort(np.random.default_rng(0).choice(n, MOST, replace=False))
    references = np.concatenate([chunk for _, chunk in _normalised(features, others)])
    distances = np.empty(n)
    for rows, points in _normalised(features, np.arange(n)):
        squares = 2 - 2 * (points @ references.T).astype(np.float64)
        squares[groups[rows][:, None] == groups[others]] = np.inf
        nearest = np.partition(squares, NEAREST - 1, axis=1)[:, :NEAREST]
        lengths = np.sqrt(np.maximum(nearest, 0.0))
        distances[rows] = np.where(np.isfinite(lengths), lengths, np.nan).mean(axis=1)
    # A row whose group holds nearly all others has no neighbours to compare with.
    return np.where(np.isfinite(distances), distances, np.nanmedian(distances))


def _normalised(features: FeatureRows, rows: Rows) -> Iterator[tuple[Rows, Features]]:
    """Yield chunks of rows with their signed square roots, of length 1."""
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        roots = features[chunk].astype(np.float32)
        roots = np.sign(roots) * np.sqrt(np.abs(roots))
        lengths = np.linalg.norm(roots, axis=1, keepdims=True)
        yield chunk, roots / np.maximum(lengths, np.float32(_CLOSE))


def off_topic(
    scores: OffTopicScore,
    groups: Labels,
    ids: Sequence[str],
    labels: Sequence[str],
    nouns: Nouns = IMAGE.nouns,
) -> OffTopic:
    """The record: all off-topic examples and the next highest scores. Shapes: groups (n,)."""
    order = np.argsort(-scores.scores, kind="stable")
    n_off = int(scores.is_off.sum())
    ranked = tuple(
        OffTopicExample(
            id=ids[row],
            label=labels[row],
            score=round(float(scores.scores[row]), 2),
            is_off_topic=bool(scores.is_off[row]),
        )
        for row in order[: max(n_off, LISTED)]
    )
    if scores.threshold is None:
        sentence = f"Too few {nouns.many} to say which are off-topic."
        return OffTopic(count=None, threshold=None, sentence=sentence, ranked=ranked)
    count = len(np.unique(groups[scores.is_off]))
    sentence = f"No off-topic {nouns.many} found."
    if count:
        looks, them, they = (
            ("looks", "it", "it does") if count == 1 else ("look", "them", "they do")
        )
        copies = f" ({n_off:,} with near-duplicates and groups)" if n_off > count else ""
        sentence = (
            f"{nouns.count(count)} {looks} off-topic{copies}: unlike the {nouns.many} of every "
            f"class. Leave {them} out if {they} not belong."
        )
    threshold = round(scores.threshold, 2)
    return OffTopic(count=count, threshold=threshold, sentence=sentence, ranked=ranked)


def off_topic_finding(record: OffTopic | None) -> Finding | None:
    """Off-topic examples as a finding; None where there are none."""
    if record is None or not record.count:
        return None
    items = tuple(f"{example.id}: {example.label}" for example in record.off_topic)
    return Finding(kind="off-topic", sentence=record.sentence, items=items)
