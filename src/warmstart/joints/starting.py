"""Which start suits the data: one look at each, the same folds for all, ties called ties."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from warmstart.data.collection import Collection
from warmstart.data.near import with_twins
from warmstart.data.settle import settle
from warmstart.errors import RunFolderError, StartError
from warmstart.events import Event, Steps, drain
from warmstart.joints import lineage, notes, planned, rows
from warmstart.joints.inputs import input_wish
from warmstart.joints.look import Look, take_look
from warmstart.joints.problems import near_copies
from warmstart.joints.request import DEFAULT_START, Request
from warmstart.joints.rows import Arranged
from warmstart.joints.score import estimate
from warmstart.joints.sounds import check_waves
from warmstart.joints.standing import Judged, Looked, ranking
from warmstart.joints.streaming import settle_stream
from warmstart.joints.tables import table_start, tensor_start
from warmstart.joints.texts import fitted
from warmstart.network.load import InputWish, Start, load
from warmstart.network.registry import DEFAULTS, Listing, available
from warmstart.network.revive import change
from warmstart.planning.build import NetworkFacts
from warmstart.planning.profiles import profiles
from warmstart.recording import Clock
from warmstart.records import Choice, FailedStart, Kind, Preprocessing, Ranking
from warmstart.training.head import fit_head
from warmstart.words import nouns_of
from warmstart.world import here

UNASKED = 6  # starts looked at, at most, where none are named
LARGE = 100_000_000  # parameters above which --start auto leaves a network alone


def choose_start(
    asked: Request, collection: Collection, clock: Clock
) -> Steps[tuple[Request, Start]]:
    """Load the start; under `--start auto` the one that a ranking of those on disk says to take.

    The request that comes back names it, with the reason. Raises: StartError if the start
    cannot be loaded, or none of those on disk can be looked at; RunFolderError for a run
    that is none, or shipped no model.
    """
    asked = with_default(asked, collection)
    kind = collection.record.kind
    if kind == "table":
        if asked.arch is not None:
            raise StartError(
                f"--arch {asked.arch}: rows of a table are learnt by a network of warmstart's own; "
                "leave it away."
            )
        return asked, table_start(asked.start, collection, asked.seed)
    if kind == "tensor":
        return asked, tensor_start(asked.start, collection)
    wish = input_wish(asked, collection)
    if not asked.start_is_auto:
        asked = replace(asked, stream=here().same(settle_stream(asked)))
        if asked.stream is not None:
            wish = replace(wish, stream=str(asked.stream.value))
        start = open_start(asked.start, asked.arch, asked.preprocessing, wish)
        check_waves(asked, start.record)
        return asked, fitted(start, collection, wish)
    clock.lap("read")
    choice = yield from _ranked(asked, collection, wish)
    start = fitted(open_start(str(choice.value), inputs=wish), collection, wish)
    clock.lap("look")
    return replace(asked, start=choice.value, start_choice=choice), start


def _ranked(asked: Request, collection: Collection, wish: InputWish) -> Steps[Choice]:
    """The start that a ranking of those on this computer says to take, and why."""
    kind = collection.record.kind
    names, left_out = on_disk(LARGE, kind)
    if len(names) < 2:
        only = names[0] if names else DEFAULTS.get(kind, DEFAULT_START)
        why = "the only start on this computer that --start auto looks at"
        return Choice(value=only, because=why, source="rule", rule=DEFAULTS[kind])
    ranking = yield from rank(collection, names, seed=asked.seed, left_out=left_out, inputs=wish)
    choice = here().same(Choice(
        value=ranking.take, because=ranking.because, source="measured", rule=DEFAULTS[kind],
    ))  # fmt: skip
    yield notes.note("look", "Chosen", f"{ranking.take}, {ranking.because}")
    return choice


def with_default(asked: Request, collection: Collection) -> Request:
    """The request with the usual start for this kind of data, where none was named."""
    usual = DEFAULTS.get(collection.record.kind, DEFAULT_START)
    if asked.start is not DEFAULT_START and asked.start != DEFAULT_START:
        return asked
    if usual == DEFAULT_START or (asked.given is not None and "start" in asked.given):
        return asked
    return replace(asked, start=usual, given=asked.typed)


def open_start(
    start: Any,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    inputs: InputWish | None = None,
) -> Start:
    """Load a start of any kind: a run's folder, or what `network.load` takes.

    Raises: StartError if it cannot be loaded or changed for such inputs, RunFolderError for
    a run that is none.
    """
    if lineage.is_run(start):
        run = lineage.start_from_run(Path(start), arch, preprocessing)
        return run if inputs is None else change(run, _as_before(run, inputs))
    return load(start, arch=arch, preprocessing=preprocessing, inputs=inputs)


def _as_before(run: Start, inputs: InputWish) -> InputWish:
    """A run that learnt from such bands keeps the ranges that it scaled them by.

    One that learnt from sounds keeps how it drew them.
    """
    prep = run.record.preprocessing
    if not isinstance(prep, Preprocessing):
        return inputs
    if inputs.sound is not None and prep.sound is not None:
        return replace(inputs, sound=prep.sound)
    own = prep.ranges
    is_same = len(own) == (inputs.channels or len(own))
    return replace(inputs, ranges=own) if own and is_same else inputs


def on_disk(
    most: float = math.inf, kind: Kind = "image"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Starts to look at where none are named, smallest first, and the names left out.

    `most`: parameters that a start may have; `kind`: what it is to take.
    """
    takes = "image" if kind == "audio" else kind
    found = sorted((s for s in available() if s.kind == takes), key=_parameters)
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


