"""Feature extraction: every missing example is decoded and run through the network once.

Decoding runs in threads beside the network, with a bounded number of images in flight;
batches are made in the order of the examples, so results do not depend on timing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from warmstart.data import thumbnails
from warmstart.data.dataset import Collection
from warmstart.data.thumbnails import FileFigures, Thumbnails, concatenate
from warmstart.distributed import here
from warmstart.errors import DataError, ProcessError, UsageError
from warmstart.events import Event, Steps
from warmstart.features.batches import sort_by_length
from warmstart.features.cache import CacheFile, FeatureCache, StoredFeatures
from warmstart.features.cache_key import BATCH, THUMBNAIL, EngineName, ThumbnailKey, main_key
from warmstart.features.engine import Pixels
from warmstart.features.engine_choice import ChosenEngine, EngineSurvey, open_engine, survey_engines
from warmstart.features.machine import keep_freed_memory, n_threads
from warmstart.features.offload import OffloadedBlock, offloaded_blocks, queue_for
from warmstart.machine import default_root
from warmstart.modalities.image import draft_side
from warmstart.modalities.registry import modality_of
from warmstart.network.load import PretrainedModel
from warmstart.network.partition import Network
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Choice


class MissingExample(DataError):
    """The bytes are gone or have changed; this says nothing about their content."""


Floats = NDArray[np.float32]
Decode = Callable[[Example], Pixels]
Engine = Callable[[Pixels], list[Floats]]

AHEAD = 4 * BATCH  # images decoded or being decoded beyond the current batch
FLUSH_S = 2.0  # computed rows are written to disk at least this often
FLUSH_BYTES = 16_000_000  # or when they are as many: a fast machine computes GB in that time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedRows:
    """The result of an extraction. Rows are read from the file of the feature cache.

    `n_extracted` and `n_decoded` count the images of this extraction alone; `unreadable` maps
    example ids to reasons.
    """

    cache_file: CacheFile
    unreadable: Mapping[str, str]
    n_extracted: int
    n_decoded: int

    def read(self, examples: Sequence[Example], layer: FeatureLayer) -> Floats:
        """The features of one layer, in the order of the examples. Shapes: (n, d)."""
        return self.cache_file.read([example.sha256 for example in examples], layer.name)

    def reader(self, examples: Sequence[Example]) -> StoredFeatures:
        """From a layer to the features of these examples."""
        return StoredFeatures(self.cache_file, tuple(examples))


class Prefetch:
    """Decodes examples in order, a bounded number ahead, from the moment it is created."""

    def __init__(self, examples: Sequence[Example], decode: Decode, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._pending = iter(examples)
        self._decode = decode
        self._in_flight: deque[tuple[Example, Future[Pixels]]] = deque()
        self._top_up()

    def _top_up(self) -> None:
        for example in islice(self._pending, AHEAD - len(self._in_flight)):
            self._in_flight.append((example, self._pool.submit(self._decode, example)))

    def __iter__(self) -> Iterator[tuple[Example, Pixels | DataError]]:
        """Each example with its pixels, or with the error of decoding."""
        while self._in_flight:
            example, future = self._in_flight.popleft()
            try:
                pixels: Pixels | DataError = future.result()
            except DataError as error:
                pixels = error
            self._top_up()
            yield example, pixels

    def close(self) -> None:
        """Stop: drop what has not begun, wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def first_of_each(examples: Sequence[Example], hashes: Sequence[str]) -> list[Example]:
    """The examples with these hashes, one per hash, in the order of the examples."""
    pending, firsts = set(hashes), []
    for example in examples:
        if example.sha256 in pending:
            pending.discard(example.sha256)
            firsts.append(example)
    return firsts


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSource:
    """Where rows come from and go to; `engine` is None if nothing is missing."""

    cache_file: CacheFile
    feature_cache: FeatureCache
    decoder: str
    todo: Sequence[Example]
    decode: Decode
    engine: Engine | None


