"""Batches of a training: images, decoded once, or cached outputs of the frozen blocks."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.errors import DataError, TrainingError
from warmstart.events import Event, Steps, drain, note
from warmstart.features import cache_key
from warmstart.features.batches import prefetch, sort_by_length, to_tensor
from warmstart.features.cache import CacheFile, FeatureCache
from warmstart.features.engine import Engine, EngineError, make_engine
from warmstart.features.engine_choice import offload_version
from warmstart.features.extraction import Prefetch, first_of_each, load_unchanged
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
from warmstart.network.text_encoders import longest
from warmstart.planning.rules import for_trained
from warmstart.planning.schedule import Schedule
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs as Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.solve.ridge import Rows
from warmstart.training import dataset
from warmstart.training.augmentations import augmentations_of, numbered_augmentation
from warmstart.training.dataset import LabelledRows, TrainingDataset

Inputs = tuple[Tensor, ...]
Encoded = NDArray[Any]  # an encoded example
IN_MEMORY = 64_000_000  # bytes of pixels beyond which they go into a file


class PixelFile:
    """Decoded images (n, H, W, C) in memory, or in a temporary file beyond `IN_MEMORY` bytes.

    The file is removed with the object; rows may be read from several threads at once.
    Raises: OSError with the folder's name where the disk is full.
    """

    def __init__(
        self, images: Iterable[Encoded], shape: tuple[int, ...], dtype: str = "uint8"
    ) -> None:
        self.shape, self._dtype = shape, np.dtype(dtype)
        n_bytes = math.prod(shape) * self._dtype.itemsize
        self._file: int | None = None
        if n_bytes > IN_MEMORY:
            self._file = _spill(images, n_bytes)
            weakref.finalize(self, os.close, self._file)
        else:
            self._pixels: Encoded = np.empty(shape, dtype)
            for row, image in enumerate(images):
                self._pixels[row] = image

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, rows: NDArray[np.int64]) -> Encoded:
        """The images of these rows, in a new array. Shapes: (b,) to (b, H, W, C)."""
        if self._file is None:
            return self._pixels[rows]
        images = np.empty((len(rows), *self.shape[1:]), self._dtype)
        size = math.prod(self.shape[1:]) * self._dtype.itemsize
        for place, row in enumerate(rows.tolist()):
            # Not a memory map: its touched pages would count as this process's memory.
            payload = os.pread(self._file, size, row * size)
            images[place] = np.frombuffer(payload, self._dtype).reshape(self.shape[1:])
        return images


def _spill(images: Iterable[Encoded], n_bytes: int) -> int:
    """Write images into an unnamed file; returns its descriptor."""
    folder = folder_with_space(n_bytes)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # fails on a full disk before anything is decoded
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            for image in images:
                file.write(np.ascontiguousarray(image).data)
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def folder_with_space(n_bytes: int) -> Path:
    """The folder for temporary files, or the cache folder if it has more space or is on disk."""
    folders = (Path(tempfile.gettempdir()), default_root())
    large = [folder for folder in folders if _free_bytes(folder) >= n_bytes]
    on_disk = [folder for folder in large if not _is_in_memory(folder)]
    return (*on_disk, *large, *folders)[0]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _is_in_memory(folder: Path) -> bool:
    """Whether files there take up memory (tmpfs), as far as the system tells."""
    device = folder.stat().st_dev
    number = f" {os.major(device)}:{os.minor(device)} "
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(number in mount and " - tmpfs " in mount for mount in mounts)


def read_pixels(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing
) -> PixelFile:
    """All images, decoded, in the order of the examples. Shapes: (n, H, W, C) uint8.

    Raises: DataError or MissingExample for an unreadable image; OSError where the disk is full.
    """
    shape = (len(examples), *prep.shape)
    return PixelFile(decode_images(collection, examples, prep), shape, prep.dtype)


def decode_images(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing
) -> Iterator[Encoded]:
    """Yield images, (H, W, C) uint8, decoded ahead. Raises: DataError or MissingExample."""

    def decode(example: Example) -> Encoded:
        return modality_of(prep).encode(load_unchanged(collection, example), example.id, prep)

    prefetch = Prefetch(examples, decode, threads=n_threads())
    try:
        for _, image in prefetch:
            if isinstance(image, DataError):
                raise image
            yield image
    finally:
        prefetch.close()


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Inputs of the blocks above `cut`, which have been run already, and labels of chosen rows.

    `batch` takes rows (b,), the number of the augmentation of each (b,), 0 for none, and the head's
    feature layers. It returns main (b, …), then one (b, d) for each of these layers below the cut.
    """

    cut: int
    batch: Callable[[Rows, Rows, Sequence[FeatureLayer]], Inputs]
    labelled: LabelledRows

    def plain(self, rows: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Inputs without augmentation."""
        return self.batch(rows, np.zeros(len(rows), np.int64), feature_layers)

    def targets(self, rows: Rows) -> Tensor:
        """Class numbers (b,), or the truth of another task's loss."""
        return torch.from_numpy(self.labelled.labels[rows])


def live_batches(
    collection: Collection, labelled: LabelledRows, prep: Preprocessing, schedule: Schedule
) -> BatchSource:
    """Images, decoded once, for the whole network. Raises: as `read_pixels`."""
    pixels = read_pixels(collection, labelled.learn, prep)
    contents = [example.sha256 for example in labelled.learn]
    augmentations, seed = augmentations_of(schedule), schedule.seed

    def batch(rows: Rows, numbers: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        images = pixels.rows(rows)
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if number:
                images[place] = numbered_augmentation(
                    images[place], contents[row], int(number), augmentations, seed
                )
        return (to_tensor(images, prep),)

    return BatchSource(0, batch, labelled)


def cached_batches(
    cache_files: Sequence[CacheFile],
    labelled: LabelledRows,
    cut: int,
    shape: tuple[int, ...],
    columns: Mapping[FeatureLayer, slice],
    recompute: Callable[[int, str], NDArray[np.floating]],
    is_ragged: bool = False,
) -> BatchSource:
    """Cached outputs of the frozen blocks, one row per image and augmentation.

    A row of `cache_files[number]` holds the output of block `cut`, of `shape`, then `columns`;
    `recompute` returns the row of a number and a content where that is damaged. Rows of tokens
    (`is_ragged`) are padded: a batch is cut to its longest.
    """
    contents = [example.sha256 for example in labelled.learn]

    def fetch(number: int, contents: Sequence[str]) -> NDArray[np.floating]:
        try:
            return cache_files[number].fetch(contents)
        except KeyError:
            if len(contents) == 1:
                return recompute(number, contents[0])[None]
            return np.concatenate([fetch(number, [content]) for content in contents])

    def batch(rows: Rows, numbers: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        joined = np.empty((0, 0), np.float32)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            values = fetch(int(number), [contents[row] for row in rows[places]])
            if not joined.size:
                joined = np.empty((len(rows), values.shape[1]), np.float32)
            joined[places] = values
        tensors = torch.from_numpy(joined)
        main = tensors[:, : math.prod(shape)].reshape(len(rows), *shape)
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if is_ragged:
            main = main[:, : longest(main)].contiguous()
        layers = cached_layers(feature_layers, cut)
        return (main, *(tensors[:, columns[layer]].contiguous() for layer in layers))

    return BatchSource(cut, batch, labelled)


# ---- Outputs of the frozen blocks, computed once per augmentation and cached.

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


def open_source(
    training_data: TrainingDataset, plan: Plan, schedule: Schedule
) -> Steps[BatchSource]:
    """Cached outputs of the frozen blocks, or images for the whole network."""
    if schedule.split_at:
        return (yield from cache_activations(training_data, plan, schedule))
    return live_batches(
        training_data.collection, training_data.labelled, training_data.prep, schedule
    )


def cache_activations(
    training_data: TrainingDataset, plan: Plan, settings: Schedule
) -> Steps[BatchSource]:
    """Run the frozen blocks for every augmentation that the cache lacks.

    Cache files are not evicted while the source lives. Raises: TrainingError where half precision
    cannot hold an output.
    """
    network = training_data.extracted.network
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
    labelled = training_data.labelled
    return cached_batches(cache_files, labelled, cut, shape, columns, recompute, is_ragged)


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
