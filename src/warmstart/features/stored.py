"""Features of some examples, read from the store: all at once, or a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import StartError
from warmstart.features.shelf import Shelf
from warmstart.records.data import Example
from warmstart.records.network import Tap

Floats = NDArray[np.float32]

CHUNK_BYTES = 16_000_000  # of rows in memory at a time
CHUNK_ROWS = 512  # at most: what is computed from rows may be wider than they are
WHOLE = 3  # one part in so many of a row is wanted: then reading it whole is quicker


@dataclass(frozen=True, slots=True)
class StoredTaps:
    """A function from tap to the features of some examples; see `solve.chunks`.

    Raises: StartError, whatever is asked for, where a feature is not a finite number;
    KeyError for an example that is not in the store.
    """

    shelf: Shelf
    examples: tuple[Example, ...]
    origin: tuple[Example, ...] = ()  # those that these were chosen from, for the error

    @property
    def key(self) -> tuple[str, ...]:
        """What the rows are: where they are stored, and of which examples."""
        return (self.shelf.key.digest, *(example.sha256 for example in self.examples))

    def __call__(self, tap: Tap) -> Floats:
        """All of one tap. Shapes: (n, d)."""
        values: Floats = self.shelf.read([e.sha256 for e in self.examples], tap.name)
        self._check({tap: values})
        return values

    def some(self, rows: NDArray[np.intp]) -> StoredTaps:
        """The same of chosen rows, in this order."""
        chosen = tuple(self.examples[row] for row in rows)
        return replace(self, examples=chosen, origin=self.origin or self.examples)

    def chunks(self, taps: Sequence[Tap]) -> Iterator[Mapping[Tap, Floats]]:
        """All rows, in order, a few MB at a time; no rows once. Shapes: each tap (m, d)."""
        widths = self.shelf.widths
        wanted = sum(widths[tap.name] for tap in taps)
        is_whole = WHOLE * wanted > sum(widths.values())
        n_bytes = 4 * (sum(widths.values()) if is_whole else wanted)
        count = min(max(CHUNK_BYTES // max(n_bytes, 1), 1), CHUNK_ROWS)
        for at in range(0, max(len(self.examples), 1), count):
            hashes = [example.sha256 for example in self.examples[at : at + count]]
            if is_whole:
                row, columns = self.shelf.fetch(hashes), self.shelf.columns
                found = {tap: row[:, columns[tap.name]] for tap in taps}
            else:
                found = {tap: self.shelf.read(hashes, tap.name) for tap in taps}
            self._check(found)
            yield found

    def _check(self, found: Mapping[Tap, Floats]) -> None:
        for tap, values in found.items():
            if not np.isfinite(values).all():
                raise self._not_numbers(tap)

    def _not_numbers(self, tap: Tap) -> StartError:
        examples = self.origin or self.examples
        lost = [
            example
            for example in examples
            if not np.isfinite(self.shelf.read([example.sha256], tap.name)).all()
        ]
        return StartError(
            f"the start gives values that are not numbers for {len(lost):,} of "
            f"{len(examples):,} images (first: {lost[0].id}, at part {tap.part}); check its "
            "preprocessing, or choose another start."
        )
