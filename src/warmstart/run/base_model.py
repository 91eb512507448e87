"""Base models: read, chosen by a ranking, opened, and finished runs that are one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from warmstart.data.arrays import tensor_inputs
from warmstart.data.dataset import Collection
from warmstart.data.near_duplicates import with_near_duplicates
from warmstart.data.read import read
from warmstart.distributed import here
from warmstart.errors import ModelError, RunFolderError
from warmstart.events import Event, Steps, drain, note, tapped
from warmstart.features.batches import fit_inputs
from warmstart.features.extraction import ExtractedFeatures, ExtractedRows, extract_features
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.modalities.table import TABLE
from warmstart.modalities.tensor import TENSOR
from warmstart.network.architectures import published_config
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.finished_run import (
    FinishedRunModel,
    change,
    change_columns,
    rebuild_finished_run,
)
from warmstart.network.hub import timm_folder_of
from warmstart.network.inputs import InputOptions
from warmstart.network.load import PretrainedModel, is_encoder_base, load
from warmstart.network.model_folder import Arrays, Bundle, read_bundle
from warmstart.network.registry import SHIPPED, ModelListing
from warmstart.network.registry import models as available_models
from warmstart.network.table_network import describe, draw
from warmstart.network.weights import SUFFIXES
from warmstart.nouns import count
from warmstart.planning import rules
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.plan_file import output_words
from warmstart.planning.rules import probe_layers
from warmstart.records.comparison import Failed, RankedModel, Ranking
from warmstart.records.data import DataRecord, Example, TaskOption
from warmstart.records.findings import Finding
from warmstart.records.inputs import Kind, Preprocessing, TableInputs, pictures
from warmstart.records.network import BaseModelRecord, FeatureLayer, NetworkRecord
from warmstart.records.plan import Choice
from warmstart.records.run_folder import Clock, read_json
from warmstart.request import DEFAULT_BASE, Request, read_data
from warmstart.request import check as check_request
from warmstart.run import plan as run_plan
from warmstart.run.cleaning import drop_unreadable, near_duplicate_pairs
from warmstart.run.plan import check_wave_settings, choose_offload, input_options
from warmstart.solve.kernels import chunks
from warmstart.stats.metrics import MODEL_VARIANCE, Method
from warmstart.stats.paired import rank_models
from warmstart.tasks.registry import TASKS, none_if_default
from warmstart.training import dataset
from warmstart.training.dataset import LabelledRows
from warmstart.training.head_families import NOTHING, Inheritance, Prior, prior_of
from warmstart.training.linear_probe import fit_head
from warmstart.training.out_of_distribution import Neighbours, to_nearest_other, unpack
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
    inherited: Inheritance


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A base model, not compared yet. Shapes: hits (n,) of 0 and 1 over the held-out rows."""

    model: RankedModel
    hits: NDArray[np.float64]
    method: Method


def ranking(scored: Sequence[ScoredModel], labelled: LabelledRows, seed: int) -> Ranking:
    """Order, ties and choice. All base models were scored on the same rows."""
    n = len(scored[0].hits)
    held = slice(len(labelled.learn) - n, None)  # a hold-out stands last; folds hold out all
    # Of equals the lighter first.
    by_work = sorted(scored, key=lambda one: (one.model.macs, one.model.parameters))
    rng = np.random.default_rng([seed, 3])
    standing = rank_models(
        np.stack([one.hits for one in by_work]),
        labelled.groups()[held],
        rng,
        inflation=1.0 if labelled.holdout else MODEL_VARIANCE,
    )
    models = {}
    for index, gap in zip(standing.order, standing.to_best, strict=True):
        one = by_work[index].model
        models[index] = replace(
            one, difference=gap.value, difference_low=gap.low, difference_high=gap.high
        )
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
        task=none_if_default(labelled.target.task),
        method=scored[0].method,
    )


def _reason(
    choice: RankedModel,
    best: Sequence[RankedModel],
    models: Sequence[RankedModel],
    n: int,
    labelled: LabelledRows,
) -> str:
    interval = f"{100 * choice.value:.0f} % ({100 * choice.low:.0f} to {100 * choice.high:.0f})"
    score = labelled.target.words.score
    text = f"{score} {interval} on {labelled.nouns.count(n)} held out from training"
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


# ---- The data and the base model of a run.


