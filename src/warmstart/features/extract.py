"""One look: every missing example is decoded once and passed once, with all taps.

Decoding runs in threads beside the network, with a bounded number of images in flight;
batches are made in the order of the examples, so results do not depend on timing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_file import CacheFile
from warmstart.features.cache_key import BATCH, ThumbnailKey
from warmstart.features.engine import Pixels
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer


class Vanished(DataError):
    """The bytes could not be had, or changed meanwhile; it says nothing of what they hold."""


Floats = NDArray[np.float32]
Decode = Callable[[Example], Pixels]
Engine = Callable[[Pixels], list[Floats]]

AHEAD = 4 * BATCH  # images decoded or being decoded beyond the batch at work
FLUSH_S = 2.0  # computed rows wait at most this long before they are on disk
FLUSH_BYTES = 16_000_000  # or until they are as many: a fast machine computes GB in that time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedRows:
    """What a look gave. Rows are read from the store's file.

    `passed` and `decoded` count the images of this look alone; `unreadable` maps example
    ids to reasons.
    """

    cache_file: CacheFile
    unreadable: Mapping[str, str]
    passed: int
    decoded: int

    def read(self, examples: Sequence[Example], layer: FeatureLayer) -> Floats:
        """One tap's features, in the order of the examples. Shapes: (n, d) float32.

        Raises: KeyError for an example that could not be read.
        """
        return self.cache_file.read([example.sha256 for example in examples], layer.name)

    def reader(self, examples: Sequence[Example]) -> StoredFeatures:
        """From tap to the features of these examples, all at once or a few at a time."""
        return StoredFeatures(self.cache_file, tuple(examples))


class Prefetch:
    """Decodes examples in order, a bounded number ahead, from the moment it is made.

    It needs neither torch nor the network: made before they are imported, it uses the
    second core while the first one imports.
    """

    def __init__(self, examples: Sequence[Example], decode: Decode, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._waiting = iter(examples)
        self._decode = decode
        self._flying: deque[tuple[Example, Future[Pixels]]] = deque()
        self._top_up()

    def _top_up(self) -> None:
        for example in islice(self._waiting, AHEAD - len(self._flying)):
            self._flying.append((example, self._pool.submit(self._decode, example)))

    def __iter__(self) -> Iterator[tuple[Example, Pixels | DataError]]:
        """Each example with its pixels, or with the reason why there are none."""
        while self._flying:
            example, future = self._flying.popleft()
            try:
                pixels: Pixels | DataError = future.result()
            except DataError as error:
                pixels = error
            self._top_up()
            yield example, pixels

    def close(self) -> None:
        """Stop: what has not begun is dropped, what has is waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def first_of_each(examples: Sequence[Example], hashes: Sequence[str]) -> list[Example]:
    """The examples with these hashes, one per hash, in their own order."""
    wanted, found = set(hashes), []
    for example in examples:
        if example.sha256 in wanted:
            wanted.discard(example.sha256)
            found.append(example)
    return found


