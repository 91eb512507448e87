"""The frozen layers are run once for each view of each image; what they give is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from warmstart import events
from warmstart.distributed import here
from warmstart.errors import TrainingError
from warmstart.events import Event, Steps, drain
from warmstart.features.batches import ahead, in_order
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_file import CacheFile
from warmstart.features.cache_key import (
    BATCH,
    MAIN,
    ActivationKey,
    EngineName,
    FeatureKey,
    main_key,
)
from warmstart.features.engine import Engine, EngineError, make_engine
from warmstart.features.engine_choice import version_between
from warmstart.features.extract import first_of_each
from warmstart.features.extraction import load_same
from warmstart.features.machine import n_threads
from warmstart.features.offload import Chunk, OffloadedBlock, belt_of, links, one_by_one
from warmstart.machine import default_root
from warmstart.modalities.preprocessing import decoder_name, encode
from warmstart.network.cut import FrozenPrefix, cached_layers
from warmstart.network.feature_layers import layer_width
from warmstart.planning.feature_layers import for_trained
from warmstart.planning.schedule import Schedule, schedule
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.training import dataset
from warmstart.training.augmentations import Augmentations, numbered_augmentation
from warmstart.training.dataset import TrainingDataset
from warmstart.training.shared import CachedBatches

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _PassWork:
    """What is to be passed: the scene, the plan's numbers, one shelf a view."""

    training_data: TrainingDataset
    chosen: Schedule
    views: Augmentations
    cache_files: tuple[CacheFile, ...]
    missing: tuple[frozenset[str], ...]  # by view number

    def only(self, number: int, content: str) -> _PassWork:
        """The same for one view of one image."""
        none = [frozenset[str]()] * len(self.cache_files)
        none[number] = frozenset({content})
        return replace(self, missing=tuple(none))

    def just(self, number: int) -> _PassWork:
        """The same for one view of all images."""
        lost = [m if n == number else frozenset[str]() for n, m in enumerate(self.missing)]
        return replace(self, missing=tuple(lost))

    @property
    def todo(self) -> list[Example]:
        """Images of which some view is missing, one a content."""
        lost = frozenset[str]().union(*self.missing)
        training_data = self.training_data
        return in_order(
            first_of_each(training_data.labelled.learn, [*lost]),
            training_data.collection,
            training_data.prep,
        )

    def views_of(self, examples: Sequence[Example]) -> list[Pixels]:
        """The missing views of some images, one array a view: decoded once."""
        training_data = self.training_data
        images = [
            encode(load_same(training_data.collection, example), example.id, training_data.prep)
            for example in examples
        ]
        pairs = [*zip(examples, images, strict=True)]
        return [
            np.stack(made) if made else np.empty((0, *images[0].shape), np.uint8)
            for number, lost in enumerate(self.missing)
            for made in [
                [
                    numbered_augmentation(i, e.sha256, number, self.views, self.chosen.seed)
                    for e, i in pairs
                    if e.sha256 in lost
                ]
            ]
        ]


def augmentations_of(chosen: Schedule) -> Augmentations:
    """How images vary under a plan."""
    return Augmentations(
        crop=chosen.crop,
        flip=chosen.flip,
        colour=chosen.color_jitter,
        shift=chosen.time_shift,
        mask=chosen.spec_augment,
    )


