"""The feature store: shelves of rows in one folder, with a size limit.

A shelf belongs to one `FeatureKey` (see `cache_key.py`), so a row is found again only where
everything that it depends on is the same. The store also remembers which examples cannot
be decoded, and which networks an engine cannot run. Free of torch.

One lock file serves the whole folder: an append holds it for some milliseconds, and what
is evicted, cleared or replaced can then never be what another process is writing.
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
)
from warmstart.features.cache_key import CacheFileKey, FeatureKey
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.run_folder import remove

DEFAULT_LIMIT_BYTES = 4 << 30
_UNREADABLE = "unreadable.jsonl"
_INSTEAD = ".instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """What `warmstart cache info` shows."""

    path: str
    shelves: int  # looks kept
    rows: int  # examples, summed over the shelves
    bytes: int
    limit_bytes: int


class FeatureCache:
    """A folder of shelves, at most `limit_bytes` large.

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
        """Open the store, or begin one.

        Raises: UsageError if the folder cannot be written.
        """
        self.root = root
        self.limit_bytes = limit_bytes
        try:
            root.mkdir(parents=True, exist_ok=True)
            if self._lock.is_dir():
                remove(self._lock)  # damaged: nobody can hold a folder
            with exclusive(self._lock):
                pass
        except OSError as error:
            raise UsageError(
                f"the feature cache {root} cannot be written ({error.strerror}); "
                "set WARMSTART_CACHE to a folder that can."
            ) from error

    def cache_file(self, key: CacheFileKey) -> CacheFile:
        """Open the shelf of this key, empty if there is none; close it, or use `with`.

        For as long as it is open it is not evicted.
        """

        def make_room(n_bytes: int) -> None:
            self._evict(n_bytes, keep=key.digest)

        return CacheFile(self.root, key, make_room)

    def info(self) -> CacheInfo:
        """Count what is kept."""
        with exclusive(self._lock):
            shelves = list(self._shelves())
            sizes = [_size(base.with_name(base.name + ".index")) for base in shelves]
            return CacheInfo(
                path=str(self.root),
                shelves=len(shelves),
                rows=sum(size // ENTRY_BYTES for size in sizes),
                bytes=sum(_size(path) for path in self.root.iterdir()),
                limit_bytes=self.limit_bytes,
            )

    def clear(self) -> int:
        """Remove everything but the shelves that are in use; returns the bytes freed."""
        with exclusive(self._lock):
            freed = sum(_remove(base) for base in self._shelves() if not _is_held(base))
            for path in (*self.root.glob("*" + _INSTEAD), self.root / _UNREADABLE):
                freed += _size(path)
                remove(path)
        return freed

    def _evict(self, n_bytes: int, keep: str) -> None:
        """Remove least recently used shelves until `n_bytes` more fit; the lock is held.

        What is in use stays, and may alone be larger than the limit.
        """
        sizes = {base: _shelf_size(base) for base in self._shelves()}
        excess = sum(sizes.values()) + n_bytes - self.limit_bytes
        if excess <= 0:
            return
        for base in sorted(sizes, key=_last_use):
            if excess > 0 and base.name != keep and not _is_held(base):
                _remove(base)
                excess -= sizes[base]

    def _shelves(self) -> Iterator[Path]:
        """Each shelf as its path without suffix, also where files of it are missing."""
        ends = {p.stem for suffix in SUFFIXES for p in self.root.glob("*" + suffix)}
        return (self.root / stem for stem in sorted(ends))

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    # ---- what cannot be read, what cannot be run -----------------------------------------

    def quarantine(self, decoder: str, sha256: str, reason: str) -> None:
        """Remember that `decoder` (name and version) cannot decode these bytes."""
        line = json.dumps({"decoder": decoder, "sha256": sha256, "reason": reason})
        path = self.root / _UNREADABLE
        with exclusive(self._lock):
            if path.exists() and not path.is_file():
                remove(path)
            with open(path, "ab") as file:
                file.write(f"\n{line}\n".encode())  # first: a torn last line must not swallow this

    def quarantined(self, decoder: str) -> dict[str, str]:
        """Examples that this decoder could not decode: sha256 → reason."""
        path = self.root / _UNREADABLE
        lines = path.read_bytes().splitlines() if path.is_file() else []
        known = [note for line in lines if (note := _parse(line)) is not None]
        return {
            note["sha256"]: note["reason"]
            for note in known
            if note.keys() >= {"decoder", "sha256", "reason"} and note["decoder"] == decoder
        }

    def redirect(self, asked: FeatureKey, actual: FeatureKey) -> None:
        """Remember that this network was run by another engine than the one asked for.

        Without this, every later look would build the refused engine again to find out.
        """
        note = {"engine": actual.engine, "engine_version": actual.engine_version}
        path = self.root / (asked.digest + _INSTEAD)
        if path.exists() and not path.is_file():
            remove(path)
        path.write_text(json.dumps(note), "utf-8")

    def resolve(self, asked: FeatureKey) -> FeatureKey:
        """The key under which a look asked for with `asked` has its rows."""
        path = self.root / (asked.digest + _INSTEAD)
        note = _parse(path.read_bytes()) if path.is_file() else None
        if note is None or note.keys() != {"engine", "engine_version"}:
            return asked
        if note["engine"] != "torch":  # the only engine that another one gives way to
            return asked
        return replace(asked, engine="torch", engine_version=note["engine_version"])


def _parse(line: bytes) -> dict[str, str] | None:
    """One JSON object of texts; None for a torn or foreign line."""
    try:
        note = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(note, dict) or not all(isinstance(v, str) for v in note.values()):
        return None
    return note


def _paths(base: Path) -> list[Path]:
    return [base.with_name(base.name + suffix) for suffix in SUFFIXES]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shelf_size(base: Path) -> int:
    return sum(_size(path) for path in _paths(base))


def _last_use(base: Path) -> float:
    path = base.with_name(base.name + ".json")
    return path.stat().st_mtime if path.exists() else 0.0


def _is_held(base: Path) -> bool:
    path = base.with_name(base.name + ".index")
    return path.is_file() and is_in_use(path)


def _remove(base: Path) -> int:
    freed = _shelf_size(base)
    for path in _paths(base):
        remove(path)
    return freed


# ---- Features of some examples, read from the store: all at once, or a few at a time.


Floats = NDArray[np.float32]

CHUNK_BYTES = 16_000_000  # of rows in memory at a time
CHUNK_ROWS = 512  # at most: what is computed from rows may be wider than they are
WHOLE = 3  # one part in so many of a row is wanted: then reading it whole is quicker


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """A function from tap to the features of some examples; see `solve.kernels`.

    Raises: ModelError, whatever is asked for, where a feature is not a finite number;
    KeyError for an example that is not in the store.
    """

    cache_file: CacheFile
    examples: tuple[Example, ...]
    origin: tuple[Example, ...] = ()  # those that these were chosen from, for the error

    @property
    def key(self) -> tuple[str, ...]:
        """What the rows are: where they are stored, and of which examples."""
        return (self.cache_file.key.digest, *(example.sha256 for example in self.examples))

    def __call__(self, layer: FeatureLayer) -> Floats:
        """All of one tap. Shapes: (n, d)."""
        values: Floats = self.cache_file.read([e.sha256 for e in self.examples], layer.name)
        self._check({layer: values})
        return values

    def some(self, rows: NDArray[np.intp]) -> StoredFeatures:
        """The same of chosen rows, in this order."""
        chosen = tuple(self.examples[row] for row in rows)
        return replace(self, examples=chosen, origin=self.origin or self.examples)

    def chunks(
        self, feature_layers: Sequence[FeatureLayer]
    ) -> Iterator[Mapping[FeatureLayer, Floats]]:
        """All rows, in order, a few MB at a time; no rows once. Shapes: each tap (m, d)."""
        widths = self.cache_file.widths
        wanted = sum(widths[layer.name] for layer in feature_layers)
        is_whole = WHOLE * wanted > sum(widths.values())
        n_bytes = 4 * (sum(widths.values()) if is_whole else wanted)
        count = min(max(CHUNK_BYTES // max(n_bytes, 1), 1), CHUNK_ROWS)
        for at in range(0, max(len(self.examples), 1), count):
            hashes = [example.sha256 for example in self.examples[at : at + count]]
            if is_whole:
                row, columns = self.cache_file.fetch(hashes), self.cache_file.columns
                found = {layer: row[:, columns[layer.name]] for layer in feature_layers}
            else:
                found = {
                    layer: self.cache_file.read(hashes, layer.name) for layer in feature_layers
                }
            self._check(found)
            yield found

    def _check(self, found: Mapping[FeatureLayer, Floats]) -> None:
        for layer, values in found.items():
            if not np.isfinite(values).all():
                raise self._not_numbers(layer)

    def _not_numbers(self, layer: FeatureLayer) -> ModelError:
        examples = self.origin or self.examples
        lost = [
            example
            for example in examples
            if not np.isfinite(self.cache_file.read([example.sha256], layer.name)).all()
        ]
        return ModelError(
            f"the start gives values that are not numbers for {len(lost):,} of "
            f"{len(examples):,} images (first: {lost[0].id}, at part {layer.block}); check its "
            "preprocessing, or choose another start."
        )
