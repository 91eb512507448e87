"""Which start suits the data: one look at each, the same folds for all, ties called ties."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from warmstart import events, request
from warmstart.data.dataset import Collection
from warmstart.data.labels import TaskOption
from warmstart.data.near_duplicates import with_near_duplicates
from warmstart.data.objects import tensor_inputs
from warmstart.data.read import read
from warmstart.distributed import here
from warmstart.errors import ModelError, RunFolderError
from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.events import Event, Steps, drain
from warmstart.features.batches import fitted
from warmstart.features.extract import ExtractedRows
from warmstart.features.extraction import ExtractedFeatures, extract_features
from warmstart.network.finished_run import change
from warmstart.network.inputs import InputOptions
from warmstart.network.load import PretrainedModel, load
from warmstart.network.registry import DEFAULTS, ModelListing
from warmstart.network.registry import models as available_models
from warmstart.network.table_network import describe, draw
from warmstart.network.table_surgery import change_columns
from warmstart.nouns import nouns_of
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.feature_layers import probe_layers
from warmstart.records.comparison import FailedModel, RankedModel, Ranking
from warmstart.records.inputs import Kind, Preprocessing, TableInputs
from warmstart.records.network import BaseModelRecord, FeatureLayer, NetworkRecord
from warmstart.records.plan import Choice
from warmstart.records.recording import Clock
from warmstart.records.summary import Estimate
from warmstart.request import DEFAULT_BASE, Request
from warmstart.run import lineage, notes
from warmstart.run import plan as run_plan
from warmstart.run.cleaning import drop_unreadable, near_duplicate_pairs
from warmstart.run.inputs import check_wave_settings, choose_offload, input_options
from warmstart.stats.paired import Difference, stand
from warmstart.training import dataset
from warmstart.training.dataset import LabelledRows
from warmstart.training.linear_probe import fit_head
from warmstart.training.prior import Inherited
from warmstart.training.score import estimate

# ---- Starts that were looked at, in order: which is best, which tie, which to choice and why.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedModel:
    """What stays of a start after its look: the network itself is released."""

    name: str
    arch: str | None
    base: BaseModelRecord
    network: NetworkRecord
    feature_layers: tuple[FeatureLayer, ...]
    features: ExtractedRows
    unreadable: Mapping[str, str]  # example ids, with the reason
    near_duplicates: tuple[tuple[str, str], ...]  # near copies, by id
    engine: Choice
    seconds: float
    per_second: float | None
    inherited: Inherited  # what a run passes on to a head here


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A start and its head. Shapes: hits (n,) of 0 and 1 over the rows held out."""

    looked: ExtractedModel
    estimate: Estimate
    hits: NDArray[np.float64]
    head: str
    seconds: float


def ranking(judged: Sequence[ScoredModel], labelled: LabelledRows, seed: int) -> Ranking:
    """Order, ties, and the start to choice. All starts were judged on the same rows."""
    n = len(judged[0].hits)
    held = slice(len(labelled.learn) - n, None)  # a hold-out stands last; folds hold out all
    light = sorted(judged, key=lambda one: _work(one.looked))  # of equals the lighter first
    rng = np.random.default_rng([seed, 3])
    standing = stand(
        np.stack([one.hits for one in light]),
        labelled.groups()[held],
        rng,
        inflation=1.0 if labelled.holdout else MODEL_VARIANCE,
    )
    models = {
        index: _record(light[index], gap)
        for index, gap in zip(standing.order, standing.to_best, strict=True)
    }
    groups = [[models[index] for index in group] for group in standing.ties]
    choice = min(groups[0], key=lambda base: (base.macs, base.parameters))
    labels = labelled.labels[held]
    return Ranking(
        models=tuple(models.values()),
        ties=tuple(tuple(s.name for s in group) for group in groups if len(group) > 1),
        choice=choice.name,
        because=_because(choice, groups[0], list(models.values()), n, labelled),
        n=n,
        majority=labelled.target.blind_score(labels),
        task=None if labelled.target.task == "classify" else labelled.target.task,
        method=judged[0].estimate.method,
    )


def _work(looked: ExtractedModel) -> tuple[int, int]:
    return sum(block.macs for block in looked.network.blocks), looked.base.parameters


