"""The feature cache: files of rows in one folder, with a size limit.

It also remembers which examples cannot be decoded, and which networks an engine cannot run. One
lock file serves the whole folder: nothing is evicted or cleared while a process writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import ModelError, UsageError
from warmstart.features.cache_file import (
    ENTRY_BYTES,
    SUFFIXES,
    CacheFile,
    exclusive,
    is_in_use,
    read_lines,
)
from warmstart.features.cache_key import CacheFileKey, FeatureKey
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.run_folder import remove

DEFAULT_LIMIT_BYTES = 4 << 30
_UNREADABLE = "unreadable.jsonl"
_REDIRECT = ".instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """The answer of `warmstart cache info`."""

    path: str
    feature_sets: int  # one for each key
    rows: int  # examples, summed over the feature sets
    bytes: int
    limit_bytes: int


class FeatureCache:
    """A folder of feature sets, at most `limit_bytes` large.

    >>> import tempfile
    >>> import numpy as np
    >>> from warmstart.records.inputs import Preprocessing
    >>> from warmstart.records.network import FeatureLayer
    >>> prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))
    >>> key = FeatureKey(network="ab", arch="timm:x", blocks=("stem",), decoder="pillow 11",
    ...     feature_layers=(FeatureLayer(block=1, pool="avg"),), preprocessing=prep, engine="torch",
    ...     engine_version="2.8", threads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FeatureCache(Path(folder)).cache_file(key) as cache_file:
    ...         cache_file.append(["0a" * 32], [np.ones((1, 3), np.float32)])
    ...         cache_file.missing(["0a" * 32, "0b" * 32]) == ["0b" * 32]
    ...         cache_file.read(["0a" * 32], "1.avg")
    True
    array([[1., 1., 1.]], dtype=float32)
    """

    def __init__(self, root: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Open the cache, or create it. Raises: UsageError if the folder cannot be written."""
        self.root = root
        self.limit_bytes = limit_bytes
        try:
            root.mkdir(parents=True, exist_ok=True)
            if self._lock.is_dir():
                remove(self._lock)  # damaged: a folder cannot be locked
            with exclusive(self._lock):
                pass
        except OSError as error:
            raise UsageError(
                f"the feature cache {root} cannot be written ({error.strerror}); "
                "set WARMSTART_CACHE to a folder that can."
            ) from error

    def cache_file(self, key: CacheFileKey) -> CacheFile:
        """Open the rows of this key, empty if there are none; close it, or use `with`.

        While it is open it is not evicted.
        """
        return CacheFile(self.root, key, lambda n_bytes: self._evict(n_bytes, exempt=key.digest))

    def info(self) -> CacheInfo:
        """Count feature sets, rows and bytes."""
        with exclusive(self._lock):
            bases = self._bases()
            sizes = [_size(base.with_name(base.name + ".index")) for base in bases]
            return CacheInfo(
                path=str(self.root),
                feature_sets=len(bases),
                rows=sum(size // ENTRY_BYTES for size in sizes),
                bytes=sum(_size(path) for path in self.root.iterdir()),
                limit_bytes=self.limit_bytes,
            )

    def clear(self) -> int:
        """Remove everything that is not in use; returns the bytes freed."""
        with exclusive(self._lock):
            freed = sum(_remove(base) for base in self._bases() if not _is_open(base))
            for path in (*self.root.glob("*" + _REDIRECT), self.root / _UNREADABLE):
                freed += _size(path)
                remove(path)
        return freed

    def _evict(self, n_bytes: int, exempt: str) -> None:
        """Remove least recently used files until `n_bytes` more fit; the lock is held.

        Files in use stay, and may alone exceed the limit.
        """
        sizes = {base: _total_size(base) for base in self._bases()}
        excess = sum(sizes.values()) + n_bytes - self.limit_bytes
        if excess <= 0:
            return
        files = {base: base.with_name(base.name + ".json") for base in sizes}
        last_uses = {b: file.stat().st_mtime for b, file in files.items() if file.exists()}
        for base in sorted(sizes, key=lambda base: last_uses.get(base, 0.0)):
            if excess > 0 and base.name != exempt and not _is_open(base):
                _remove(base)
                excess -= sizes[base]

    def _bases(self) -> list[Path]:
        """The paths without suffix of all feature sets, also of incomplete ones."""
        stems = {p.stem for suffix in SUFFIXES for p in self.root.glob("*" + suffix)}
        return [self.root / stem for stem in sorted(stems)]

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    def quarantine(self, decoder: str, sha256: str, reason: str) -> None:
        """Remember that `decoder` (name and version) cannot decode these bytes."""
        line = json.dumps({"decoder": decoder, "sha256": sha256, "reason": reason})
        path = self.root / _UNREADABLE
        with exclusive(self._lock):
            if path.exists() and not path.is_file():
                remove(path)
            with open(path, "ab") as file:
                file.write(f"\n{line}\n".encode())  # \n first: after a torn last line

    def quarantined(self, decoder: str) -> dict[str, str]:
        """Examples that this decoder could not decode: sha256 → reason."""
        return {
            note["sha256"]: note["reason"]
            for note in read_lines(self.root / _UNREADABLE)
            if note.keys() >= {"decoder", "sha256", "reason"} and note["decoder"] == decoder
            if all(isinstance(value, str) for value in note.values())
        }

    def redirect(self, requested: FeatureKey, actual: FeatureKey) -> None:
        """Remember that this network was run by another engine than the requested one.

        Otherwise every later extraction would build the failing engine again.
        """
        note = {"engine": actual.engine, "engine_version": actual.engine_version}
        path = self.root / (requested.digest + _REDIRECT)
        if path.exists() and not path.is_file():
            remove(path)
        path.write_text(json.dumps(note), "utf-8")

    def resolve(self, requested: FeatureKey) -> FeatureKey:
        """The key under which the rows of the `requested` key are stored."""
        for note in read_lines(self.root / (requested.digest + _REDIRECT)):
            if note.get("engine") == "torch" and isinstance(note.get("engine_version"), str):
                return replace(requested, engine="torch", engine_version=note["engine_version"])
        return requested


def _paths(base: Path) -> list[Path]:
    return [base.with_name(base.name + suffix) for suffix in SUFFIXES]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _total_size(base: Path) -> int:
    return sum(_size(path) for path in _paths(base))


def _is_open(base: Path) -> bool:
    path = base.with_name(base.name + ".index")
    return path.is_file() and is_in_use(path)


def _remove(base: Path) -> int:
    freed = _total_size(base)
    for path in _paths(base):
        remove(path)
    return freed


# ---- Features of some examples, read from the cache: all at once, or a few at a time.

Floats = NDArray[np.float32]

CHUNK_BYTES = 16_000_000  # of rows in memory at a time
CHUNK_ROWS = 512  # at most: results computed from rows may be wider than they are
_WHOLE = 3  # to read more than a third of a row, reading it whole is faster


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """A function from a feature layer to the features of some examples; see `solve.kernels`.

    Raises: ModelError if a feature is not a finite number; KeyError for an example that is not
    in the cache.
    """

    cache_file: CacheFile
    examples: tuple[Example, ...]
    origin: tuple[Example, ...] = ()  # of which `examples` is a selection, for errors

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the rows: where they are stored, and of which examples."""
        return (self.cache_file.key.digest, *(example.sha256 for example in self.examples))

    def __call__(self, layer: FeatureLayer) -> Floats:
        """All features of one layer. Shapes: (n, d)."""
        values: Floats = self.cache_file.read([e.sha256 for e in self.examples], layer.name)
        self._check({layer: values})
        return values

    def some(self, rows: NDArray[np.intp]) -> StoredFeatures:
        """The features of some rows, in this order."""
        examples = tuple(self.examples[row] for row in rows)
        return replace(self, examples=examples, origin=self.origin or self.examples)

    def chunks(
        self, feature_layers: Sequence[FeatureLayer]
    ) -> Iterator[Mapping[FeatureLayer, Floats]]:
        """All rows, in order, a few MB at a time. Shapes: each layer (m, d), m may be 0."""
        widths = self.cache_file.widths
        width = sum(widths[layer.name] for layer in feature_layers)
        is_whole = _WHOLE * width > sum(widths.values())
        n_bytes = 4 * (sum(widths.values()) if is_whole else width)
        count = min(max(CHUNK_BYTES // max(n_bytes, 1), 1), CHUNK_ROWS)
        for at in range(0, max(len(self.examples), 1), count):
            hashes = [example.sha256 for example in self.examples[at : at + count]]
            if is_whole:
                row, columns = self.cache_file.fetch(hashes), self.cache_file.columns
                chunk = {layer: row[:, columns[layer.name]] for layer in feature_layers}
            else:
                chunk = {
                    layer: self.cache_file.read(hashes, layer.name) for layer in feature_layers
                }
            self._check(chunk)
            yield chunk

    def _check(self, features: Mapping[FeatureLayer, Floats]) -> None:
        for layer, values in features.items():
            if np.isfinite(values).all():
                continue
            examples = self.origin or self.examples
            bad = [
                example
                for example in examples
                if not np.isfinite(self.cache_file.read([example.sha256], layer.name)).all()
            ]
            raise ModelError(
                f"the base model gives values that are not numbers for {len(bad):,} of "
                f"{len(examples):,} images (first: {bad[0].id}, at block {layer.block}); check "
                "its preprocessing, or choose another base model."
            )