def read_and_choose(
    request: Request, clock: Clock
) -> Steps[tuple[Request, Collection, PretrainedModel]]:
    """Check a request, read its plan file and its data, choose the base model."""
    check_request(request)
    request = run_plan.with_plan(request)
    collection = yield from read_data(request)
    yield data_note(collection)
    request, base = yield from choose_base(request, collection, clock)
    return request, collection, base


def data_note(collection: Collection) -> Event:
    """The number of examples and how they are split."""
    record = collection.record
    n = {s: sum(e.split == s for e in record.examples) for s in ("train", "holdout", "test")}
    n_read = count(len(record.examples), collection.wording.noun)
    text = f"{n_read}, {output_words(record.task, record.classes)}"
    if n["test"] or n["holdout"]:
        text += f", {n['train']:,} to train on"
    if n["holdout"]:
        text += f", {n['holdout']:,} in your hold-out set"
    if n["test"]:
        text += f", {n['test']:,} in the test set"
    return note("read", "Data", text)


def base_note(record: BaseModelRecord, surgery: str = "") -> Event:
    """The base model, and what was changed in it to fit the inputs."""
    text = f"{record.title}, {record.parameters / 1e6:.1f} M parameters"
    return note("read", "Base", f"{text}\n{surgery}" if surgery else text)


def _table_base(request: Request, collection: Collection) -> PretrainedModel:
    """The network for these columns: untrained, or a run's, its columns matched by name."""
    record, base, seed = collection.record, request.base, request.seed
    if request.arch is not None:
        raise ModelError(
            f"--arch {request.arch}: for rows of a table warmstart has a network of its own; "
            "leave it out."
        )
    inputs = TableInputs(columns=record.columns)
    if base == SCRATCH:
        n_outputs = max(len(record.classes), 1)  # of an output that is never used
        module = draw(inputs, n_outputs, seed)
        return PretrainedModel(module=module, record=describe(module, inputs, n_outputs))
    if not is_run(base):
        title = base if isinstance(base, str) else type(base).__name__
        raise ModelError(
            f"{title} takes no rows of a table; name a run on a table (--base runs/NAME), or omit "
            "--base: then a network is trained from scratch."
        )
    return change_columns(base_from_run(Path(base)), inputs)


def _tensor_base(request: Request, collection: Collection) -> PretrainedModel:
    """The user's own network, which gets the tensors unchanged."""
    if not isinstance(request.base, nn.Module):
        raise ModelError(
            f"{collection.wording.source} holds tensors, which a network of your own takes: give "
            "it with base=network."
        )
    inputs: Any = tensor_inputs(collection)  # for a module `load` only notes it down
    return load(request.base, preprocessing=inputs)


_OWN_BASES: dict[Kind, Callable[[Request, Collection], PretrainedModel]] = {
    TABLE.kind: _table_base,
    TENSOR.kind: _tensor_base,
}


def choose_base(
    request: Request, collection: Collection, clock: Clock
) -> Steps[tuple[Request, PretrainedModel]]:
    """Load the base model; under `--base auto` the one that a ranking of those on disk chooses.

    The request that comes back names it, with the reason. Raises: ModelError if the base model
    cannot be loaded, or none of those on disk can; RunFolderError for a folder that is no run,
    or shipped no model.
    """
    kind = collection.record.kind
    request = _with_default_base(request, kind)
    if kind in _OWN_BASES:
        return request, _OWN_BASES[kind](request, collection)
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
    names, _ = on_disk(MAX_PARAMETERS, kind)
    if len(names) < 2:
        only = names[0] if names else MODALITIES[kind].default_base
        why = "the only base model on this computer that --base auto considers"
        return Choice(value=only, because=why, source="rule", rule=MODALITIES[kind].default_base)
    ranked = yield from rank(collection, names, seed=request.seed, inputs=options)
    value, because = ranked.choice, ranked.because
    choice = Choice(
        value=value, because=because, source="measured", rule=MODALITIES[kind].default_base
    )
    yield note("features", "Chosen", f"{value}, {because}")
    return here().same(choice)


def _with_default_base(request: Request, kind: Kind) -> Request:
    default = MODALITIES[kind].default_base
    is_named = request.base is not DEFAULT_BASE and request.base != DEFAULT_BASE
    if is_named or default == DEFAULT_BASE or "base" in (request.given or ()):
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
    if not is_run(base):
        return load(base, arch=arch, preprocessing=preprocessing, inputs=inputs)
    run = base_from_run(Path(base), arch, preprocessing)
    return run if inputs is None else change(run, _with_own_scaling(run, inputs))


