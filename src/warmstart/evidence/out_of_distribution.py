"""Which examples are unlike the training set: single ones, or the whole test set?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from warmstart.evidence.probe import PENALTIES
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.data import OffTopic, OffTopicExample
from warmstart.records.findings import Finding
from warmstart.solve import ridge
from warmstart.solve.calibration import Labels
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import PermutationTest, permutation_test


class FeatureRows(Protocol):
    """Features of n rows, loaded when indexed by rows (m,); an array (n, d) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Features: ...


# ---- Off-topic examples: unlike those of every class, as a lamp among flowers.
#
# The score is the mean distance to the five nearest examples of other groups in the last features,
# square roots normalised to length 1 (Sun et al. 2022, "Out-of-Distribution Detection with Deep
# Nearest Neighbors"). The logs of such distances are about normal in clean sets; median and 90 %
# quantile, which a tenth of outliers does not move, give their spread. An example is off-topic
# beyond the normal quantile that a clean set of this size passes with a chance of 5 % (Bonferroni).

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


# ---- Do the training set and the test set come from one distribution?
#
# A classifier two-sample test: a classifier that separates the two sets by their features better
# than chance shows a distribution shift. Test labels are not used. Source: Lopez-Paz & Oquab 2017,
# "Revisiting Classifier Two-Sample Tests", with a closed-form classifier and permutations.

SHIFT_MOST = 500  # rows of each set that are compared
SHIFT_LEAST = 10  # rows of each set that the test needs
PERMUTATIONS = 999
LARGE = 0.75  # accuracy from which a shift matters
CERTAIN = 0.005  # p-value of the permutations; they stop here when none came near
CLEAR = 3.1  # and standard deviations above the null distribution, which is p = .001


def detect_shift(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator, nouns: Nouns = IMAGE.nouns
) -> Finding | None:
    """A finding where the two sets are easily separated, else None.

    Shapes: train (n, d), test (m, d), of one feature layer. Groups (several pictures of one object,
    all in one set) make the sets slightly easier to separate than their pictures are.
    """
    test_result = two_samples(train, test, rng)
    if test_result is None or test_result.p > CERTAIN or test_result.accuracy < LARGE:
        return None
    null = test_result.null_accuracies
    if test_result.accuracy < null.mean() + CLEAR * null.std():
        return None
    return Finding(
        kind="distribution-shift",
        sentence=(
            f"Distribution shift: a simple classifier tells test {nouns.many} from training "
            f"{nouns.many} {100 * test_result.accuracy:.0f} % of the time, where guessing is right "
            f"50 %. The test set then measures the model on {nouns.many} of another kind; for a "
            "fair figure, mix the two sets and split them again, and for the other kind add "
            f"training {nouns.many} of it."
        ),
    )


def two_samples(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator
) -> PermutationTest | None:
    """The two-sample test on equally many rows of each set; None if there are too few."""
    size = min(len(train), len(test), SHIFT_MOST)
    if size < SHIFT_LEAST:
        return None
    samples = [
        rows[np.sort(rng.choice(len(rows), size=size, replace=False))] for rows in (train, test)
    ]
    kernel = mixed_kernels([("one", np.concatenate(samples))], {"one": {"one": 1.0}})["one"]
    inverses = [ridge.inverse(kernel, penalty) for penalty in PENALTIES]
    singles = [np.array([row]) for row in range(2 * size)]
    return permutation_test(inverses, np.repeat(np.arange(2), size), singles, rng, PERMUTATIONS)
