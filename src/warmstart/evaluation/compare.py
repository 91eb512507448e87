"""Runs on the same examples: how right each is, every pair, who wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.events import BESIDE, Event
from warmstart.records.comparison import ComparedRows, Pair
from warmstart.records.data import DataRecord
from warmstart.records.summary import Estimate
from warmstart.stats.intervals import Groups, proportion
from warmstart.stats.paired import hits_difference, holm, mean_interval

# ---- Which examples several runs held out, told by their bytes, and who was right on them.


Key = tuple[str, str, int]  # content hash, label, which of several such examples
Link = tuple[int, int]  # two rows that depend on each other


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What a run said of an example that it had not learnt from."""

    id: str
    is_test: bool
    target: str
    label: str
    credit: float | None = None  # None: 1 where the label is the target, else 0

    @property
    def score(self) -> float:
        """What it adds to the run's score."""
        return float(self.label == self.target) if self.credit is None else self.credit


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """A run's data, and all that it said of examples held out."""

    data: DataRecord
    answers: tuple[RunAnswer, ...]

    @property
    def leaked(self) -> frozenset[str]:
        """Ids of examples of which the run itself found that training had seen them."""
        leaks = (problem for problem in self.data.problems if problem.kind == "leakage")
        return frozenset(id for leak in leaks for id in leak.items)

    def by_key(self, without: frozenset[str] = frozenset()) -> dict[Key, RunAnswer]:
        """What was said, by content and label rather than by name."""
        content = {example.id: example.sha256 for example in self.data.examples}
        times: dict[tuple[str, str], int] = {}
        found: dict[Key, RunAnswer] = {}
        for said in sorted(self.answers, key=lambda said: said.id):
            if said.id not in without and said.id in content:
                pair = (content[said.id], said.target)
                times[pair] = times.get(pair, -1) + 1
                found[(*pair, times[pair])] = said
        return found

    @property
    def train_hashes(self) -> frozenset[str]:
        """Content hashes of what the run learnt from."""
        return frozenset(e.sha256 for e in self.data.examples if e.split != "test")


@dataclass(frozen=True, slots=True)
class Common:
    """The rows that all runs held out.

    Shapes: hits (M, n) of 0 and 1, is_test (M, n). `links` are rows that depend on each other,
    as any of the runs found. `leaked` and `relabelled` count what was left out.
    """

    rows: ComparedRows
    hits: NDArray[np.float64]
    is_test: NDArray[np.bool_]
    links: tuple[Link, ...]
    leaked: int
    relabelled: int


def common(runs: Sequence[HeldOutAnswers]) -> Common:
    """Examples that every run held out: the test part where it is the same, else any such.

    Those that some run had seen before are left out; so are those with another label in
    another run. There may be none.
    """
    whole = [run.by_key() for run in runs]
    clean = [run.by_key(without=run.leaked) for run in runs]
    keys = _shared(clean, _tested) if _same_tests(whole) else []
    rows_of: Callable[[Mapping[Key, RunAnswer]], set[Key]] = _tested if keys else _all
    keys = keys or _shared(clean, _all)
    shape = (len(runs), len(keys))
    is_test = np.array([[s[k].is_test for k in keys] for s in clean], dtype=bool).reshape(shape)
    hits = [[s[k].score for k in keys] for s in clean]
    contents = set.intersection(*({key[0] for key in rows_of(said)} for said in clean))
    return Common(
        rows="test" if keys and is_test.all() else "held-out",
        hits=np.array(hits, dtype=float).reshape(shape),
        is_test=is_test,
        links=_links(runs, clean, keys),
        leaked=len(_shared(whole, rows_of)) - len(keys),
        relabelled=len(contents - {key[0] for key in keys}),
    )


def _all(said: Mapping[Key, RunAnswer]) -> set[Key]:
    return set(said)


def _tested(said: Mapping[Key, RunAnswer]) -> set[Key]:
    return {key for key, one in said.items() if one.is_test}


def _same_tests(runs: Sequence[Mapping[Key, RunAnswer]]) -> bool:
    """Whether all have the same images in their test parts, whatever they are called."""
    tests = [frozenset(key[0] for key in _tested(said)) for said in runs]
    return len(set(tests)) == 1 and bool(tests[0])