class Extraction:
    """Decodes the examples of a source in batches, counts them and notes what is unreadable."""

    def __init__(self, source: ExampleSource) -> None:
        self._source = source
        self._quarantined = source.feature_cache.quarantined(source.decoder)
        self._unreadable: dict[str, str] = {}  # sha256 to reason
        self._missing: dict[str, str] = {}  # the same, but not the fault of the bytes
        self.n_extracted = self.n_decoded = 0
        self._began = time.perf_counter()

    def begin(self, examples: Sequence[Example]) -> Event:
        n = len(self._source.todo)
        values: dict[str, float | int | str] = {"total": len(examples), "missing": n}
        return Event(stage="features", kind="begin", of=n, values=values)

    def batches(self) -> Generator[tuple[list[str], Pixels], None, None]:
        """Hashes and their pixels, `BATCH` at a time."""
        prefetch = Prefetch(self._source.todo, self._source.decode)
        hashes: list[str] = []
        batch: list[Pixels] = []
        self._began = time.perf_counter()
        try:
            for example, pixels in prefetch:
                self.n_decoded += 1
                if isinstance(pixels, DataError):
                    is_missing = isinstance(pixels, MissingExample)
                    reasons = self._missing if is_missing else self._unreadable
                    reasons[example.sha256] = str(pixels)
                    continue
                hashes.append(example.sha256)
                batch.append(pixels)
                if len(batch) == BATCH:
                    self.n_extracted += BATCH
                    yield hashes, np.stack(batch)
                    hashes, batch = [], []
            if batch:
                self.n_extracted += len(batch)
                yield hashes, np.stack(batch)
        finally:
            prefetch.close()

    def step(self) -> Event:
        speed = self.n_extracted / max(time.perf_counter() - self._began, 1e-9)
        values: dict[str, float | int | str] = {"per_second": round(speed, 1)}
        of = len(self._source.todo)
        return Event(stage="features", kind="step", step=self.n_decoded, of=of, values=values)

    def quarantine(self) -> None:
        """Remember in the cache what cannot be decoded."""
        for sha256, reason in self._unreadable.items():
            self._source.feature_cache.quarantine(self._source.decoder, sha256, reason)

    def finish(self, examples: Sequence[Example]) -> Steps[ExtractedRows]:
        reasons = self._quarantined | self._unreadable | self._missing
        unreadable = {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}
        values: dict[str, float | int | str] = {
            "passed": self.n_extracted,
            "decoded": self.n_decoded,
            "unreadable": len(unreadable),
        }
        n = len(self._source.todo)
        yield Event(stage="features", kind="end", step=n, of=n, values=values)
        return ExtractedRows(
            cache_file=self._source.cache_file,
            unreadable=unreadable,
            n_extracted=self.n_extracted,
            n_decoded=self.n_decoded,
        )


def extract(examples: Sequence[Example], source: ExampleSource) -> Steps[ExtractedRows]:
    """Decode the missing examples, run them through the network, and cache their features."""
    extraction = Extraction(source)
    yield extraction.begin(examples)
    if source.engine is not None:
        pending: list[tuple[list[str], list[Floats]]] = []  # hashes and rows of each batch
        n_bytes, flushed = 0, time.perf_counter()
        try:
            with closing(extraction.batches()) as batches:
                for hashes, pixels in batches:
                    pending.append((hashes, source.engine(pixels)))
                    n_bytes += sum(rows.nbytes for rows in pending[-1][1])
                    yield extraction.step()
                    if n_bytes > FLUSH_BYTES or time.perf_counter() - flushed > FLUSH_S:
                        _flush(source.cache_file, pending)
                        n_bytes, flushed = 0, time.perf_counter()
        finally:
            try:
                _flush(source.cache_file, pending)
            finally:
                extraction.quarantine()
    return (yield from extraction.finish(examples))


def _flush(cache_file: CacheFile, pending: list[tuple[list[str], list[Floats]]]) -> None:
    batches = [*pending]
    pending.clear()  # first: a full disk must fail only once
    if batches:
        layers = zip(*(rows for _, rows in batches), strict=True)
        hashes = [sha256 for hashes, _ in batches for sha256 in hashes]
        cache_file.append(hashes, [np.concatenate(layer) for layer in layers])