def _record(judged: ScoredModel, gap: Difference) -> RankedModel:
    looked, claim = judged.looked, judged.estimate
    macs, parameters = _work(looked)
    return RankedModel(
        name=looked.name,
        title=looked.base.title,
        arch=looked.arch,
        value=claim.value,
        low=claim.low,
        high=claim.high,
        seconds=round(judged.seconds, 3),
        parameters=parameters,
        macs=macs,
        seconds_per_image=1 / looked.per_second if looked.per_second else None,
        cached=not looked.features.passed,
        head=judged.head,
        difference=gap.value,
        difference_low=gap.low,
        difference_high=gap.high,
    )


def _because(
    choice: RankedModel,
    best: Sequence[RankedModel],
    models: Sequence[RankedModel],
    n: int,
    labelled: LabelledRows,
) -> str:
    """Why this one: how often it is right, and what the others would bring."""
    shown = f"{100 * choice.value:.0f} % ({100 * choice.low:.0f} to {100 * choice.high:.0f})"
    text = labelled.target.words.ranked.format(shown=shown, n=labelled.nouns.count(n))
    others = [base for base in best if base is not choice]
    if others:
        verb = "ties" if len(others) == 1 else "tie"
        names = _list([_tied(other, choice) for other in others])
        return f"{text}; {names} {verb} with it: the difference could be chance"
    if len(models) == 1:
        return f"{text}; no other start was looked at"
    gap = models[1]
    low, middle, high = (
        100 * abs(d) for d in (gap.difference_high, gap.difference, gap.difference_low)
    )
    return f"{text}, {middle:.0f} points ({low:.0f} to {high:.0f}) above {gap.name}, the next"


def _tied(other: RankedModel, choice: RankedModel) -> str:
    ratio = other.macs / max(choice.macs, 1)
    return f"{other.name} ({100 * other.value:.0f} %, {ratio:.1f} times the work)"


