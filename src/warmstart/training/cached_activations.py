"""The outputs of the frozen blocks, computed once per augmentation of each image, and cached."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from warmstart.distributed import here
from warmstart.errors import TrainingError
from warmstart.events import Event, Steps, drain, note
from warmstart.features import cache_key
from warmstart.features.batches import prefetch, sort_by_length
from warmstart.features.cache import CacheFile, FeatureCache
from warmstart.features.engine import Engine, EngineError, make_engine
from warmstart.features.engine_choice import offload_version
from warmstart.features.extraction import first_of_each, load_unchanged
from warmstart.features.machine import n_threads
from warmstart.features.offload import (
    Chunk,
    OffloadedBlock,
    blockwise_engine,
    offloaded_blocks,
    queue_for,
)
from warmstart.machine import default_root
from warmstart.modalities.registry import modality_of
from warmstart.network.cut import FrozenPrefix, cached_layers
from warmstart.network.feature_layers import layer_width
from warmstart.planning.rules import for_trained
from warmstart.planning.schedule import Schedule, schedule
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.training import dataset
from warmstart.training.augmentations import augmentations_of, numbered_augmentation
from warmstart.training.batches import CachedBatches
from warmstart.training.dataset import TrainingDataset

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows to compute: data, schedule, one cache file per augmentation."""

    training_data: TrainingDataset
    schedule: Schedule
    cache_files: tuple[CacheFile, ...]
    missing: tuple[frozenset[str], ...]  # contents, by augmentation number

    def only(self, number: int, contents: frozenset[str]) -> _Task:
        missing = [frozenset[str]()] * len(self.cache_files)
        missing[number] = contents
        return replace(self, missing=tuple(missing))

    @property
    def examples(self) -> list[Example]:
        """Images of which some augmentation is missing, one per content."""
        data = self.training_data
        examples = _with_some_missing(data, self.missing)
        return sort_by_length(examples, data.collection, data.prep)

    def batches(
        self, examples: Sequence[Example]
    ) -> Iterator[tuple[Sequence[Example], list[Pixels]]]:
        """Images, a batch at a time, with their missing augmentations as `augment` returns them."""
        batches = [
            examples[at : at + cache_key.BATCH] for at in range(0, len(examples), cache_key.BATCH)
        ]
        yield from zip(batches, prefetch(self.augment, batches, workers=1), strict=True)

    def augment(self, examples: Sequence[Example]) -> list[Pixels]:
        """The missing augmentations of some images, one array per number; each is decoded once."""
        data, seed = self.training_data, self.schedule.seed
        augmentations = augmentations_of(self.schedule)
        images = [
            modality_of(data.prep).encode(load_unchanged(data.collection, e), e.id, data.prep)
            for e in examples
        ]
        contents = [example.sha256 for example in examples]
        arrays = []
        for number, missing in enumerate(self.missing):
            augmented = [
                numbered_augmentation(image, content, number, augmentations, seed)
                for image, content in zip(images, contents, strict=True)
                if content in missing
            ]
            empty = np.empty((0, *images[0].shape), np.uint8)
            arrays.append(np.stack(augmented) if augmented else empty)
        return arrays