def extract_streamed(
    examples: Sequence[Example],
    source: ExampleSource,
    blocks: Sequence[OffloadedBlock],
    dtype: str,
    saved: tuple[int, CacheFile] | None = None,
) -> Steps[ExtractedRows]:
    """`extract`, block by block over all missing examples, which are decoded once.

    The output of block `saved[0]` goes to the file `saved[1]` as well. After an interruption it
    continues with the first unfinished block.
    Raises: TrainingError if half precision cannot hold an output; OSError if the disk is full.
    """
    extraction, todo = Extraction(source), source.todo
    yield extraction.begin(examples)
    if todo:
        queue = queue_for(
            source.feature_cache,
            source.cache_file.key,
            (e.sha256 for e in examples),
            blocks,
            dtype,
            0 if saved is None else saved[0],
        )
        with queue.lock():
            queue.open([e.sha256 for e in todo])
            try:
                yield from queue.run(len(todo), extraction.batches)
            finally:
                extraction.quarantine()
            if saved is not None:
                for contents, rows in queue.saved_rows():
                    saved[1].append(contents, [rows])
            for contents, columns in queue.rows():
                source.cache_file.append(contents, columns)
            queue.clear()
    return (yield from extraction.finish(examples))


# ---- Thumbnails in the feature cache, made when an image is decoded.
#
# They depend on no network, so that one decoding serves every base model.

ThumbnailRows = NDArray[np.uint8]
_FLUSH = 512  # thumbnails in memory before they are written


class ThumbnailWriter:
    """Thumbnails by content hash; `put` may be called from several threads."""

    def __init__(self, feature_cache: FeatureCache, key: ThumbnailKey) -> None:
        self._cache_file = feature_cache.cache_file(key)
        self._lock = threading.Lock()
        self._new: dict[str, ThumbnailRows] = {}

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """The examples without a thumbnail, each once, in the given order."""
        with self._lock:
            return [h for h in self._cache_file.missing(hashes) if h not in self._new]

    def put(self, sha256: str, thumbnail: ThumbnailRows) -> None:
        """Add the thumbnail (WIDTH,) of one example; it is on disk after a while, or `flush`."""
        with self._lock:
            self._new[sha256] = thumbnail
            if len(self._new) >= _FLUSH:
                self._write()

    def flush(self) -> None:
        """Write what is still in memory. Raises: OSError if the disk is full."""
        with self._lock:
            self._write()

    def refresh(self) -> None:
        self._cache_file.refresh()

    def read(self, hashes: Sequence[str]) -> ThumbnailRows:
        """Thumbnails in the given order. Shapes: (len(hashes), WIDTH).

        Raises: KeyError for an example without one.
        """
        self.flush()
        rows: ThumbnailRows = self._cache_file.read(hashes, THUMBNAIL)
        return rows

    def _write(self) -> None:
        new, self._new = self._new, {}
        if new:
            self._cache_file.append([*new], [np.stack([*new.values()])])


# ---- The features of a data set: the engine chosen, what is missing extracted.

TRIES = 3  # extractions of what is missing before the disk is blamed


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """The features of a data set, and how they were extracted."""

    network: Network
    feature_layers: tuple[FeatureLayer, ...]
    features: ExtractedRows
    thumbnail_writer: ThumbnailWriter
    unreadable: Mapping[str, str]  # example ids that could not be read, with the reason
    engine: Choice
    threads: int
    has_thumbnails: bool = True  # False for rows and texts

    def thumbnails(self, examples: Sequence[Example]) -> Thumbnails:
        """The thumbnails of these examples."""
        return thumbnails.unpack(self.thumbnail_writer.read([e.sha256 for e in examples]))

    def reader(self, examples: Sequence[Example]) -> StoredFeatures:
        """A function from a feature layer to the features of these examples, (n, d).

        Raises (the function): ModelError if a feature is not a finite number.
        """
        return self.features.reader(examples)