def _list(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


# ---- What tables and tensors ask of a start: columns by name, a network that has learnt nothing.


SCRATCH = "scratch"  # the start for tables where none is named: a network that knows nothing


def table_base(base: Any, collection: Collection, seed: int) -> PretrainedModel:
    """The network for these columns: drawn anew, or a run's, its columns kept by name.

    Raises: ModelError for a start that takes something else, RunFolderError for a run that is
    none.
    """
    record = collection.record
    inputs = TableInputs(columns=record.columns)
    if base == SCRATCH:
        n_outputs = max(len(record.classes), 1)  # of an output that is never used
        module = draw(inputs, n_outputs, seed)
        return PretrainedModel(module=module, record=describe(module, inputs, n_outputs))
    if not lineage.is_run(base):
        shown = base if isinstance(base, str) else type(base).__name__
        raise ModelError(
            f"{shown} takes no rows of a table; name a run that learnt from one (--base "
            "runs/NAME), or leave --base away: then a network is trained from nothing."
        )
    return change_columns(lineage.base_from_run(Path(base)), inputs)


def tensor_base(base: Any, collection: Collection) -> PretrainedModel:
    """The user's own network, which is given the tensors as they are. Raises: ModelError."""
    if not isinstance(base, nn.Module):
        raise ModelError(
            f"{collection.wording.source} holds tensors, which a network of your own takes: give "
            "it with start=network."
        )
    inputs: Any = tensor_inputs(collection)  # for a module `load` only notes it down
    return load(base, preprocessing=inputs)


UNASKED = 6  # starts looked at, at most, where none are named
LARGE = 100_000_000  # parameters above which --base auto leaves a network alone


def choose_base(
    request: Request, collection: Collection, clock: Clock
) -> Steps[tuple[Request, PretrainedModel]]:
    """Load the start; under `--base auto` the one that a ranking of those on disk says to choice.

    The request that comes back names it, with the reason. Raises: ModelError if the start
    cannot be loaded, or none of those on disk can be looked at; RunFolderError for a run
    that is none, or shipped no model.
    """
    request = with_default_base(request, collection)
    kind = collection.record.kind
    if kind == "table":
        if request.arch is not None:
            raise ModelError(
                f"--arch {request.arch}: rows of a table are learnt by a network of warmstart's own; "
                "leave it away."
            )
        return request, table_base(request.base, collection, request.seed)
    if kind == "tensor":
        return request, tensor_base(request.base, collection)
    wish = input_options(request, collection)
    if not request.base_is_auto:
        request = replace(request, stream=here().same(choose_offload(request)))
        if request.stream is not None:
            wish = replace(wish, stream=str(request.stream.value))
        base = open_base(request.base, request.arch, request.preprocessing, wish)
        check_wave_settings(request, base.record)
        return request, fitted(base, collection, wish)
    clock.lap("read")
    choice = yield from _ranked(request, collection, wish)
    base = fitted(open_base(str(choice.value), inputs=wish), collection, wish)
    clock.lap("features")
    return replace(request, base=choice.value, base_choice=choice), base


def _ranked(request: Request, collection: Collection, wish: InputOptions) -> Steps[Choice]:
    """The start that a ranking of those on this computer says to choice, and why."""
    kind = collection.record.kind
    names, left_out = on_disk(LARGE, kind)
    if len(names) < 2:
        only = names[0] if names else DEFAULTS.get(kind, DEFAULT_BASE)
        why = "the only start on this computer that --base auto looks at"
        return Choice(value=only, because=why, source="rule", rule=DEFAULTS[kind])
    ranking = yield from rank(collection, names, seed=request.seed, left_out=left_out, inputs=wish)
    choice = here().same(
        Choice(
            value=ranking.choice,
            because=ranking.because,
            source="measured",
            rule=DEFAULTS[kind],
        )
    )
    yield events.note("features", "Chosen", f"{ranking.choice}, {ranking.because}")
    return choice


def with_default_base(request: Request, collection: Collection) -> Request:
    """The request with the usual start for this kind of data, where none was named."""
    usual = DEFAULTS.get(collection.record.kind, DEFAULT_BASE)
    if request.base is not DEFAULT_BASE and request.base != DEFAULT_BASE:
        return request
    if usual == DEFAULT_BASE or (request.given is not None and "base" in request.given):
        return request
    return replace(request, base=usual, given=request.typed)


def open_base(
    base: Any,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    inputs: InputOptions | None = None,
) -> PretrainedModel:
    """Load a start of any kind: a run's folder, or what `network.load` takes.

    Raises: ModelError if it cannot be loaded or changed for such inputs, RunFolderError for
    a run that is none.
    """
    if lineage.is_run(base):
        run = lineage.base_from_run(Path(base), arch, preprocessing)
        return run if inputs is None else change(run, _as_before(run, inputs))
    return load(base, arch=arch, preprocessing=preprocessing, inputs=inputs)


def _as_before(run: PretrainedModel, inputs: InputOptions) -> InputOptions:
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

    `most`: parameters that a start may have; `kind`: what it is to choice.
    """
    takes = "image" if kind == "audio" else kind
    found = sorted((s for s in available_models() if s.kind == takes), key=_parameters)
    names = tuple(base.name for base in found if _parameters(base) <= most)[:UNASKED]
    return names, tuple(base.name for base in found if base.name not in names)


def _parameters(listing: ModelListing) -> int:
    """As listed, or as many as 32-bit weights fill that file."""
    return listing.parameters or Path(listing.where).stat().st_size // 4


def split_name(name: str) -> tuple[str, str | None]:
    """What --base and --arch want, from `FILE@timm:NAME`.

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
    inputs: InputOptions | None = None,
) -> Steps[Ranking]:
    """Look once with each start, fit a head in closed form, compare on the same folds.

    The test part is not looked at. Images that some start could not read count for none.
    A start that fails is listed and the others go on.
    Raises: ModelError (the first) if all fail, DataError if too little can be read.
    """
    examples = tuple(e for e in collection.record.examples if e.split != "test")
    seen = replace(collection, record=replace(collection.record, examples=examples))
    names = tuple(dict.fromkeys(names))
    yield _forecast(len(names), len(examples), collection.record.kind)
    looked: list[ExtractedModel] = []
    failed: list[FailedModel] = []  # texts: an error kept would keep the network it came from
    for name in names:
        try:
            looked.append((yield from _look(name, seen, looked, inputs)))
        except (ModelError, RunFolderError) as error:
            failed.append(FailedModel(name=name, error=str(error)))
            yield events.note("read", "Failed", f"{name}: {error}")
    if not looked:
        raise ModelError(failed[0].error)
    lost = {id: why for one in looked for id, why in one.unreadable.items()}
    labelled = dataset.arrange(
        with_near_duplicates(drop_unreadable(seen, lost), looked[0].near_duplicates).record
    )
    judged: list[ScoredModel] = []
    yield Event(stage="head", kind="begin", of=len(looked))
    with threadpool_limits(limits=1, user_api="blas"):
        for one in looked:
            judged.append(_judge(one, labelled, seed))
            yield Event(stage="head", kind="step", step=len(judged), of=len(looked))
    found = ranking(judged, labelled, seed)
    return replace(found, failed=tuple(failed), left_out=tuple(left_out))