@dataclass
class _Progress:
    total: int
    passed: int = 0
    decoded: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # sha256 to reason
    vanished: dict[str, str] = field(default_factory=dict)  # the same, but not the bytes' fault
    began: float = field(default_factory=time.perf_counter)

    def event(self) -> Event:
        speed = self.passed / max(time.perf_counter() - self.began, 1e-9)
        values: dict[str, float | int | str] = {"per_second": round(speed, 1)}
        return Event(stage="features", kind="step", step=self.decoded, of=self.total, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSource:
    """Where rows come from and go to. `todo`: what to pass, one example per content.

    `engine` is None where nothing is left to pass: then none was made.
    """

    cache_file: CacheFile
    store: FeatureCache
    decoder: str
    todo: Sequence[Example]
    decode: Decode
    engine: Engine | None


def extract(examples: Sequence[Example], source: ExampleSource) -> Steps[ExtractedRows]:
    """Decode and pass what is to do, keep its rows, return a view of all examples.

    An interrupted look keeps what it has computed.
    Raises: OSError where the disk is full, after the store has been set right.
    """
    known = source.store.quarantined(source.decoder)
    missing = len(source.todo)
    begin: dict[str, float | int | str] = {"total": len(examples), "missing": missing}
    yield Event(stage="features", kind="begin", of=missing, values=begin)
    progress = _Progress(missing)
    if source.engine is not None:
        prefetch = Prefetch(source.todo, source.decode)
        try:
            yield from _pass_all(prefetch, source.engine, source.cache_file, progress)
        finally:
            prefetch.close()
            for sha256, reason in progress.unreadable.items():
                source.store.quarantine(source.decoder, sha256, reason)
    reasons = known | progress.unreadable | progress.vanished
    lost = {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}
    counts: dict[str, float | int | str] = {
        "passed": progress.passed,
        "decoded": progress.decoded,
        "unreadable": len(lost),
    }
    yield Event(stage="features", kind="end", step=missing, of=missing, values=counts)
    return ExtractedRows(
        cache_file=source.cache_file,
        unreadable=lost,
        passed=progress.passed,
        decoded=progress.decoded,
    )


def _pass_all(
    prefetch: Prefetch, engine: Engine, cache_file: CacheFile, progress: _Progress
) -> Steps[None]:
    hashes: list[str] = []
    batch: list[Pixels] = []
    computed = _Computed(cache_file)
    try:
        for example, pixels in prefetch:
            progress.decoded += 1
            if isinstance(pixels, DataError):
                gone = isinstance(pixels, Vanished)
                reasons = progress.vanished if gone else progress.unreadable
                reasons[example.sha256] = str(pixels)
                continue
            hashes.append(example.sha256)
            batch.append(pixels)
            if len(batch) == BATCH:
                computed.add(hashes, engine(np.stack(batch)))
                hashes, batch = [], []
                progress.passed += BATCH
                yield progress.event()
                if computed.is_due():
                    computed.keep()
        if batch:
            computed.add(hashes, engine(np.stack(batch)))
            progress.passed += len(batch)
            yield progress.event()
    finally:
        computed.keep()


@dataclass
class _Computed:
    """Rows that wait to be appended."""

    cache_file: CacheFile
    hashes: list[str] = field(default_factory=list)
    batches: list[list[Floats]] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def add(self, hashes: Sequence[str], rows: list[Floats]) -> None:
        self.hashes += hashes
        self.batches.append(rows)

    def is_due(self) -> bool:
        waiting = sum(rows.nbytes for batch in self.batches for rows in batch)
        return waiting > FLUSH_BYTES or time.perf_counter() - self.since > FLUSH_S

    def keep(self) -> None:
        """Append what waits; emptied first, so that a full disk is met once."""
        hashes, batches = self.hashes, self.batches
        self.hashes, self.batches = [], []
        if batches:
            self.cache_file.append(
                hashes, [np.concatenate(rows) for rows in zip(*batches, strict=True)]
            )
        self.since = time.perf_counter()


# ---- Glances in the store: a small fixed-size note of each image, made when it is decoded.
#
# They depend on no network, so that one decoding serves every start.


Notes = NDArray[np.uint8]
_FLUSH = 512  # glances kept in memory before they are written


class ThumbnailWriter:
    """Glances by content hash; `put` may be called from several threads.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     key = ThumbnailKey(decoder="pillow", draft=8, version=1)
    ...     book = ThumbnailWriter(FeatureCache(Path(folder)), key)
    ...     book.put("0a" * 32, np.arange(3, dtype=np.uint8))
    ...     book.read(["0a" * 32])
    array([[0, 1, 2]], dtype=uint8)
    """

    def __init__(self, store: FeatureCache, key: ThumbnailKey) -> None:
        """Open the shelf of this kind of glance."""
        self._shelf = store.cache_file(key)
        self._lock = threading.Lock()
        self._fresh: dict[str, Notes] = {}

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """The examples without a glance, each once, in the order given."""
        with self._lock:
            return [h for h in self._shelf.missing(hashes) if h not in self._fresh]

    def put(self, sha256: str, glance: Notes) -> None:
        """Keep the glance (WIDTH,) at one example; it is on disk after a while, or `flush`."""
        with self._lock:
            self._fresh[sha256] = glance
            if len(self._fresh) >= _FLUSH:
                self._write()

    def flush(self) -> None:
        """Write what is still in memory. Raises: OSError where the disk is full."""
        with self._lock:
            self._write()

    def refresh(self) -> None:
        """Learn what other processes have glanced at since."""
        self._shelf.refresh()

    def read(self, hashes: Sequence[str]) -> Notes:
        """Glances in the asked order. Shapes: (len(hashes), WIDTH).

        Raises: KeyError for an example without one.
        """
        self.flush()
        rows: Notes = self._shelf.read(hashes, "glance")
        return rows

    def _write(self) -> None:
        ready, self._fresh = self._fresh, {}
        if ready:
            self._shelf.append([*ready], [np.stack([*ready.values()])])
