"""Starts that were looked at, in order: which is best, which tie, which to take and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.features.extract import Features
from warmstart.joints.lineage import Inherited
from warmstart.joints.rows import Arranged
from warmstart.records import (
    Choice,
    Estimate,
    NetworkRecord,
    RankedStart,
    Ranking,
    StartRecord,
    Tap,
)  # fmt: skip
from warmstart.stats.paired import Difference
from warmstart.stats.selection import stand


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What stays of a start after its look: the network itself is released."""

    name: str
    arch: str | None
    start: StartRecord
    network: NetworkRecord
    taps: tuple[Tap, ...]
    features: Features
    unreadable: Mapping[str, str]  # example ids, with the reason
    twins: tuple[tuple[str, str], ...]  # near copies, by id
    engine: Choice
    seconds: float
    per_second: float | None
    inherited: Inherited  # what a run passes on to a head here


@dataclass(frozen=True, slots=True)
class Judged:
    """A start and its head. Shapes: hits (n,) of 0 and 1 over the rows held out."""

    looked: Looked
    estimate: Estimate
    hits: NDArray[np.float64]
    head: str
    seconds: float


def ranking(judged: Sequence[Judged], arranged: Arranged, seed: int) -> Ranking:
    """Order, ties, and the start to take. All starts were judged on the same rows."""
    n = len(judged[0].hits)
    held = slice(len(arranged.learn) - n, None)  # a hold-out stands last; folds hold out all
    light = sorted(judged, key=lambda one: _work(one.looked))  # of equals the lighter first
    rng = np.random.default_rng([seed, 3])
    standing = stand(
        np.stack([one.hits for one in light]), arranged.blocks()[held], rng,
        inflation=1.0 if arranged.holdout else MODEL_VARIANCE,
    )  # fmt: skip
    starts = {
        index: _record(light[index], gap)
        for index, gap in zip(standing.order, standing.to_best, strict=True)
    }
    groups = [[starts[index] for index in group] for group in standing.groups]
    take = min(groups[0], key=lambda start: (start.macs, start.parameters))
    labels = arranged.labels[held]
    return Ranking(
        starts=tuple(starts.values()),
        ties=tuple(tuple(s.name for s in group) for group in groups if len(group) > 1),
        take=take.name,
        because=_because(take, groups[0], list(starts.values()), n, arranged),
        n=n,
        guess=arranged.target.blind_score(labels),
        task=None if arranged.target.task == "classify" else arranged.target.task,
        method=judged[0].estimate.method,
    )


def _work(looked: Looked) -> tuple[int, int]:
    return sum(part.macs for part in looked.network.parts), looked.start.parameters


def _record(judged: Judged, gap: Difference) -> RankedStart:
    looked, claim = judged.looked, judged.estimate
    macs, parameters = _work(looked)
    return RankedStart(
        name=looked.name, title=looked.start.title, arch=looked.arch,
        value=claim.value, low=claim.low, high=claim.high,
        seconds=round(judged.seconds, 3),
        parameters=parameters,
        macs=macs,
        seconds_per_image=1 / looked.per_second if looked.per_second else None,
        cached=not looked.features.passed,
        head=judged.head,
        difference=gap.value, difference_low=gap.low, difference_high=gap.high,
    )  # fmt: skip


def _because(
    take: RankedStart, best: Sequence[RankedStart], starts: Sequence[RankedStart], n: int,
    arranged: Arranged,
) -> str:  # fmt: skip
    """Why this one: how often it is right, and what the others would bring."""
    shown = f"{100 * take.value:.0f} % ({100 * take.low:.0f} to {100 * take.high:.0f})"
    text = arranged.target.words.ranked.format(shown=shown, n=arranged.nouns.count(n))
    others = [start for start in best if start is not take]
    if others:
        verb = "ties" if len(others) == 1 else "tie"
        names = _list([_tied(other, take) for other in others])
        return f"{text}; {names} {verb} with it: the difference could be chance"
    if len(starts) == 1:
        return f"{text}; no other start was looked at"
    gap = starts[1]
    low, middle, high = (
        100 * abs(d) for d in (gap.difference_high, gap.difference, gap.difference_low)
    )
    return f"{text}, {middle:.0f} points ({low:.0f} to {high:.0f}) above {gap.name}, the next"


def _tied(other: RankedStart, take: RankedStart) -> str:
    ratio = other.macs / max(take.macs, 1)
    return f"{other.name} ({100 * other.value:.0f} %, {ratio:.1f} times the work)"


def _list(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
