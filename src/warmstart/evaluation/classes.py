"""One line a class: how many of its images are found, and what they are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.evaluation.metrics import Labels
from warmstart.records import ClassScore
from warmstart.stats.intervals import Blocks, proportion


def per_class(
    predicted: Labels, labels: Labels, blocks: Blocks, names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Recall with its cluster-robust 95 % interval, precision, and the commonest mistake.

    Classes without an image are left out. Of mistakes that are equally common the first in
    the order of the outputs is named. Shapes: predicted, labels and blocks (n,), names (K,).

    >>> rows = per_class(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), np.arange(4), "ab")
    >>> [(row.label, row.recall, row.precision, row.taken_for) for row in rows]
    [('a', 0.5, 1.0, 'b'), ('b', 1.0, 0.6666666666666666, None)]
    """
    answers = np.bincount(predicted, minlength=len(names))
    return tuple(
        _score(number, predicted, labels, blocks, names, int(answers[number]))
        for number in np.unique(labels)
    )


def _score(
    number: int, predicted: Labels, labels: Labels, blocks: Blocks, names: Sequence[str],
    answers: int,
) -> ClassScore:  # fmt: skip
    own = labels == number
    hits = predicted[own] == number
    recall, low, high = proportion(hits.astype(float), blocks[own])
    wrong = np.bincount(predicted[own][~hits], minlength=len(names))
    taken = int(wrong.max())
    return ClassScore(
        label=names[number],
        n=int(own.sum()),
        recall=recall,
        low=low,
        high=high,
        precision=int(hits.sum()) / answers if answers else None,
        answers=answers,
        taken_for=names[int(wrong.argmax())] if taken else None,
        taken=taken,
    )