def _shared(
    runs: Iterable[Mapping[Key, RunAnswer]], rows_of: Callable[[Mapping[Key, RunAnswer]], set[Key]]
) -> list[Key]:
    return sorted(set.intersection(*(rows_of(said) for said in runs)))


def _links(
    runs: Sequence[HeldOutAnswers], said: Sequence[Mapping[Key, RunAnswer]], keys: Sequence[Key]
) -> tuple[Link, ...]:
    """Copies of one content, near copies and groups, as pairs of rows."""
    found: set[Link] = set()
    for run, one in zip(runs, said, strict=True):
        place = {one[key].id: row for row, key in enumerate(keys)}
        found |= {
            (place[a], place[b]) for a, b in run.data.near_duplicates if a in place and b in place
        }
        together: dict[tuple[str, str], list[int]] = {}
        for example in run.data.examples:
            if example.id in place:
                together.setdefault(("bytes", example.sha256), []).append(place[example.id])
                if example.group is not None:
                    together.setdefault(("group", example.group), []).append(place[example.id])
        found |= {link for rows in together.values() for link in pairwise(rows)}
    return tuple(sorted(found))


Accuracy = tuple[float, float, float]  # value, low, high
SIGNIFICANT = 0.05


def inflation_of(rows: ComparedRows, claims: Sequence[Estimate | None]) -> float:
    """Variance of a difference over that of independent hits.

    1 on a test part, or a hold-out that the user set apart: there the finished models
    themselves, or ones that differ little from them, are compared. Elsewhere every row was
    answered by a model that learnt without it.
    """
    is_held = all(claim is not None and claim.method == "holdout" for claim in claims)
    return 1.0 if rows == "test" or is_held else MODEL_VARIANCE


def accuracies(hits: NDArray[np.float64], groups: Groups, inflation: float = 1.0) -> list[Accuracy]:
    """Accuracy of each run with its 95 % interval. Shapes: hits (M, n), blocks (n,)."""
    return [proportion(row, groups, inflation) for row in hits]


def means(credits: NDArray[np.float64], groups: Groups, inflation: float = 1.0) -> list[Accuracy]:
    """The score of each run where rows add other values than 0 and 1 to it.

    Shapes: credits (M, n), blocks (n,).
    """
    found = []
    for row in credits:
        value, low, high = mean_interval(row, groups)
        wider = float(np.sqrt(inflation))
        found.append((value, value - wider * (value - low), value + wider * (high - value)))
    return found


def pairs(
    names: Sequence[str], hits: NDArray[np.float64], groups: Groups, inflation: float = 1.0
) -> tuple[Pair, ...]:
    """Every pair of runs, in the order of `names`.

    A run wins where the difference is more than chance for all pairs together (Holm).
    Shapes: hits (M, n), blocks (n,).

    >>> sure, unsure = np.ones(60), np.tile([1.0, 0.0, 1.0], 20)
    >>> found = pairs(["a", "b", "c"], np.stack([sure, unsure, unsure]), np.arange(60))
    >>> [(pair.a, pair.b, pair.winner) for pair in found]
    [('a', 'b', 'a'), ('a', 'c', 'a'), ('b', 'c', None)]
    """
    both = list(combinations(range(len(names)), 2))
    gaps = [hits_difference(hits[a], hits[b], groups, inflation) for a, b in both]
    adjusted = holm([gap.p for gap in gaps])
    return tuple(
        Pair(
            a=names[a],
            b=names[b],
            difference=gap.value,
            low=gap.low,
            high=gap.high,
            n=hits.shape[1],
            p=p,
            winner=_winner(names[a], names[b], gap.value, p),
        )
        for (a, b), gap, p in zip(both, gaps, adjusted, strict=True)
    )


def _winner(a: str, b: str, difference: float, p: float) -> str | None:
    if p >= SIGNIFICANT:
        return None
    return a if difference > 0 else b


# ---- How soon a training was nearly as good as at its end, read from the events of its run.