def _with_own_scaling(run: PretrainedModel, inputs: InputOptions) -> InputOptions:
    """A run on such bands keeps the ranges that scale them, one on sounds its spectrogram."""
    prep = run.record.preprocessing
    if not modality_of(prep).has_pixels:
        return inputs
    prep = pictures(prep)
    if inputs.sound is not None and prep.sound is not None:
        return replace(inputs, sound=prep.sound)
    is_same = len(prep.ranges) == (inputs.channels or len(prep.ranges))
    return replace(inputs, ranges=prep.ranges) if prep.ranges and is_same else inputs


def on_disk(
    most: float = math.inf, kind: Kind = IMAGE.kind
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base models to rank where none are named, smallest first, and the names left out.

    `most`: parameters that a base model may have; `kind`: the kind of data.
    """
    takes = MODALITIES[kind].networks[0]
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
    has_arch = at and arch.startswith(("timm:", "torchvision:"))
    return (file, arch) if has_arch else (name, None)


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
    on = MODALITIES[collection.record.kind].nouns.count(len(examples))
    n_passes = f"{len(names) * len(examples):,} forward passes at most"
    yield note("read", "Rank", f"{count(len(names), 'base model')} on {on}: {n_passes}")
    extracted: list[ExtractedModel] = []
    failed: list[Failed] = []  # texts: an exception would keep its network in memory
    for name in names:
        try:
            extracted.append((yield from _extract(name, training, extracted, inputs)))
        except (ModelError, RunFolderError) as error:
            failed.append(Failed(name=name, error=str(error)))
            yield note("read", "Failed", f"{name}: {error}")
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
    ranked = ranking(scored, labelled, seed)
    return replace(ranked, failed=tuple(failed), left_out=tuple(left_out))


def _extract(
    name: str,
    collection: Collection,
    before: Sequence[ExtractedModel],
    inputs: InputOptions | None,
) -> Steps[ExtractedModel]:
    """Load a base model and extract its features; near-duplicates are searched once."""
    file, arch = split_name(name)
    base = fit_inputs(open_base(file, arch, inputs=inputs), collection, inputs)
    yield base_note(base.record)
    began = time.perf_counter()
    speeds = [0.0]

    def see(event: Event) -> None:
        speeds.append(float(event.values.get("per_second", speeds[-1])))

    extracted = yield from tapped(extract_features(collection, base), see)
    examples = [e for e in collection.record.examples if e.id not in extracted.unreadable]
    read, network = extracted.reader(examples), extracted.network.record
    for layer in extracted.feature_layers:
        read(layer)  # raises where stored features are damaged
    inherited = yield from inherit(base, network, collection.record, extracted)
    if before:
        pairs = before[0].near_duplicates
    else:
        pairs = near_duplicate_pairs(drop_unreadable(collection, extracted.unreadable), extracted)
    return ExtractedModel(
        name=name,
        arch=arch,
        base=base.record,
        network=network,
        feature_layers=extracted.feature_layers,
        features=extracted.features,
        unreadable=extracted.unreadable,
        engine=extracted.engine,
        near_duplicates=pairs,
        seconds=time.perf_counter() - began,
        per_second=speeds[-1] or None,
        inherited=inherited,
    )


def _score(one: ExtractedModel, labelled: LabelledRows, seed: int) -> ScoredModel:
    """The head that `fit --budget fast` would fit, and its hits on the held-out rows."""
    began = time.perf_counter()
    request = Request(data=None, base=one.name, budget="fast", seed=seed)
    shapes = probe_layers(one.feature_layers)
    facts, names = NetworkFacts(record=one.network), one.inherited.names(tuple(shapes))
    plan = run_plan.make_plan(request, labelled.facts(), facts, names, one.engine)
    read = one.features.reader(labelled.learn)
    heads = dataset.heads(plan, shapes, read, len(labelled.learn), one.inherited.prior)
    problem = dataset.selection_problem(labelled, plan)
    fit = drain(fit_head(heads, problem, 0 if labelled.holdout else None))
    held = fit.fold >= 0
    hits = labelled.target.credits(fit.probabilities[held], labelled.labels[held])
    score = estimate(fit, labelled)
    model = RankedModel(
        name=one.name,
        title=one.base.title,
        arch=one.arch,
        value=score.value,
        low=score.low,
        high=score.high,
        seconds=round(one.seconds + time.perf_counter() - began, 3),
        parameters=one.base.parameters,
        macs=sum(block.macs for block in one.network.blocks),
        seconds_per_image=1 / one.per_second if one.per_second else None,
        cached=not one.features.n_extracted,
        head=fit.name,
        difference=0.0,
        difference_low=0.0,
        difference_high=0.0,
    )
    return ScoredModel(model, hits, score.method)


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
    request = Request(data=data, seed=seed)
    check_request(request)
    collection = yield from read(data, label=label, group=group, task=task, strict=strict)
    yield data_note(collection)
    kind = collection.record.kind
    names, left_out = (tuple(models), ()) if models else on_disk(kind=kind)
    if not names:
        many = MODALITIES[kind].nouns.many
        raise ModelError(
            f"no base model for {many} is on this computer; name some with --models, such as a run "
            f"on similar {many}."
        )
    options = input_options(request, collection)
    ranked = yield from rank(collection, names, seed=seed, left_out=left_out, inputs=options)
    return replace(ranked, kind=kind)


# ---- A finished run as base model: its name, its ancestors, its training data, its head as prior.

# Every run stores the content hashes of all that its model was ever trained on, including those of
# earlier runs: folders may be moved and renamed.
LEARNT = "learnt"  # an array in neighbours.safetensors: sorted numbers of content hashes
DIGITS = 16  # of a hash: two of a million images share them once in 40 million such sets
ROWS = 512  # examples that are compared at once
TYPICAL = 1000  # stored points, at most, that say how far apart images lie
# A picture is a near-duplicate below NEAR times the distance that the closest LOW of the stored
# ones have to their nearest. In that unit, runs from lite0 on photos of vehicles, cars, hand signs
# and textures: JPEG again at quality 97 at most 0.31, at 85 at most 0.41 (half of them below 0.28);
# other photos of the same classes at least 0.77, 1.01 and 0.87, and 0.62 for textures, but for
# one pair at 0.40 that is two crops of one photo.
NEAR = 0.4
LOW = 0.05

NEARLY = " (the same or nearly the same {})"
_LIBRARIES = ("timm:", "torchvision:")

Read = Callable[[Sequence[Example]], Callable[[FeatureLayer], NDArray[np.float32]]]


def hash_number(sha256: str) -> int:
    """The first 16 hexadecimal digits of a content hash, as a number."""
    return int(sha256[:DIGITS], 16)


@dataclass(frozen=True, slots=True)
class TrainingPast:
    """What a run was trained on: numbers of content hashes, and points in feature space.

    `is_whole`: whether nothing is missing in `hashes`. `points` are of the run's own training
    examples, at `feature_layers` of its network.
    """

    hashes: frozenset[int]
    is_whole: bool
    points: Neighbours
    feature_layers: tuple[FeatureLayer, ...]

    @property
    def inheritable(self) -> frozenset[int] | None:
        """The hashes that a following run stores too; None where some are missing."""
        return self.hashes if self.is_whole else None

    def holds(self, example: Example) -> bool:
        """Whether these very bytes were trained on."""
        return hash_number(example.sha256) in self.hashes

    def near_duplicates(self, examples: Sequence[Example], read: Read) -> list[Example]:
        """Those nearly the same picture as a training example; `read` by the run's network."""
        limit = near_duplicate_limit(self.points.points)
        near: list[Example] = []
        for start in range(0, len(examples) if limit > 0 else 0, ROWS):
            rows = examples[start : start + ROWS]
            points = [
                self.points.place(np.concatenate([chunk[t] for t in self.feature_layers], axis=1))
                for chunk in chunks(read(rows), self.feature_layers)
            ]
            distances, _ = self.points.nearest_to(np.concatenate(points), 1)
            near += [e for e, d in zip(rows, distances, strict=True) if d < limit]
        return near


def near_duplicate_limit(points: NDArray[np.float32]) -> float:
    """The distance below which two of the points (n, w) are of one picture."""
    if len(points) < 2:
        return 0.0
    rows = np.unique(np.linspace(0, len(points) - 1, TYPICAL).astype(int))
    return NEAR * float(np.quantile(to_nearest_other(points, rows), LOW))


def past_of(bundle: Bundle, names: Sequence[str]) -> TrainingPast:
    """The training data of a run: from its model, else from the folders of it and its ancestors."""
    stored, points = bundle.neighbours.get(LEARNT), unpack(bundle.neighbours)
    hashes, is_whole = {int(n) for n in stored} if stored is not None else set(), True
    for name in names if stored is None else ():
        try:
            examples = read_json(Path(name) / "data.json", DataRecord).examples
        except RunFolderError:  # gone, damaged or renamed
            is_whole = False
            continue
        hashes |= {hash_number(e.sha256) for e in examples if e.split != "test"}
    return TrainingPast(frozenset(hashes), is_whole, points, bundle.record.neighbour_layers)


def past_arrays(before: frozenset[int] | None, learn: Sequence[Example]) -> Arrays:
    """The arrays that a run on these examples stores; none where its own past is unknown."""
    if before is None:
        return {}
    numbers = sorted(before | {hash_number(example.sha256) for example in learn})
    return {LEARNT: np.array(numbers, dtype=np.uint64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBaseModel(FinishedRunModel):
    """A run as base model, with what it was trained on."""

    past: TrainingPast


def is_run(base: Any) -> bool:
    """Whether a base model is meant to be a run folder: a folder, or a path to nothing.

    >>> is_run("runs/photos"), is_run("lite0"), is_run("weights/best.pt")
    (True, False, False)
    """
    if not isinstance(base, (str, Path)):
        return False
    name, path = str(base), Path(base)
    if name in SHIPPED or is_encoder_base(name) or timm_folder_of(name) is not None:
        return False
    is_path = os.sep in name and not name.startswith(_LIBRARIES) and not path.is_file()
    return path.is_dir() or (is_path and path.suffix not in SUFFIXES)


def base_from_run(
    run: Path, arch: str | None = None, preprocessing: Preprocessing | None = None
) -> RunBaseModel:
    """A run's network, head and training data; `preprocessing` replaces the run's own.

    Raises: RunFolderError if it is no run folder, shipped no model, or is damaged; ModelError
    for a network of the user's own, or an `arch` besides.
    """
    if arch is not None:
        raise ModelError(f"--arch {arch}: {run} knows its own design; omit --arch.")
    bundle = read_bundle(run)
    record = bundle.record
    if record.arch.startswith("module:"):
        raise ModelError(
            f"{run} began from your own network ({record.arch.partition(':')[2]}); "
            "in Python pass that network as base."
        )
    described = _base_record(run, bundle)
    if preprocessing is not None:
        described = replace(described, preprocessing=preprocessing)
    try:
        rebuilt = rebuild_finished_run(
            described, bundle.tensors, record.feature_layers, record.ensemble
        )
        past = past_of(bundle, described.lineage[1:])  # the oldest is no run
        values = {f.name: getattr(rebuilt, f.name) for f in fields(rebuilt)}
        return RunBaseModel(**values, past=past)
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        why = str(error).partition("\n")[0].partition("; ")[0]
        raise RunFolderError(
            f"{run / 'model'} is damaged ({why}); restore it, or make the run again."
        ) from error


def _base_record(run: Path, bundle: Bundle) -> BaseModelRecord:
    record = bundle.record  # `runs/latest` goes by the run that it points to now
    name = str(run.parent / run.readlink()) if run.is_symlink() else str(run)
    design = next((s.title for s in SHIPPED.values() if s.arch == record.arch), None)
    design = design.partition(" (")[0] if design else record.arch.partition(":")[2]
    return BaseModelRecord(
        name=name,
        title=f"{run.resolve().name} ({design}, {len(record.classes)} classes)",
        arch=record.arch,
        sha256="",
        parameters=0,
        classes=len(record.classes),
        source=f"run {name}",
        preprocessing=record.preprocessing,
        recipe=record.recipe,
        labels=record.classes,
        lineage=(*(record.lineage or (record.base,)), name),
        added=record.added,
    )


def ancestors(base: BaseModelRecord) -> tuple[str, ...]:
    """Titles of what a base model was made from, the oldest first; a run goes by its name."""
    return tuple(SHIPPED[n].title if n in SHIPPED else n for n in base.lineage[:-1])


def base_model(base: BaseModelRecord) -> str | None:
    """Where the oldest ancestor of a base model is published, as the hub names it."""
    return published((*base.lineage, base.name)[0])


def published(base: str) -> str | None:
    """Where a base model of that name is published, as the hub names it; None for others.

    >>> published("lite0"), published("module:Net")
    ('timm/tf_efficientnet_lite0.in1k', None)
    """
    arch = SHIPPED[base].arch if base in SHIPPED else base
    if not arch.startswith("timm:"):
        return None
    hub_id = published_config(arch.partition(":")[2]).get("hf_hub_id")
    return str(hub_id) if hub_id else None


def inherit(
    base: PretrainedModel,
    network: NetworkRecord,
    data: DataRecord,
    extracted: ExtractedFeatures | None = None,
) -> Steps[Inheritance]:
    """The base model's head as prior for classes of the same name, if it saw none of these images.

    A head that was fitted to these labels is no prior. Blocks that were trained on such images,
    and such images in the test set, are data leakage, which is reported. With `extracted`,
    near-duplicates of such images count too; without, only identical bytes.
    """
    if not isinstance(base, RunBaseModel):
        return NOTHING
    record, prior = base.record, _prior(base, network, data)
    if prior is None and record.recipe is None:  # its blocks were trained on none of its images
        return NOTHING
    # Examples that it was trained on, by id: True for the same bytes, False for a near-duplicate.
    overlap = {example.id: True for example in data.examples if base.past.holds(example)}
    if extracted is not None and set(base.past.feature_layers) <= set(extracted.feature_layers):
        done = overlap.keys() | extracted.unreadable.keys()
        rest = [example for example in data.examples if example.id not in done]
        near = base.past.near_duplicates(rest, extracted.reader)
        overlap.update({example.id: False for example in near})
    why = _why_no_prior(base, data, overlap)
    if prior is not None and why is not None:
        prior = None
        yield note("features", "Head", f"the old head is not used: {why}")
    if prior is not None:
        n = f"{sum(prior.has_class):,} of {len(data.classes):,} classes"
        text = f"{n} have the name of a class in {record.name} and begin from its head"
        yield note("features", "Head", text)
    if record.recipe is None and prior is None:
        return NOTHING
    leak = _leakage(record, data, overlap) if overlap else None
    if leak is not None:
        yield note("features", "Leakage", leak.sentence)
    return Inheritance(prior, leak)


def _why_no_prior(base: RunBaseModel, data: DataRecord, overlap: Mapping[str, bool]) -> str | None:
    """Why the old head is no independent prior; None where it is."""
    learn = [e.id for e in data.examples if e.split != "test" and e.id in overlap]
    name = base.record.name
    if learn:
        nouns = MODALITIES[data.kind].nouns
        how = "" if all(overlap[id] for id in learn) else NEARLY.format(nouns.picture)
        return f"{name} was trained on {len(learn):,} of these {nouns.many}{how}"
    if not base.past.is_whole:
        return f"what {name} or a run before it was trained on can no longer be read"
    return None


def _prior(base: FinishedRunModel, network: NetworkRecord, data: DataRecord) -> Prior | None:
    if not TASKS[data.task].has_classes:  # the prior is matched by class name
        return None
    n_learn = sum(example.split != "test" for example in data.examples)
    layers = set(feature_layers(network))
    if n_learn > rules.DUAL_LIMIT or not set(base.feature_layers) <= layers:
        return None
    widths = [layer_width(network, layer) for layer in base.feature_layers]
    weight, bias = base.head.weight, base.head.bias
    if sum(widths) != weight.shape[1]:
        return None
    head = weight.double().numpy(), bias.double().numpy()
    return prior_of(base.feature_layers, widths, head, base.record.labels, data.classes)


def _leakage(base: BaseModelRecord, data: DataRecord, overlap: Mapping[str, bool]) -> Finding:
    leaked = [example for example in data.examples if example.id in overlap]
    tested, test = (sum(e.split == "test" for e in rows) for rows in (leaked, data.examples))
    trained, training = len(leaked) - tested, len(data.examples) - test
    counts = [(trained, training, "training"), (tested, test, "test")]
    nouns = MODALITIES[data.kind].nouns
    parts = [f"{n:,} of the {of:,} {what} {nouns.many}" for n, of, what in counts if n]
    how = "" if all(overlap.values()) else NEARLY.format(nouns.picture)
    trained_on = f"{base.name} was trained on {' and '.join(parts)}{how}"
    sentence = f"{trained_on}: the metrics of this run are too optimistic"
    return Finding(kind="leakage", sentence=sentence, items=tuple(e.id for e in leaked))
