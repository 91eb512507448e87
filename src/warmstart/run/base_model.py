"""Choose and rank base models: one feature extraction each, equal folds, ties called ties."""

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
from warmstart.features.batches import fit_inputs
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
from warmstart.stats.paired import Difference, rank_models
from warmstart.training import dataset
from warmstart.training.dataset import LabelledRows
from warmstart.training.linear_probe import fit_head
from warmstart.training.prior import Inheritance
from warmstart.training.score import estimate

SCRATCH = "scratch"  # the base model for tables where none is named: an untrained network
MAX_MODELS = 6  # base models that are ranked, at most, where none are named
MAX_PARAMETERS = 100_000_000  # above which --base auto leaves a network out

# ---- Ranking: the best, its ties, the choice and the reason.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedModel:
    """The results of feature extraction with a base model; the network itself is released."""

    name: str
    arch: str | None
    base: BaseModelRecord
    network: NetworkRecord
    feature_layers: tuple[FeatureLayer, ...]
    features: ExtractedRows
    unreadable: Mapping[str, str]  # example ids, with the reason
    near_duplicates: tuple[tuple[str, str], ...]  # pairs of ids
    engine: Choice
    seconds: float
    per_second: float | None
    inherited: Inheritance  # what a run passes on to a head here

    @property
    def work(self) -> tuple[int, int]:
        """MACs per example and parameters."""
        return sum(block.macs for block in self.network.blocks), self.base.parameters


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A base model and its head. Shapes: hits (n,) of 0 and 1 over the held-out rows."""

    extracted: ExtractedModel
    estimate: Estimate
    hits: NDArray[np.float64]
    head: str
    seconds: float


def ranking(scored: Sequence[ScoredModel], labelled: LabelledRows, seed: int) -> Ranking:
    """Order, ties and choice. All base models were scored on the same rows."""
    n = len(scored[0].hits)
    held = slice(len(labelled.learn) - n, None)  # a hold-out stands last; folds hold out all
    by_work = sorted(scored, key=lambda one: one.extracted.work)  # of equals the lighter first
    rng = np.random.default_rng([seed, 3])
    standing = rank_models(
        np.stack([one.hits for one in by_work]),
        labelled.groups()[held],
        rng,
        inflation=1.0 if labelled.holdout else MODEL_VARIANCE,
    )
    models = {
        index: _ranked(by_work[index], gap)
        for index, gap in zip(standing.order, standing.to_best, strict=True)
    }
    groups = [[models[index] for index in group] for group in standing.ties]
    choice = min(groups[0], key=lambda base: (base.macs, base.parameters))
    labels = labelled.labels[held]
    return Ranking(
        models=tuple(models.values()),
        ties=tuple(tuple(s.name for s in group) for group in groups if len(group) > 1),
        choice=choice.name,
        because=_reason(choice, groups[0], list(models.values()), n, labelled),
        n=n,
        majority=labelled.target.blind_score(labels),
        task=None if labelled.target.task == "classify" else labelled.target.task,
        method=scored[0].estimate.method,
    )


def _ranked(scored: ScoredModel, gap: Difference) -> RankedModel:
    extracted, estimated = scored.extracted, scored.estimate
    macs, parameters = extracted.work
    return RankedModel(
        name=extracted.name,
        title=extracted.base.title,
        arch=extracted.arch,
        value=estimated.value,
        low=estimated.low,
        high=estimated.high,
        seconds=round(scored.seconds, 3),
        parameters=parameters,
        macs=macs,
        seconds_per_image=1 / extracted.per_second if extracted.per_second else None,
        cached=not extracted.features.n_extracted,
        head=scored.head,
        difference=gap.value,
        difference_low=gap.low,
        difference_high=gap.high,
    )


def _reason(
    choice: RankedModel,
    best: Sequence[RankedModel],
    models: Sequence[RankedModel],
    n: int,
    labelled: LabelledRows,
) -> str:
    shown = f"{100 * choice.value:.0f} % ({100 * choice.low:.0f} to {100 * choice.high:.0f})"
    text = labelled.target.words.ranked.format(shown=shown, n=labelled.nouns.count(n))
    tied = [
        f"{m.name} ({100 * m.value:.0f} %, {m.macs / max(choice.macs, 1):.1f} times the work)"
        for m in best
        if m is not choice
    ]
    if tied:
        verb = "ties" if len(tied) == 1 else "tie"
        names = " and ".join(filter(None, (", ".join(tied[:-1]), tied[-1])))
        return f"{text}; {names} {verb} with it: the difference could be chance"
    if len(models) == 1:
        return f"{text}; no other base model was tried"
    gap = models[1]
    low, middle, high = (
        100 * abs(d) for d in (gap.difference_high, gap.difference, gap.difference_low)
    )
    return f"{text}, {middle:.0f} points ({low:.0f} to {high:.0f}) above {gap.name}, the next"


# ---- The base model of a run.


def table_base(base: Any, collection: Collection, seed: int) -> PretrainedModel:
    """The network for these columns: untrained, or a run's, its columns matched by name.

    Raises: ModelError for a base model with other inputs, RunFolderError for a folder that is no
    run.
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
            f"{shown} takes no rows of a table; name a run on a table (--base runs/NAME), or leave "
            "--base away: then a network is trained from scratch."
        )
    return change_columns(lineage.base_from_run(Path(base)), inputs)


