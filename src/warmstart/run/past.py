"""What a run has learnt from, kept inside it: told by bytes, and by how alike pictures look.

Every run keeps the content hashes of all that its model ever learnt from, those of the runs
before it among them, so that no folder has to be where it was, nor called what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import RunFolderError
from warmstart.network.model_folder import Arrays, Bundle
from warmstart.records.data import DataRecord, Example
from warmstart.records.network import Tap
from warmstart.records.run_folder import read_json
from warmstart.solve.kernels import chunks
from warmstart.training.out_of_distribution import Neighbours, to_nearest_other, unpack

LEARNT = "learnt"  # an array in neighbours.safetensors: sorted numbers of content hashes
DIGITS = 16  # of a hash: two of a million images share them once in 40 million such sets
ROWS = 512  # examples that are compared at once
TYPICAL = 1000  # stored points, at most, that say how far apart images lie
# A picture is a near copy below NEAR times the distance that the closest LOW of the stored ones
# have to their nearest. In that unit, runs from lite0 on photos of vehicles, cars, hand signs and
# textures: JPEG again at quality 97 at most 0.31, at 85 at most 0.41 (half of them below 0.28);
# other photos of the same classes at least 0.77, 1.01 and 0.87, and 0.62 for textures, but for
# one pair at 0.40 that is two crops of one photo.
NEAR = 0.4
LOW = 0.05

Read = Callable[[Sequence[Example]], Callable[[Tap], NDArray[np.float32]]]


def number(sha256: str) -> int:
    """The first digits of a content hash.

    >>> number("00000000000000ff" + 48 * "0")
    255
    """
    return int(sha256[:DIGITS], 16)


@dataclass(frozen=True, slots=True)
class Past:
    """What a run has learnt from: numbers of content hashes, and points.

    `is_whole`: whether nothing is missing in `learnt`. `points` are of the examples that the
    run learnt from itself, at `taps` of its own network.
    """

    learnt: frozenset[int]
    is_whole: bool
    points: Neighbours
    taps: tuple[Tap, ...]

    @property
    def kept(self) -> frozenset[int] | None:
        """What a run that follows is to keep: all of it, or nothing."""
        return self.learnt if self.is_whole else None

    def holds(self, example: Example) -> bool:
        """Whether these very bytes are known to have been learnt from."""
        return number(example.sha256) in self.learnt

    def alike(self, examples: Sequence[Example], read: Read) -> list[Example]:
        """Those that are nearly the same picture as one that the run learnt from.

        `read` gives the features of examples under the run's own network, per tap (n, d_t).
        """
        limit, found = limit_of(self.points.points), []
        for start in range(0, len(examples) if limit > 0 else 0, ROWS):
            part = examples[start : start + ROWS]
            joined = [
                self.points.place(np.concatenate([chunk[tap] for tap in self.taps], axis=1))
                for chunk in chunks(read(part), self.taps)
            ]
            distances, _ = self.points.nearest_to(np.concatenate(joined), 1)
            found += [e for e, d in zip(part, distances, strict=True) if d < limit]
        return found


def limit_of(points: NDArray[np.float32]) -> float:
    """The distance below which two points are of one picture. Shapes: points (n, w).

    A small part of what the closest of different images have between them.

    >>> round(limit_of(np.float32([[0.0], [1.0], [2.0]])), 2)
    0.4
    """
    if len(points) < 2:
        return 0.0
    rows = np.unique(np.linspace(0, len(points) - 1, TYPICAL).astype(int))
    return NEAR * float(np.quantile(to_nearest_other(points, rows), LOW))


def past_of(bundle: Bundle, names: Sequence[str]) -> Past:
    """What a run keeps of its past; an older one kept nothing, and its folders are asked.

    `names`: the runs that it came from and itself, as folders.
    """
    kept, points = bundle.neighbours.get(LEARNT), unpack(bundle.neighbours)
    if kept is not None:
        return Past(frozenset(int(n) for n in kept), True, points, bundle.record.own_taps)
    found = [_from_folder(Path(name)) for name in names]
    known = frozenset[int]().union(*(numbers for numbers in found if numbers is not None))
    return Past(known, None not in found, points, bundle.record.own_taps)


def _from_folder(run: Path) -> frozenset[int] | None:
    """None where the folder is gone, is damaged or has another name today."""
    try:
        examples = read_json(run / "data.json", DataRecord).examples
    except RunFolderError:
        return None
    return frozenset(number(e.sha256) for e in examples if e.split != "test")


def memory(before: frozenset[int] | None, learn: Sequence[Example]) -> Arrays:
    """What a run that learns from these keeps; nothing where its own past is not known."""
    if before is None:
        return {}
    numbers = sorted(before | {number(example.sha256) for example in learn})
    return {LEARNT: np.array(numbers, dtype=np.uint64)}