def _forecast(n_models: int, n_images: int, kind: Kind) -> Event:
    looks = "one start" if n_models == 1 else f"{n_models} starts"
    each = f"one look at {nouns_of(kind).count(n_images)} each"
    text = f"{looks}, {each}: {n_models * n_images:,} passes at most"
    return events.note("read", "Rank", text)


def _look(
    name: str, collection: Collection, before: Sequence[ExtractedModel], inputs: InputOptions | None
) -> Steps[ExtractedModel]:
    """Load, look, check the features, keep what a head needs; near copies are found once."""
    file, arch = split_name(name)
    base = fitted(open_base(file, arch, inputs=inputs), collection, inputs)
    yield notes.base(base.record)
    began = time.perf_counter()
    extracted, per_second = yield from _timed(extract_features(collection, base))
    examples = [e for e in collection.record.examples if e.id not in extracted.unreadable]
    read = extracted.reader(examples)
    for layer in extracted.feature_layers:
        read(layer)
    inherited = yield from lineage.inherit(
        base, extracted.network.record, collection.record, extracted
    )
    return ExtractedModel(
        name=name,
        arch=arch,
        base=base.record,
        network=extracted.network.record,
        feature_layers=extracted.feature_layers,
        features=extracted.features,
        unreadable=extracted.unreadable,
        engine=extracted.engine,
        near_duplicates=before[0].near_duplicates
        if before
        else near_duplicate_pairs(drop_unreadable(collection, extracted.unreadable), extracted),
        seconds=time.perf_counter() - began,
        per_second=per_second,
        inherited=inherited,
    )


def _timed(steps: Steps[ExtractedFeatures]) -> Steps[tuple[ExtractedFeatures, float | None]]:
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


def _judge(one: ExtractedModel, labelled: LabelledRows, seed: int) -> ScoredModel:
    """The head that `fit --budget fast` would give, and its hits on the rows held out."""
    began = time.perf_counter()
    request = Request(data=None, base=one.name, budget="fast", seed=seed)
    shapes = probe_layers(one.feature_layers)
    facts = NetworkFacts(record=one.network)
    names = one.inherited.names(tuple(shapes))
    plan = run_plan.make_plan(request, labelled.facts(), facts, names, one.engine)
    read = partial(one.features.read, labelled.learn)
    heads = dataset.heads(plan, shapes, read, len(labelled.learn), one.inherited.prior)
    fit = drain(fit_head(heads, dataset.pose(labelled, plan), 0 if labelled.holdout else None))
    held = fit.fold >= 0
    hits = labelled.target.credits(fit.probabilities[held], labelled.labels[held])
    seconds = one.seconds + time.perf_counter() - began
    return ScoredModel(one, estimate(fit, labelled), hits, fit.name, seconds)


# ---- `warmstart rank DATA`: which pretrained network suits this data, one look each.


def rank_base_models(
    data: Any,
    models: Sequence[str] = (),
    *,
    label: str | None = None,
    group: str | None = None,
    task: TaskOption = "auto",
    seed: int = 0,
    strict: bool = False,
) -> Steps[Ranking]:
    """Rank starts by the head that one look at each gives; nothing is trained or written.

    `starts` are names as --base takes them, or FILE@timm:NAME for a file of weights;
    without any, what lies on this computer (at most 6, the smallest).
    Raises: UsageError for a seed that is none, DataError if the data cannot be used,
    ModelError if no start can.
    """
    request.check(Request(data=data, seed=seed))
    collection = yield from read(data, label=label, group=group, task=task, strict=strict)
    yield notes.data(collection)
    kind = collection.record.kind
    names, left_out = (tuple(models), ()) if models else on_disk(kind=kind)
    wish = input_options(Request(data=data, seed=seed), collection)
    steps = rank(collection, names, seed=seed, left_out=left_out, inputs=wish)
    ranking = yield from steps
    return ranking if kind == "image" else replace(ranking, kind=kind)
