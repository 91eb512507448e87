"""Which examples several runs held out, told by their bytes, and who was right on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from warmstart.records.comparison import ComparedRows
from warmstart.records.data import DataRecord

Key = tuple[str, str, int]  # content hash, label, which of several such examples
Link = tuple[int, int]  # two rows that depend on each other


@dataclass(frozen=True, slots=True)
class Said:
    """What a run said of an example that it had not learnt from."""

    id: str
    is_test: bool
    target: str
    label: str
    credit: float | None = None  # None: 1 where the label is the target, else 0

    @property
    def worth(self) -> float:
        """What it adds to the run's score."""
        return float(self.label == self.target) if self.credit is None else self.credit


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A run's data, and all that it said of examples held out."""

    data: DataRecord
    said: tuple[Said, ...]

    @property
    def seen_before(self) -> frozenset[str]:
        """Ids of examples of which the run itself found that training had seen them."""
        leaks = (problem for problem in self.data.problems if problem.kind == "leak")
        return frozenset(id for leak in leaks for id in leak.items)

    def by_key(self, without: frozenset[str] = frozenset()) -> dict[Key, Said]:
        """What was said, by content and label rather than by name."""
        content = {example.id: example.sha256 for example in self.data.examples}
        times: dict[tuple[str, str], int] = {}
        found: dict[Key, Said] = {}
        for said in sorted(self.said, key=lambda said: said.id):
            if said.id not in without and said.id in content:
                pair = (content[said.id], said.target)
                times[pair] = times.get(pair, -1) + 1
                found[(*pair, times[pair])] = said
        return found

    @property
    def learnt(self) -> frozenset[str]:
        """Content hashes of what the run learnt from."""
        return frozenset(e.sha256 for e in self.data.examples if e.split != "test")


@dataclass(frozen=True, slots=True)
class Common:
    """The rows that all runs held out.

    Shapes: hits (M, n) of 0 and 1, is_test (M, n). `links` are rows that depend on each other,
    as any of the runs found. `seen_before` and `relabelled` count what was left out.
    """

    rows: ComparedRows
    hits: NDArray[np.float64]
    is_test: NDArray[np.bool_]
    links: tuple[Link, ...]
    seen_before: int
    relabelled: int


def common(runs: Sequence[HeldOut]) -> Common:
    """Examples that every run held out: the test part where it is the same, else any such.

    Those that some run had seen before are left out; so are those with another label in
    another run. There may be none.
    """
    whole = [run.by_key() for run in runs]
    clean = [run.by_key(without=run.seen_before) for run in runs]
    keys = _shared(clean, _tested) if _same_tests(whole) else []
    rows_of: Callable[[Mapping[Key, Said]], set[Key]] = _tested if keys else _all
    keys = keys or _shared(clean, _all)
    shape = (len(runs), len(keys))
    is_test = np.array([[s[k].is_test for k in keys] for s in clean], dtype=bool).reshape(shape)
    hits = [[s[k].worth for k in keys] for s in clean]
    contents = set.intersection(*({key[0] for key in rows_of(said)} for said in clean))
    return Common(
        rows="test" if keys and is_test.all() else "held-out",
        hits=np.array(hits, dtype=float).reshape(shape),
        is_test=is_test,
        links=_links(runs, clean, keys),
        seen_before=len(_shared(whole, rows_of)) - len(keys),
        relabelled=len(contents - {key[0] for key in keys}),
    )


def _all(said: Mapping[Key, Said]) -> set[Key]:
    return set(said)


def _tested(said: Mapping[Key, Said]) -> set[Key]:
    return {key for key, one in said.items() if one.is_test}


def _same_tests(runs: Sequence[Mapping[Key, Said]]) -> bool:
    """Whether all have the same images in their test parts, whatever they are called."""
    tests = [frozenset(key[0] for key in _tested(said)) for said in runs]
    return len(set(tests)) == 1 and bool(tests[0])


def _shared(
    runs: Iterable[Mapping[Key, Said]], rows_of: Callable[[Mapping[Key, Said]], set[Key]]
) -> list[Key]:
    return sorted(set.intersection(*(rows_of(said) for said in runs)))


def _links(
    runs: Sequence[HeldOut], said: Sequence[Mapping[Key, Said]], keys: Sequence[Key]
) -> tuple[Link, ...]:
    """Copies of one content, near copies and groups, as pairs of rows."""
    found: set[Link] = set()
    for run, one in zip(runs, said, strict=True):
        place = {one[key].id: row for row, key in enumerate(keys)}
        found |= {(place[a], place[b]) for a, b in run.data.twins if a in place and b in place}
        together: dict[tuple[str, str], list[int]] = {}
        for example in run.data.examples:
            if example.id in place:
                together.setdefault(("bytes", example.sha256), []).append(place[example.id])
                if example.group is not None:
                    together.setdefault(("group", example.group), []).append(place[example.id])
        found |= {link for rows in together.values() for link in pairwise(rows)}
    return tuple(sorted(found))