def cache_activations(training_data: TrainingDataset, plan: Plan) -> Steps[CachedBatches]:
    """Run the frozen parts for every view that the store lacks.

    Shelves stay open, and are not evicted, for as long as the source lives.
    Raises: TrainingError where half precision cannot hold an output.
    """
    chosen, network = schedule(plan), training_data.extracted.network
    wanted = _wanted(training_data, plan, chosen.split_at)
    store, engine = FeatureCache(default_root()), str(plan.training.engine.value)
    stream = str(plan.training.offload.value) if plan.training.offload else ""
    keys = [
        ActivationKey(extracted=base, cut=chosen.split_at, wanted=wanted, dtype=chosen.cache_dtype)
        for base in _bases(training_data, chosen, engine, stream)
    ]
    cache_files = tuple(store.cache_file(key) for key in keys)
    hashes = [example.sha256 for example in training_data.labelled.learn]
    lost = here().gathered(
        tuple(frozenset(cache_file.missing(hashes)) for cache_file in cache_files)
    )[0]
    missing = _share(lost, training_data)
    work = _PassWork(training_data, chosen, augmentations_of(chosen), cache_files, missing)
    prefix = FrozenPrefix(network, chosen.split_at, wanted)
    blocks = links(network, wanted, chosen.split_at, training_data.prep) if stream else ()
    if stream:
        _take_over(work, wanted)
        work = replace(work, missing=tuple(map(_absent, cache_files, missing)))
    if any(work.missing):
        yield from _carry(work, blocks, stream) if stream else _pass(work, engine, prefix)
    if here().size > 1 and any(lost):
        here().gathered(None)  # all have come to the end of their share
        for cache_file in cache_files:
            cache_file.refresh()
    shape = network.record.blocks[chosen.split_at - 1].shape_out
    ends = np.cumsum([int(np.prod(shape)), *(layer_width(network.record, t) for t in wanted)])
    columns = {
        layer: slice(int(a), int(b)) for layer, a, b in zip(wanted, ends, ends[1:], strict=False)
    }
    again = _Again(
        work, partial(one_by_one, blocks) if stream else partial(_made, work, engine, prefix)
    )
    is_ragged = network.record.blocks[chosen.split_at - 1].layout == "tokens"
    return CachedBatches(
        cache_files, tuple(hashes), chosen.split_at, shape, columns, again, is_ragged
    )


def _absent(cache_file: CacheFile, wanted: frozenset[str]) -> frozenset[str]:
    return frozenset(cache_file.absent(wanted))


def _take_over(work: _PassWork, wanted: Sequence[FeatureLayer]) -> None:
    """The plain view of a network that is streamed, of images whose look kept the output."""
    features, lost = work.training_data.extracted.features.cache_file, work.missing[0]
    if not isinstance(features.key, FeatureKey):
        return
    with FeatureCache(default_root()).cache_file(
        main_key(features.key, work.chosen.split_at)
    ) as kept:
        todo = first_of_each(work.training_data.labelled.learn, [*lost - {*kept.missing(lost)}])
        for at in range(0, len(todo), BATCH):
            contents = [example.sha256 for example in todo[at : at + BATCH]]
            feature_layers = [features.read(contents, layer.name) for layer in wanted]
            _keep(work, 0, contents, [kept.read(contents, MAIN), *feature_layers])


def _share(
    missing: tuple[frozenset[str], ...], training_data: TrainingDataset
) -> tuple[frozenset[str], ...]:
    """What of the missing views, by number, this process is to make: all views of an image."""
    todo = first_of_each(training_data.labelled.learn, [*frozenset[str]().union(*missing)])
    own = frozenset(example.sha256 for example in here().share(todo))
    return tuple(lost & own for lost in missing)


def _wanted(training_data: TrainingDataset, plan: Plan, cut: int) -> tuple[FeatureLayer, ...]:
    """Every tap below the cut that some head of the plan, or one fitted later, may listen to."""
    names = [str(name) for name in dataset.as_tuple(plan.head.candidates)]
    heads = (*dataset.probe_layers_of(names), for_trained(training_data.probe_layers))
    feature_layers = {layer for name in heads for layer in training_data.probe_layers[name]}
    if training_data.prior is not None:
        feature_layers |= set(training_data.prior.weights)
    return cached_layers(sorted(feature_layers, key=lambda layer: (layer.block, layer.pool)), cut)


def _bases(
    training_data: TrainingDataset, chosen: Schedule, engine: str, stream: str
) -> Iterator[FeatureKey]:
    """The members of the keys of view 0, the plain image, and of views 1, 2, …"""
    base, name = training_data.base, cast(EngineName, engine)
    if base is None:
        raise ValueError("stored activations need the record of their start")
    plain = FeatureKey(
        network=base.sha256,
        arch=base.arch,
        blocks=tuple(block.name for block in training_data.extracted.network.record.blocks),
        feature_layers=(),
        preprocessing=training_data.prep,
        decoder=decoder_name(training_data.prep),
        engine=name,
        engine_version=version_between(name, stream),
        threads=n_threads(),
    )
    yield plain
    for number in range(1, chosen.augmentations + 1 if chosen.is_varied else 1):
        yield replace(
            plain, view=f"{augmentations_of(chosen).policy} seed={chosen.seed} view={number}"
        )