def tensor_base(base: Any, collection: Collection) -> PretrainedModel:
    """The user's own network, which gets the tensors unchanged. Raises: ModelError."""
    if not isinstance(base, nn.Module):
        raise ModelError(
            f"{collection.wording.source} holds tensors, which a network of your own takes: give "
            "it with base=network."
        )
    inputs: Any = tensor_inputs(collection)  # for a module `load` only notes it down
    return load(base, preprocessing=inputs)


def choose_base(
    request: Request, collection: Collection, clock: Clock
) -> Steps[tuple[Request, PretrainedModel]]:
    """Load the base model; under `--base auto` the one that a ranking of those on disk chooses.

    The request that comes back names it, with the reason. Raises: ModelError if the base model
    cannot be loaded, or none of those on disk can; RunFolderError for a folder that is no run,
    or shipped no model.
    """
    request = with_default_base(request, collection)
    kind = collection.record.kind
    if kind == "table":
        if request.arch is not None:
            raise ModelError(
                f"--arch {request.arch}: for rows of a table warmstart has a network of its own; "
                "leave it out."
            )
        return request, table_base(request.base, collection, request.seed)
    if kind == "tensor":
        return request, tensor_base(request.base, collection)
    options = input_options(request, collection)
    if not request.base_is_auto:
        request = replace(request, stream=here().same(choose_offload(request)))
        if request.stream is not None:
            options = replace(options, stream=str(request.stream.value))
        base = open_base(request.base, request.arch, request.preprocessing, options)
        check_wave_settings(request, base.record)
        return request, fit_inputs(base, collection, options)
    clock.lap("read")
    choice = yield from _choose_by_ranking(request, collection, options)
    base = fit_inputs(open_base(str(choice.value), inputs=options), collection, options)
    clock.lap("features")
    return replace(request, base=choice.value, base_choice=choice), base


def _choose_by_ranking(
    request: Request, collection: Collection, options: InputOptions
) -> Steps[Choice]:
    kind = collection.record.kind
    names, left_out = on_disk(MAX_PARAMETERS, kind)
    if len(names) < 2:
        only = names[0] if names else DEFAULTS.get(kind, DEFAULT_BASE)
        why = "the only base model on this computer that --base auto considers"
        return Choice(value=only, because=why, source="rule", rule=DEFAULTS[kind])
    result = yield from rank(
        collection, names, seed=request.seed, left_out=left_out, inputs=options
    )
    value, because = result.choice, result.because
    choice = Choice(value=value, because=because, source="measured", rule=DEFAULTS[kind])
    choice = here().same(choice)
    yield events.note("features", "Chosen", f"{value}, {because}")
    return choice


def with_default_base(request: Request, collection: Collection) -> Request:
    """The request with the default base model for this kind of data, where none was named."""
    default = DEFAULTS.get(collection.record.kind, DEFAULT_BASE)
    if request.base is not DEFAULT_BASE and request.base != DEFAULT_BASE:
        return request
    if default == DEFAULT_BASE or (request.given is not None and "base" in request.given):
        return request
    return replace(request, base=default, given=request.typed)


def open_base(
    base: Any,
    arch: str | None = None,
    preprocessing: Preprocessing | None = None,
    inputs: InputOptions | None = None,
) -> PretrainedModel:
    """Load a base model of any kind: a run's folder, or what `network.load` takes.

    Raises: ModelError if it cannot be loaded or changed for such inputs, RunFolderError for a
    folder that is no run.
    """
    if not lineage.is_run(base):
        return load(base, arch=arch, preprocessing=preprocessing, inputs=inputs)
    run = lineage.base_from_run(Path(base), arch, preprocessing)
    return run if inputs is None else change(run, _with_own_scaling(run, inputs))


def _with_own_scaling(run: PretrainedModel, inputs: InputOptions) -> InputOptions:
    """A run on such bands keeps the ranges that scale them, one on sounds its spectrogram."""
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
    """Base models to rank where none are named, smallest first, and the names left out.

    `most`: parameters that a base model may have; `kind`: the kind of data.
    """
    takes = "image" if kind == "audio" else kind
    listed = sorted((s for s in available_models() if s.kind == takes), key=_count_parameters)
    names = tuple(base.name for base in listed if _count_parameters(base) <= most)[:MAX_MODELS]
    return names, tuple(base.name for base in listed if base.name not in names)