def extract_features(
    collection: Collection,
    base: PretrainedModel,
    engine: Choice | None = None,
    on_engine: Callable[[Choice], None] = lambda choice: None,
    saved_block: int = 0,
) -> Steps[ExtractedFeatures]:
    """Partition the network, choose the engine, extract what is missing.

    `engine` is the choice of the user, of the plan, or of the run that is resumed. `on_engine`
    is called with the choice before extraction. If the network is streamed, the output of
    `saved_block` (0: none) stays in the cache. What the cache loses meanwhile is extracted again.
    Raises: PlanError if the user's engine is not installed, or cannot run this network;
    UsageError if the cache keeps losing rows.
    """
    examples = collection.record.examples
    with keep_freed_memory():
        for _ in range(TRIES):
            extracted = yield from _extract_once(collection, base, engine, on_engine, saved_block)
            readable = [e.sha256 for e in examples if e.id not in extracted.unreadable]
            lost = extracted.features.cache_file.missing(readable)
            if not lost and extracted.has_thumbnails:
                lost = extracted.thumbnail_writer.missing(readable)
            if not here().gather(lost)[0]:
                return extracted
    raise UsageError(
        f"the feature cache {default_root()} loses what is written to it; set WARMSTART_CACHE to a "
        "folder on another disk"
    )


def _extract_once(
    collection: Collection,
    base: PretrainedModel,
    engine: Choice | None,
    on_engine: Callable[[Choice], None],
    saved_block: int,
) -> Steps[ExtractedFeatures]:
    prep, survey = base.record.preprocessing, survey_engines(collection, base)
    examples = collection.record.examples
    chosen, todo = yield from _open(survey, engine)
    on_engine(chosen.choice)
    modality = modality_of(prep)
    has_thumbnails = modality.has_thumbnails
    draft = draft_side(pictures(prep)) if modality.has_pixels else 0
    key = ThumbnailKey(decoder=survey.decoder, draft=draft, version=thumbnails.VERSION)
    writer = ThumbnailWriter(survey.feature_cache, key)
    without_thumbnail = set(writer.missing(survey.readable)) if has_thumbnails else set()
    decode_one = _decoder(collection, prep, writer, without_thumbnail)
    source = ExampleSource(
        cache_file=survey.feature_cache.cache_file(chosen.key),
        feature_cache=survey.feature_cache,
        decoder=survey.decoder,
        todo=sort_by_length(first_of_each(examples, todo), collection, prep),
        decode=decode_one,
        engine=chosen.engine,
    )
    try:
        if base.stream:
            n_blocks, saved = len(survey.network.blocks), None
            blocks = offloaded_blocks(survey.network, survey.feature_layers, n_blocks, prep)
            if saved_block:
                file = survey.feature_cache.cache_file(main_key(chosen.key, saved_block))
                saved = saved_block, file
            features = yield from extract_streamed(examples, source, blocks, base.stream, saved)
        else:
            features = yield from extract(examples, source)
        writer.flush()
        features = _gather(features, examples)
        writer.refresh()
        readable = [e for e in examples if has_thumbnails and e.id not in features.unreadable]
        unreadable = _make_missing_thumbnails(readable, writer, decode_one)
    finally:
        writer.flush()
    return ExtractedFeatures(
        network=survey.network,
        feature_layers=survey.feature_layers,
        features=features,
        thumbnail_writer=writer,
        unreadable={**features.unreadable, **unreadable},
        engine=chosen.choice,
        threads=n_threads(),
        has_thumbnails=has_thumbnails,
    )


def _open(survey: EngineSurvey, engine: Choice | None) -> Steps[tuple[ChosenEngine, Sequence[str]]]:
    """The engine, chosen by the first process, and the contents that this one extracts."""
    world = here()
    chosen = (yield from open_engine(survey, engine)) if world.is_first else None
    decision = None if chosen is None else (chosen.choice, survey.missing[chosen.key])
    choice, missing = cast(tuple[Choice, list[str]], world.gather(decision)[0])
    if chosen is None:
        key = survey.keys[cast(EngineName, str(choice.value))]
        survey = replace(survey, missing={**survey.missing, key: missing})
        chosen = yield from open_engine(survey, choice)
    return chosen, world.share(missing)


