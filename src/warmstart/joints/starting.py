"""Which start suits the data: one look at each, the same folds for all, ties called ties."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from warmstart.data.collection import Collection
from warmstart.data.near import with_twins
from warmstart.data.settle import settle
from warmstart.errors import StartError
from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.events import Event, Steps, drain
from warmstart.features.extract import Features
from warmstart.joints import notes, request, rows
from warmstart.joints.look import Look, take_look
from warmstart.joints.problems import near_copies
from warmstart.joints.request import DEFAULT_START, Request
from warmstart.joints.rows import Arranged
from warmstart.joints.score import estimate
from warmstart.network.load import Start, load
from warmstart.network.registry import Listing, available
from warmstart.planning.profiles import profiles
from warmstart.recording import Clock
from warmstart.records import (
    Choice,
    Estimate,
    FailedStart,
    NetworkRecord,
    RankedStart,
    Ranking,
    StartRecord,
    Tap,
)  # fmt: skip
from warmstart.stats.paired import Difference
from warmstart.stats.selection import stand
from warmstart.training.head import fit_head

UNASKED = 6  # starts looked at, at most, where none are named
LARGE = 100_000_000  # parameters above which --start auto leaves a network alone


def choose_start(
    asked: Request, collection: Collection, clock: Clock
) -> Steps[tuple[Request, Start]]:
    """Load the start; under `--start auto` the one that a ranking of those on disk says to take.

    The request that comes back names it, with the reason. Raises: StartError if the start
    cannot be loaded, or none of those on disk can be looked at.
    """
    if not asked.start_is_auto:
        return asked, load(asked.start, arch=asked.arch, preprocessing=asked.preprocessing)
    clock.lap("read")
    names, left_out = on_disk(LARGE)
    if len(names) > 1:
        ranking = yield from rank(collection, names, seed=asked.seed, left_out=left_out)
        choice = Choice(
            value=ranking.take, because=ranking.because, source="measured", rule=DEFAULT_START
        )
        yield notes.note("look", "Chosen", f"{ranking.take}, {ranking.because}")
    else:
        only = names[0] if names else DEFAULT_START
        why = "the only start on this computer that --start auto looks at"
        choice = Choice(value=only, because=why, source="rule", rule=DEFAULT_START)
    start = load(str(choice.value))
    clock.lap("look")
    return replace(asked, start=choice.value, start_choice=choice), start


def on_disk(most: float = math.inf) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Starts to look at where none are named, smallest first, and the names left out.

    `most`: parameters that a start may have.
    """
    found = sorted(available(), key=_parameters)
    names = tuple(start.name for start in found if _parameters(start) <= most)[:UNASKED]
    return names, tuple(start.name for start in found if start.name not in names)


def _parameters(listing: Listing) -> int:
    """As listed, or as many as 32-bit weights fill that file."""
    return listing.parameters or Path(listing.where).stat().st_size // 4


def split_name(name: str) -> tuple[str, str | None]:
    """What --start and --arch want, from `FILE@timm:NAME`.

    >>> split_name("me@home.safetensors@timm:resnet18"), split_name("lite0")
    (('me@home.safetensors', 'timm:resnet18'), ('lite0', None))
    """
    file, at, arch = name.rpartition("@")
    if at and arch.startswith(("timm:", "torchvision:")):
        return file, arch
    return name, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
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


@dataclass(frozen=True, slots=True)
class _Judged:
    """A start and its head. Shapes: hits (n,) of 0 and 1 over the rows held out."""

    looked: _Looked
    estimate: Estimate
    hits: NDArray[np.float64]
    head: str
    seconds: float