def cache_activations(training_data: TrainingDataset, plan: Plan) -> Steps[CachedBatches]:
    """Run the frozen blocks for every augmentation that the cache lacks.

    Cache files are not evicted while the source lives. Raises: TrainingError where half precision
    cannot hold an output.
    """
    settings, network = schedule(plan), training_data.extracted.network
    cut, layers = settings.split_at, _layers_below(training_data, plan, settings.split_at)
    cache, engine = FeatureCache(default_root()), str(plan.training.engine.value)
    offload = str(plan.training.offload.value) if plan.training.offload else ""
    keys = [
        cache_key.ActivationKey(extraction=key, cut=cut, layers=layers, dtype=settings.cache_dtype)
        for key in _feature_keys(training_data, settings, engine, offload)
    ]
    cache_files = tuple(cache.cache_file(key) for key in keys)
    hashes = [example.sha256 for example in training_data.labelled.learn]
    missing = tuple(frozenset(cache_file.missing(hashes)) for cache_file in cache_files)
    missing = here().gather(missing)[0]
    # All augmentations of an image go to one process.
    share = {e.sha256 for e in here().share(_with_some_missing(training_data, missing))}
    local = tuple(contents & share for contents in missing)
    task = _Task(training_data, settings, cache_files, local)
    prefix = FrozenPrefix(network, cut, layers)
    blocks: Sequence[OffloadedBlock] = ()
    if offload:
        blocks = offloaded_blocks(network, layers, cut, training_data.prep)
        _copy_from_extraction(task, layers)
        absent = (frozenset(f.absent(m)) for f, m in zip(cache_files, task.missing, strict=True))
        task = replace(task, missing=tuple(absent))
    if any(task.missing) and offload:
        yield from _run_offloaded(task, blocks, offload)
    elif any(task.missing):
        yield from _run(task, engine, prefix)
    if here().size > 1 and any(missing):
        here().gather(None)  # wait until every process has computed its share
        for cache_file in cache_files:
            cache_file.refresh()
    engines: list[Engine] = []  # opened for the first damaged row
    lock = threading.Lock()  # several threads read rows

    def recompute(number: int, content: str) -> NDArray[np.floating]:
        damaged = task.only(number, frozenset({content}))
        with lock:
            if not engines:
                blockwise = blockwise_engine(blocks) if offload else None
                engines.append(blockwise or drain(_open(engine, prefix, task)))
            outputs = engines[0](damaged.augment(damaged.examples)[number])
        row = np.concatenate([values.ravel() for values in outputs])
        return row.astype(settings.cache_dtype)

    block = network.record.blocks[cut - 1]
    shape, is_ragged = block.shape_out, block.layout == "tokens"
    columns, end = {}, math.prod(shape)
    for layer in layers:
        columns[layer] = slice(end, end + layer_width(network.record, layer))
        end = columns[layer].stop
    return CachedBatches(cache_files, tuple(hashes), cut, shape, columns, recompute, is_ragged)


def _copy_from_extraction(task: _Task, layers: Sequence[FeatureLayer]) -> None:
    """Copy unaugmented rows of an offloaded network that feature extraction has cached."""
    features, missing = task.training_data.extracted.features.cache_file, task.missing[0]
    if not isinstance(features.key, cache_key.FeatureKey):
        return
    key = cache_key.main_key(features.key, task.schedule.split_at)
    with FeatureCache(default_root()).cache_file(key) as outputs:
        cached = [*missing - {*outputs.missing(missing)}]
        examples = first_of_each(task.training_data.labelled.learn, cached)
        for at in range(0, len(examples), cache_key.BATCH):
            contents = [example.sha256 for example in examples[at : at + cache_key.BATCH]]
            rows = [features.read(contents, layer.name) for layer in layers]
            _append(task, 0, contents, [outputs.read(contents, cache_key.MAIN), *rows])


def _with_some_missing(
    training_data: TrainingDataset, missing: Sequence[frozenset[str]]
) -> list[Example]:
    return first_of_each(training_data.labelled.learn, [*frozenset[str]().union(*missing)])


def _layers_below(training_data: TrainingDataset, plan: Plan, cut: int) -> tuple[FeatureLayer, ...]:
    """Every feature layer below the cut that some head of the plan, or a refitted one, may use."""
    layers_of = training_data.probe_layers
    names = [str(name) for name in dataset.as_tuple(plan.head.candidates)]
    heads = (*dataset.probe_layers_of(names), for_trained(layers_of))
    layers = {layer for name in heads for layer in layers_of[name]}
    if training_data.prior is not None:
        layers |= set(training_data.prior.weights)
    return cached_layers(sorted(layers, key=lambda layer: (layer.block, layer.pool)), cut)