def _gather(features: ExtractedRows, examples: Sequence[Example]) -> ExtractedRows:
    """The results of all processes. Raises: ProcessError unless they share one cache."""
    world = here()
    if world.size == 1:
        return features
    results = world.gather((dict(features.unreadable), features.n_extracted, features.n_decoded))
    unreadable = {id: why for reasons, _, _ in results for id, why in reasons.items()}
    features.cache_file.refresh()
    if features.cache_file.absent(e.sha256 for e in examples if e.id not in unreadable):
        raise ProcessError(
            "the processes of this job do not find each other's features; set WARMSTART_CACHE to "
            "a folder that all of them share"
        )
    return replace(
        features,
        unreadable=unreadable,
        n_extracted=sum(n for _, n, _ in results),
        n_decoded=sum(n for _, _, n in results),
    )


def load_unchanged(collection: Collection, example: Example) -> bytes:
    """The bytes that were read before. Raises: MissingExample if they are gone or changed."""
    try:
        payload = collection.load(example.id)
    except (DataError, OSError) as error:
        raise MissingExample(f"{example.id} can no longer be read: {error}") from error
    if hashlib.sha256(payload).hexdigest() != example.sha256:
        raise MissingExample(f"{example.id} changed while the run was going on")
    return payload


def _decoder(
    collection: Collection, prep: Inputs, writer: ThumbnailWriter, without_thumbnail: set[str]
) -> Callable[[Example], Pixels]:
    """From example to pixels, writing its thumbnail."""
    modality = modality_of(prep)

    def decode_one(example: Example) -> Pixels:
        payload, sha256 = load_unchanged(collection, example), example.sha256
        opened = modality.open(payload, example.id, prep)
        if sha256 in without_thumbnail:
            thumbnail = thumbnails.make_thumbnail(payload, modality.picture(opened))
            writer.put(sha256, thumbnail)
        return modality.prepare(opened, prep)

    return decode_one


def _make_missing_thumbnails(
    examples: Sequence[Example], writer: ThumbnailWriter, decode_one: Callable[[Example], Pixels]
) -> dict[str, str]:
    """Make thumbnails of images whose features are cached; returns what is unreadable."""
    missing = here().gather(writer.missing(e.sha256 for e in examples))[0]
    todo = first_of_each(examples, here().share(missing))
    prefetch = Prefetch(todo, decode_one, threads=n_threads())
    try:
        reasons = {e.sha256: str(pixels) for e, pixels in prefetch if isinstance(pixels, DataError)}
    finally:
        prefetch.close()
    if missing:
        writer.flush()
        reasons = {sha: why for each in here().gather(reasons) for sha, why in each.items()}
        writer.refresh()
    return {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}


# ---- Thumbnails of some examples, read from the cache on demand.

MAX_IN_MEMORY = 2000  # examples whose thumbnails fit in memory, 5 KB each
_ROWS = 500  # read at a time


class StoredThumbnails:
    """`Thumbnails` of examples that may be too many for memory.

    `grey` and `colour` are indexed by rows: `stored.grey[rows]`.
    """

    def __init__(self, extracted: ExtractedFeatures, examples: Sequence[Example]) -> None:
        self._extracted, self._examples = extracted, examples
        self._all = extracted.thumbnails(examples) if len(examples) <= MAX_IN_MEMORY else None
        self.grey, self.colour = _Column(self, "grey"), _Column(self, "colour")

    def __len__(self) -> int:
        return len(self._examples)

    def of(self, rows: NDArray[np.intp]) -> Thumbnails:
        """The thumbnails of some rows, in memory."""
        if self._all is not None:
            return self._all.of(rows)
        return self._extracted.thumbnails([self._examples[row] for row in rows])

    @cached_property
    def files(self) -> FileFigures:
        """Size and format of all files."""
        if self._all is not None:
            return self._all.files()
        rows = np.arange(len(self))
        chunks = [rows[at : at + _ROWS] for at in range(0, len(self), _ROWS)]
        return concatenate([self.of(chunk).files() for chunk in chunks])


@dataclass(frozen=True, slots=True)
class _Column:
    """One array of the thumbnails, by rows."""

    stored: StoredThumbnails
    name: str

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        all_rows = self.stored.of(np.arange(len(self))[rows])
        column: NDArray[np.uint8] = getattr(all_rows, self.name)
        return column