def _count_parameters(listing: ModelListing) -> int:
    """As listed, or as many as 32-bit weights fill that file."""
    return listing.parameters or Path(listing.where).stat().st_size // 4


def split_name(name: str) -> tuple[str, str | None]:
    """The values of --base and --arch in `FILE@timm:NAME`.

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
    """Extract features with each base model, fit linear probes, compare them on equal folds.

    The test set is not read. Images that some base model could not read count for none.
    A base model that fails is listed and the others go on.
    Raises: ModelError (the first) if all fail, DataError if too little can be read.
    """
    examples = tuple(e for e in collection.record.examples if e.split != "test")
    training = replace(collection, record=replace(collection.record, examples=examples))
    names = tuple(dict.fromkeys(names))
    models = "1 base model" if len(names) == 1 else f"{len(names)} base models"
    counted = nouns_of(collection.record.kind).count(len(examples))
    text = f"{models} on {counted}: {len(names) * len(examples):,} forward passes at most"
    yield events.note("read", "Rank", text)
    extracted: list[ExtractedModel] = []
    failed: list[FailedModel] = []  # texts: an exception would keep its network in memory
    for name in names:
        try:
            extracted.append((yield from _extract(name, training, extracted, inputs)))
        except (ModelError, RunFolderError) as error:
            failed.append(FailedModel(name=name, error=str(error)))
            yield events.note("read", "Failed", f"{name}: {error}")
    if not extracted:
        raise ModelError(failed[0].error)
    lost = {id: why for one in extracted for id, why in one.unreadable.items()}
    readable = drop_unreadable(training, lost)
    labelled = dataset.arrange(with_near_duplicates(readable, extracted[0].near_duplicates).record)
    scored: list[ScoredModel] = []
    yield Event(stage="head", kind="begin", of=len(extracted))
    with threadpool_limits(limits=1, user_api="blas"):
        for one in extracted:
            scored.append(_score(one, labelled, seed))
            yield Event(stage="head", kind="step", step=len(scored), of=len(extracted))
    result = ranking(scored, labelled, seed)
    return replace(result, failed=tuple(failed), left_out=tuple(left_out))


def _extract(
    name: str,
    collection: Collection,
    before: Sequence[ExtractedModel],
    inputs: InputOptions | None,
) -> Steps[ExtractedModel]:
    """Load a base model and extract its features; near-duplicates are searched once."""
    file, arch = split_name(name)
    base = fit_inputs(open_base(file, arch, inputs=inputs), collection, inputs)
    yield notes.base(base.record)
    began = time.perf_counter()
    per_second = None
    with closing(extract_features(collection, base)) as steps:
        while True:
            try:
                event = next(steps)
            except StopIteration as stop:
                extracted: ExtractedFeatures = stop.value
                break
            per_second = float(event.values.get("per_second", per_second or 0)) or None
            yield event
    examples = [e for e in collection.record.examples if e.id not in extracted.unreadable]
    read = extracted.reader(examples)
    for layer in extracted.feature_layers:
        read(layer)  # raises where stored features are damaged
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


def _score(one: ExtractedModel, labelled: LabelledRows, seed: int) -> ScoredModel:
    """The head that `fit --budget fast` would fit, and its hits on the held-out rows."""
    began = time.perf_counter()
    request = Request(data=None, base=one.name, budget="fast", seed=seed)
    shapes = probe_layers(one.feature_layers)
    facts = NetworkFacts(record=one.network)
    names = one.inherited.names(tuple(shapes))
    plan = run_plan.make_plan(request, labelled.facts(), facts, names, one.engine)
    read = partial(one.features.read, labelled.learn)
    heads = dataset.heads(plan, shapes, read, len(labelled.learn), one.inherited.prior)
    fit = drain(
        fit_head(heads, dataset.selection_problem(labelled, plan), 0 if labelled.holdout else None)
    )
    held = fit.fold >= 0
    hits = labelled.target.credits(fit.probabilities[held], labelled.labels[held])
    seconds = one.seconds + time.perf_counter() - began
    return ScoredModel(one, estimate(fit, labelled), hits, fit.name, seconds)


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
    """Rank base models by their linear probes (`warmstart rank`); nothing is trained or written.

    `models` are names as --base takes them, or FILE@timm:NAME for a file of weights;
    without any, those on this computer (at most 6, the smallest).
    Raises: UsageError for an invalid seed, DataError if the data cannot be used,
    ModelError if no base model can.
    """
    request.check(Request(data=data, seed=seed))
    collection = yield from read(data, label=label, group=group, task=task, strict=strict)
    yield notes.data(collection)
    kind = collection.record.kind
    names, left_out = (tuple(models), ()) if models else on_disk(kind=kind)
    options = input_options(Request(data=data, seed=seed), collection)
    result = yield from rank(collection, names, seed=seed, left_out=left_out, inputs=options)
    return result if kind == "image" else replace(result, kind=kind)