def _pass(work: _PassWork, engine: str, prefix: FrozenPrefix) -> Steps[None]:
    todo = work.todo
    begin: dict[str, float | int | str] = {"title": "Views", "missing": len(todo)}
    yield Event(stage="fine_tune", kind="begin", of=len(todo), values=begin)
    run = yield from _open(engine, prefix, work)
    began, done = time.perf_counter(), 0
    chunks = [todo[at : at + BATCH] for at in range(0, len(todo), BATCH)]
    for chunk, made in zip(chunks, ahead(work.views_of, chunks, workers=1), strict=True):
        for number, images in enumerate(made):
            if len(images):
                lost = work.missing[number]
                contents = [e.sha256 for e in chunk if e.sha256 in lost]
                _keep(work, number, contents, run(images))
        done += len(chunk)
        speed = done / max(time.perf_counter() - began, 1e-9)
        values: dict[str, float | int | str] = {"title": "Views", "per_second": round(speed, 1)}
        yield Event(stage="fine_tune", kind="step", step=done, of=len(todo), values=values)


def _open(engine: str, prefix: FrozenPrefix, work: _PassWork) -> Steps[Engine]:
    """The plan's engine for the frozen parts, or torch where it cannot run them."""
    try:
        return _make(engine, prefix, work)
    except EngineError as error:
        yield events.note("fine_tune", "Engine", f"{error}; torch is used instead")
        return _make("torch", prefix, work)


def _make(engine: str, prefix: FrozenPrefix, work: _PassWork) -> Engine:
    return make_engine(cast(EngineName, engine), prefix, work.training_data.prep, n_threads())


def _made(work: _PassWork, engine: str, prefix: FrozenPrefix) -> Engine:
    return drain(_open(engine, prefix, work))


def _carry(work: _PassWork, blocks: Sequence[OffloadedBlock], stream: str) -> Steps[None]:
    """The same of a network that is streamed: part by part, one view after the other."""
    store, learn = FeatureCache(default_root()), work.training_data.labelled.learn
    for number, lost in enumerate(work.missing):
        todo = first_of_each(learn, [*lost])
        if not todo:
            continue
        begin: dict[str, float | int | str] = {"title": f"View {number}", "missing": len(todo)}
        yield Event(stage="fine_tune", kind="begin", of=len(todo), values=begin)
        cache_file, alone = work.cache_files[number], work.just(number)
        made = belt_of(store, cache_file.key, (e.sha256 for e in learn), blocks, stream)
        block_queue = replace(made, keeps_last=True, stage="fine_tune")
        with block_queue.held():
            block_queue.open([e.sha256 for e in todo])
            yield from block_queue.run(len(todo), partial(_fed, alone, number, todo))
            for contents, rows in block_queue.rows():
                _keep(work, number, contents, rows)
            block_queue.clear()


def _fed(work: _PassWork, number: int, todo: Sequence[Example]) -> Iterator[Chunk]:
    """One view of some images, in batches."""
    chunks = [todo[at : at + BATCH] for at in range(0, len(todo), BATCH)]
    for chunk, made in zip(chunks, ahead(work.views_of, chunks, workers=1), strict=True):
        yield [example.sha256 for example in chunk], made[number]


class _Again:
    """Passes images again of which a stored row was damaged since training began."""

    def __init__(self, work: _PassWork, make: Callable[[], Engine]) -> None:
        self._work, self._make = work, make
        self._run: Engine | None = None
        self._lock = threading.Lock()  # rows are asked for by several threads

    def __call__(self, number: int, content: str) -> NDArray[np.floating]:
        """The row of a view of an image, (width,)."""
        work = self._work.only(number, content)
        with self._lock:
            run = self._run = self._run or self._make()
            made = run(work.views_of(work.todo)[number])
        return np.concatenate([values.ravel() for values in made]).astype(work.chosen.cache_dtype)


def _keep(
    work: _PassWork, number: int, contents: Sequence[str], made: list[NDArray[np.float32]]
) -> None:
    flat, store = [values.reshape(len(contents), -1) for values in made], work.chosen.cache_dtype
    most = float(np.max([np.abs(values).max(initial=0.0) for values in flat]))  # NaN, if any is
    if not np.isfinite(most):
        raise TrainingError(
            f"the frozen layers give {most} for view {number} of some images; use milder views "
            "(--set training.crop=0.8), or --strategy head."
        )
    if most > np.finfo(store).max:
        raise TrainingError(
            f"the frozen layers give {most:.3g}, which {store} cannot hold; use "
            "--set training.cache_dtype=float32."
        )
    work.cache_files[number].append(contents, flat)
