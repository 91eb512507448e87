"""Gradient boosting beside a network for tables: the same rows, the same folds, compared."""

from __future__ import annotations

from typing import Literal

import numpy as np

from warmstart.data.encode import encode
from warmstart.data.split import folds
from warmstart.evaluation.metrics import accuracy_estimate
from warmstart.events import Event, Steps
from warmstart.joints.look import load_same
from warmstart.joints.notes import note
from warmstart.joints.scene import Scene
from warmstart.joints.tune import Worked
from warmstart.records import Beside
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_blocks
from warmstart.stats.paired_hits import hits_difference
from warmstart.tasks.words import points
from warmstart.training.boosting import boost

INNER = 2  # parts of a fold's rows, each of which chooses once


def beside(scene: Scene, worked: Worked) -> Steps[tuple[Beside, ...]]:
    """What boosting gives on each row without it, against what the run has made; for tables.

    The folds are those by which what is shipped was judged.
    """
    arranged, record = scene.arranged, scene.collection.record
    if record.kind != "table" or record.task != "classify":
        return ()
    rows, blocks, fold = encoded(scene), arranged.blocks(), worked.head.fold
    outer = [np.flatnonzero(fold == number) for number in np.unique(fold[fold >= 0])]

    def inner(keep: Rows) -> list[Rows]:
        rng = np.random.default_rng([scene.seed, 16])
        own = number_blocks(_within(blocks[keep]))
        part = folds(arranged.labels[keep], own, INNER, rng)
        return [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]

    yield Event(stage="tune", kind="begin", of=len(outer), values={"title": "Boosting"})
    found = yield from boost(rows, arranged.labels, arranged.n_classes, outer, inner, scene.seed)
    held = np.flatnonzero(found.fold >= 0)
    method: Literal["holdout", "nested-cv"] = "holdout" if arranged.holdout else "nested-cv"
    estimate = accuracy_estimate(
        found.probabilities[held], arranged.labels[held], blocks[held], method
    )
    ours = _hits(worked, arranged.labels)
    theirs = np.full(len(ours), np.nan)
    theirs[held] = found.probabilities[held].argmax(axis=1) == arranged.labels[held]
    both = np.flatnonzero(np.isfinite(ours) & np.isfinite(theirs))
    gap = hits_difference(theirs[both], ours[both], blocks[both])
    told = Beside(
        name=found.name, estimate=estimate, difference=gap.value, low=gap.low, high=gap.high,
        n=len(both), is_better=gap.low > 0,
        sentence=_sentence(found.name, estimate.value, gap.value, gap.low, gap.high),
    )  # fmt: skip
    yield note("tune", "Beside", told.sentence)
    return (told,)


def encoded(scene: Scene) -> Array:
    """The learning rows as the network is given them. Shapes: (n, F)."""
    examples = scene.arranged.learn
    return np.stack([encode(load_same(scene.collection, e), e.id, scene.prep) for e in examples])


def _within(blocks: Rows) -> list[Rows]:
    return [np.flatnonzero(blocks == block) for block in np.unique(blocks)]


def _hits(worked: Worked, labels: Rows) -> Array:
    """Whether what is shipped answers each row rightly, (n,); NaN if it was never held out."""
    held = worked.head.fold >= 0
    found = np.full(len(labels), np.nan)
    found[held] = worked.head.probabilities[held].argmax(axis=1) == labels[held]
    return found


def _sentence(name: str, accuracy: float, gap: float, low: float, high: float) -> str:
    right = f"{100 * accuracy:.1f} % right on rows held out"
    interval = f"{points(low)} to {points(high)}"
    more = f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'} than this model"
    if low > 0:
        return f"{name.capitalize()} is better here: {right}, {more} ({interval}); use it."
    if high < 0:
        return f"{name.capitalize()} does worse here: {right}, {more} ({interval})."
    return (
        f"{name.capitalize()} is about as good here: {right}, {more} ({interval}), which may be "
        "chance."
    )