NEAR = 0.95  # of the accuracy at the end
RESTARTS = ("stuck", "diverged")  # guards after which a training begins anew


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on rows held out, mean over the trainings that held rows out.

    `updates` are those of one training; `seconds` passed from the beginning of the run until
    the first of them was there, time in which nobody worked not counted.
    """

    updates: int
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Convergence:
    """The updates made in all trainings, and what was seen on the way, in order."""

    updates: int
    points: tuple[Point, ...]

    def near_end(self) -> Point | None:
        """The first point at 95 % of the value of the last; None where nothing was seen.

        >>> points = (Point(0, 0.2, 5.0), Point(10, 0.78, 7.0), Point(20, 0.8, 9.0))
        >>> course = Convergence(40, points)
        >>> course.near_end().updates
        10
        """
        if not self.points:
            return None
        enough = NEAR * self.points[-1].value
        return next(point for point in self.points if point.value >= enough)


def course_of(events: Iterable[Event], fitted: float | None) -> Convergence:
    """What the events of a run tell of its trainings.

    `fitted`: seconds until the output was fitted that training began from; None where it began
    from nothing, and so knew nothing before its first update.
    """
    log = _Log()
    for event in events:
        log.see(event)
    points = list(_mean(list(log.looks.values())))
    before = [
        extracted.head for looks in log.looks.values() for extracted in list(looks.values())[:1]
    ]
    known = [head for head in before if head is not None]
    if points and known and fitted is not None:
        points.insert(0, Point(0, sum(known) / len(known), fitted))
    return Convergence(len(log.made), tuple(points))


@dataclass(frozen=True, slots=True)
class _Look:
    value: float
    head: float | None  # before the first update
    seconds: float


@dataclass(slots=True)
class _Log:
    """Events taken in one by one."""

    begins: dict[int, int] = field(default_factory=dict)  # updates before a training's first
    looks: dict[int, dict[int, _Look]] = field(default_factory=dict)  # by training, by updates
    made: set[tuple[int, int, int]] = field(default_factory=set)  # training, attempt, update
    _seconds: float = 0.0
    _last: float | None = None
    _at: tuple[int, int] = (0, 0)  # training and update
    _attempt: int = 0
    _is_alarmed: bool = False
    _is_beside: bool = False  # what is made to compare with is no part of the course

    def see(self, event: Event) -> None:
        """Take in an event; the log of a resumed run tells some updates twice."""
        self._tick(event)
        if event.stage != "fine_tune":
            return
        if event.kind == "begin":
            self._is_beside = BESIDE in event.values
        if self._is_beside:
            return
        if event.kind == "guard":
            self._is_alarmed |= event.values.get("guard") in RESTARTS
        elif event.kind == "step" and "job" in event.values:
            self._step(event, int(event.values["job"]))

    def _tick(self, event: Event) -> None:
        if "folder" in event.values:  # a process begins: what it had worked before stands there
            own = event.values.items()
            self._seconds += sum(v for k, v in own if k != "folder" and isinstance(v, float))
        elif self._last is not None:
            self._seconds += max(event.t - self._last, 0.0)
        self._last = event.t

    def _step(self, event: Event, training: int) -> None:
        # Those that hold rows out make fewer updates than the last: a training tells its own begin.
        updates = event.step - self.begins.setdefault(training, event.step - 1)
        if self._is_alarmed and (training, updates) <= self._at:
            self._attempt += 1
            self.looks.pop(training, None)
        self._is_alarmed, self._at = False, (training, updates)
        self.made.add((training, self._attempt, updates))
        value, head = event.values.get("val"), event.values.get("head")
        if isinstance(value, (int, float)):
            extracted = _Look(value, float(head) if head is not None else None, self._seconds)
            self.looks.setdefault(training, {}).setdefault(updates, extracted)


def _mean(trainings: Sequence[dict[int, _Look]]) -> Iterable[Point]:
    """One point for each number of updates at which every training was looked at."""
    if not trainings:
        return
    for updates in sorted(set.intersection(*map(set, trainings))):
        looks = [training[updates] for training in trainings]
        value = sum(extracted.value for extracted in looks) / len(looks)
        yield Point(updates, value, min(extracted.seconds for extracted in looks))