def rank(
    collection: Collection, names: Sequence[str], *, seed: int, left_out: Sequence[str] = ()
) -> Steps[Ranking]:
    """Look once with each start, fit a head in closed form, compare on the same folds.

    The test part is not looked at. Images that some start could not read count for none.
    A start that fails is listed and the others go on.
    Raises: StartError (the first) if all fail, DataError if too little can be read.
    """
    examples = tuple(e for e in collection.record.examples if e.split != "test")
    seen = replace(collection, record=replace(collection.record, examples=examples))
    names = tuple(dict.fromkeys(names))
    yield _forecast(len(names), len(examples))
    looked: list[_Looked] = []
    failed: list[FailedStart] = []  # texts: an error kept would keep the network it came from
    for name in names:
        try:
            looked.append((yield from _look(name, seen, looked)))
        except StartError as error:
            failed.append(FailedStart(name=name, error=str(error)))
            yield notes.note("read", "Failed", f"{name}: {error}")
    if not looked:
        raise StartError(failed[0].error)
    lost = {id: why for one in looked for id, why in one.unreadable.items()}
    arranged = rows.arrange(with_twins(settle(seen, lost), looked[0].twins).record)
    judged: list[_Judged] = []
    yield Event(stage="head", kind="begin", of=len(looked))
    with threadpool_limits(limits=1, user_api="blas"):
        for one in looked:
            judged.append(_judge(one, arranged, seed))
            yield Event(stage="head", kind="step", step=len(judged), of=len(looked))
    found = _ranking(judged, arranged, seed)
    return replace(found, failed=tuple(failed), left_out=tuple(left_out))


def _forecast(n_starts: int, n_images: int) -> Event:
    looks = "one start" if n_starts == 1 else f"{n_starts} starts"
    text = f"{looks}, one look at {n_images:,} images each: {n_starts * n_images:,} passes at most"
    return notes.note("read", "Rank", text)


def _look(name: str, collection: Collection, before: Sequence[_Looked]) -> Steps[_Looked]:
    """Load, look, check the features, keep what a head needs; near copies are found once."""
    file, arch = split_name(name)
    start = load(file, arch=arch)
    yield notes.start(start.record)
    began = time.perf_counter()
    look, per_second = yield from _timed(take_look(collection, start))
    examples = [e for e in collection.record.examples if e.id not in look.unreadable]
    read = look.reader(examples)
    for tap in look.taps:
        read(tap)
    return _Looked(
        name=name, arch=arch, start=start.record, network=look.network.record, taps=look.taps,
        features=look.features, unreadable=look.unreadable, engine=look.engine,
        twins=before[0].twins if before
        else near_copies(settle(collection, look.unreadable), look),
        seconds=time.perf_counter() - began, per_second=per_second,
    )  # fmt: skip


def _timed(steps: Steps[Look]) -> Steps[tuple[Look, float | None]]:
    """A look, and the images a second that its last event told; None where none was passed."""
    speed = None
    with closing(steps):
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                return stop.value, speed
            speed = float(event.values.get("per_second", speed or 0)) or None
            yield event


def _judge(one: _Looked, arranged: Arranged, seed: int) -> _Judged:
    """The head that `fit --budget fast` would give, and its hits on the rows held out."""
    began = time.perf_counter()
    asked = Request(data=None, start=one.name, budget="fast", seed=seed)
    shapes = profiles(one.taps)
    plan = request.plan(asked, arranged.facts(), one.network, tuple(shapes), one.engine)
    read = partial(one.features.read, arranged.learn)
    heads = rows.heads(plan, shapes, read, len(arranged.learn))
    fit = drain(fit_head(heads, rows.pose(arranged, plan), 0 if arranged.holdout else None))
    held = fit.fold >= 0
    hits = fit.probabilities[held].argmax(axis=1) == arranged.labels[held]
    seconds = one.seconds + time.perf_counter() - began
    return _Judged(one, estimate(fit, arranged), hits.astype(float), fit.name, seconds)


def _ranking(judged: Sequence[_Judged], arranged: Arranged, seed: int) -> Ranking:
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
        because=_because(take, groups[0], list(starts.values()), n),
        n=n,
        guess=float(np.bincount(labels).max() / n),
        method=judged[0].estimate.method,
    )


def _work(looked: _Looked) -> tuple[int, int]:
    return sum(part.macs for part in looked.network.parts), looked.start.parameters


def _record(judged: _Judged, gap: Difference) -> RankedStart:
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
    take: RankedStart, best: Sequence[RankedStart], starts: Sequence[RankedStart], n: int
) -> str:
    """Why this one: how often it is right, and what the others would bring."""
    shown = f"{100 * take.value:.0f} % ({100 * take.low:.0f} to {100 * take.high:.0f})"
    text = f"right on {shown} of {n:,} images it had not seen"
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