def _feature_keys(
    training_data: TrainingDataset, schedule: Schedule, engine: str, offload: str
) -> Iterator[cache_key.FeatureKey]:
    """The cache keys of the unaugmented image, and of augmentations 1, 2, …"""
    base, name = training_data.base, cast(cache_key.EngineName, engine)
    if base is None:
        raise ValueError("cached activations need the record of their base model")
    plain = cache_key.FeatureKey(
        network=base.sha256,
        arch=base.arch,
        blocks=tuple(block.name for block in training_data.extracted.network.record.blocks),
        feature_layers=(),
        preprocessing=training_data.prep,
        decoder=modality_of(training_data.prep).decoder(training_data.prep),
        engine=name,
        engine_version=offload_version(name, offload),
        threads=n_threads(),
    )
    yield plain
    policy = augmentations_of(schedule).policy
    for number in range(1, schedule.augmentations + 1 if schedule.is_varied else 1):
        yield replace(plain, augmentation=f"{policy} seed={schedule.seed} view={number}")


def _run(task: _Task, engine: str, prefix: FrozenPrefix) -> Steps[None]:
    examples, title = task.examples, "Augmentations"
    yield _begin(title, len(examples))
    run = yield from _open(engine, prefix, task)
    start, done = time.perf_counter(), 0
    for batch, arrays in task.batches(examples):
        for number, images in enumerate(arrays):
            if len(images):
                contents = [e.sha256 for e in batch if e.sha256 in task.missing[number]]
                _append(task, number, contents, run(images))
        done += len(batch)
        speed = done / max(time.perf_counter() - start, 1e-9)
        values: dict[str, float | int | str] = {"title": title, "per_second": round(speed, 1)}
        yield Event(stage="fine_tune", kind="step", step=done, of=len(examples), values=values)


def _begin(title: str, n: int) -> Event:
    return Event(stage="fine_tune", kind="begin", of=n, values={"title": title, "missing": n})


def _open(engine: str, prefix: FrozenPrefix, task: _Task) -> Steps[Engine]:
    """The plan's engine for the frozen blocks, or torch where it cannot run them."""
    prep = task.training_data.prep
    try:
        return make_engine(cast(cache_key.EngineName, engine), prefix, prep, n_threads())
    except EngineError as error:
        yield note("fine_tune", "Engine", f"{error}; torch is used instead")
        return make_engine("torch", prefix, prep, n_threads())


def _run_offloaded(task: _Task, blocks: Sequence[OffloadedBlock], offload: str) -> Steps[None]:
    """Run an offloaded network block by block, one augmentation after the other."""
    cache, learn = FeatureCache(default_root()), task.training_data.labelled.learn
    for number, missing in enumerate(task.missing):
        examples = first_of_each(learn, [*missing])
        if not examples:
            continue
        yield _begin(f"Augmentation {number}", len(examples))
        cache_file = task.cache_files[number]
        queue = queue_for(cache, cache_file.key, (e.sha256 for e in learn), blocks, offload)
        queue = replace(queue, keeps_last=True, stage="fine_tune")
        chunks = partial(_chunks, task.only(number, missing), number, examples)
        with queue.lock():
            queue.open([e.sha256 for e in examples])
            yield from queue.run(len(examples), chunks)
            for contents, rows in queue.rows():
                _append(task, number, contents, rows)
            queue.clear()


def _chunks(task: _Task, number: int, examples: Sequence[Example]) -> Iterator[Chunk]:
    for batch, arrays in task.batches(examples):
        yield [example.sha256 for example in batch], arrays[number]


def _append(
    task: _Task, number: int, contents: Sequence[str], outputs: list[NDArray[np.float32]]
) -> None:
    """Write rows to the cache. Raises: TrainingError where its dtype cannot hold them."""
    rows = [values.reshape(len(contents), -1) for values in outputs]
    dtype = task.schedule.cache_dtype
    largest = float(np.max([np.abs(values).max(initial=0.0) for values in rows]))  # NaN, if any is
    if not np.isfinite(largest):
        raise TrainingError(
            f"the frozen blocks return {largest} for augmentation {number} of some images; use "
            "weaker augmentations (--set training.crop=0.8), or --strategy head."
        )
    if largest > np.finfo(dtype).max:
        raise TrainingError(
            f"the frozen blocks return {largest:.3g}, which {dtype} cannot hold; use "
            "--set training.cache_dtype=float32."
        )
    task.cache_files[number].append(contents, rows)