def rank(
    collection: Collection,
    names: Sequence[str],
    *,
    seed: int,
    left_out: Sequence[str] = (),
    inputs: InputWish | None = None,
) -> Steps[Ranking]:
    """Look once with each start, fit a head in closed form, compare on the same folds.

    The test part is not looked at. Images that some start could not read count for none.
    A start that fails is listed and the others go on.
    Raises: StartError (the first) if all fail, DataError if too little can be read.
    """
    examples = tuple(e for e in collection.record.examples if e.split != "test")
    seen = replace(collection, record=replace(collection.record, examples=examples))
    names = tuple(dict.fromkeys(names))
    yield _forecast(len(names), len(examples), collection.record.kind)
    looked: list[Looked] = []
    failed: list[FailedStart] = []  # texts: an error kept would keep the network it came from
    for name in names:
        try:
            looked.append((yield from _look(name, seen, looked, inputs)))
        except (StartError, RunFolderError) as error:
            failed.append(FailedStart(name=name, error=str(error)))
            yield notes.note("read", "Failed", f"{name}: {error}")
    if not looked:
        raise StartError(failed[0].error)
    lost = {id: why for one in looked for id, why in one.unreadable.items()}
    arranged = rows.arrange(with_twins(settle(seen, lost), looked[0].twins).record)
    judged: list[Judged] = []
    yield Event(stage="head", kind="begin", of=len(looked))
    with threadpool_limits(limits=1, user_api="blas"):
        for one in looked:
            judged.append(_judge(one, arranged, seed))
            yield Event(stage="head", kind="step", step=len(judged), of=len(looked))
    found = ranking(judged, arranged, seed)
    return replace(found, failed=tuple(failed), left_out=tuple(left_out))


def _forecast(n_starts: int, n_images: int, kind: Kind) -> Event:
    looks = "one start" if n_starts == 1 else f"{n_starts} starts"
    each = f"one look at {nouns_of(kind).count(n_images)} each"
    text = f"{looks}, {each}: {n_starts * n_images:,} passes at most"
    return notes.note("read", "Rank", text)


def _look(
    name: str, collection: Collection, before: Sequence[Looked], inputs: InputWish | None
) -> Steps[Looked]:
    """Load, look, check the features, keep what a head needs; near copies are found once."""
    file, arch = split_name(name)
    start = fitted(open_start(file, arch, inputs=inputs), collection, inputs)
    yield notes.start(start.record)
    began = time.perf_counter()
    look, per_second = yield from _timed(take_look(collection, start))
    examples = [e for e in collection.record.examples if e.id not in look.unreadable]
    read = look.reader(examples)
    for tap in look.taps:
        read(tap)
    inherited = yield from lineage.inherit(start, look.network.record, collection.record, look)
    return Looked(
        name=name, arch=arch, start=start.record, network=look.network.record, taps=look.taps,
        features=look.features, unreadable=look.unreadable, engine=look.engine,
        twins=before[0].twins if before
        else near_copies(settle(collection, look.unreadable), look),
        seconds=time.perf_counter() - began, per_second=per_second, inherited=inherited,
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


def _judge(one: Looked, arranged: Arranged, seed: int) -> Judged:
    """The head that `fit --budget fast` would give, and its hits on the rows held out."""
    began = time.perf_counter()
    asked = Request(data=None, start=one.name, budget="fast", seed=seed)
    shapes = profiles(one.taps)
    facts = NetworkFacts(record=one.network)
    names = one.inherited.names(tuple(shapes))
    plan = planned.make_plan(asked, arranged.facts(), facts, names, one.engine)
    read = partial(one.features.read, arranged.learn)
    heads = rows.heads(plan, shapes, read, len(arranged.learn), one.inherited.prior)
    fit = drain(fit_head(heads, rows.pose(arranged, plan), 0 if arranged.holdout else None))
    held = fit.fold >= 0
    hits = arranged.target.credits(fit.probabilities[held], arranged.labels[held])
    seconds = one.seconds + time.perf_counter() - began
    return Judged(one, estimate(fit, arranged), hits, fit.name, seconds)
