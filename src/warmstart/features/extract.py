"""Feature extraction: every missing example is decoded and run through the network once.

Decoding runs in threads beside the network, with a bounded number of images in flight;
batches are made in the order of the examples, so results do not depend on timing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_file import CacheFile
from warmstart.features.cache_key import BATCH, THUMBNAIL, ThumbnailKey
from warmstart.features.engine import Pixels
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer


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
        """The features of one layer, in the order of the examples. Shapes: (n, d) float32.

        Raises: KeyError for an example that could not be read.
        """
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
        buffer = _RowBuffer(source.cache_file)
        try:
            with closing(extraction.batches()) as batches:
                for hashes, pixels in batches:
                    buffer.add(hashes, source.engine(pixels))
                    yield extraction.step()
                    if buffer.is_due():
                        buffer.flush()
        finally:
            try:
                buffer.flush()
            finally:
                extraction.quarantine()
    return (yield from extraction.finish(examples))


@dataclass
class _RowBuffer:
    cache_file: CacheFile
    hashes: list[str] = field(default_factory=list)
    batches: list[list[Floats]] = field(default_factory=list)
    flushed: float = field(default_factory=time.perf_counter)

    def add(self, hashes: Sequence[str], rows: list[Floats]) -> None:
        self.hashes += hashes
        self.batches.append(rows)

    def is_due(self) -> bool:
        n_bytes = sum(rows.nbytes for batch in self.batches for rows in batch)
        return n_bytes > FLUSH_BYTES or time.perf_counter() - self.flushed > FLUSH_S

    def flush(self) -> None:
        hashes, batches = self.hashes, self.batches
        self.hashes, self.batches = [], []  # emptied first: a full disk must fail only once
        if batches:
            rows = [np.concatenate(layer) for layer in zip(*batches, strict=True)]
            self.cache_file.append(hashes, rows)
        self.flushed = time.perf_counter()


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
