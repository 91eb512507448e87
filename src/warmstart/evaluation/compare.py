"""Runs on the same examples: how accurate each is, every pair, who wins, how soon."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from warmstart.events import BESIDE, Event
from warmstart.records.comparison import ComparedRows, Pair
from warmstart.records.data import DataRecord
from warmstart.records.summary import Estimate
from warmstart.stats.intervals import Groups, accuracy_interval
from warmstart.stats.metrics import MODEL_VARIANCE
from warmstart.stats.paired import hits_difference, holm, mean_interval

# ---- Which examples several runs held out, matched by their bytes, and who predicted them right.


Key = tuple[str, str, int]  # content hash, label, which of several such examples
Link = tuple[int, int]  # two rows that depend on each other


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """A run's prediction for an example that it was not trained on."""

    id: str
    is_test: bool
    target: str
    label: str
    credit: float | None = None  # None: 1 where the label is the target, else 0

    @property
    def score(self) -> float:
        """What it adds to the run's score."""
        return float(self.label == self.target) if self.credit is None else self.credit


Answers = Mapping[Key, RunAnswer]


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """A run's data, and its predictions for held-out examples."""

    data: DataRecord
    answers: tuple[RunAnswer, ...]

    @property
    def leaked(self) -> frozenset[str]:
        """Ids of examples that leaked into training, by the run's own findings."""
        leaks = (problem for problem in self.data.problems if problem.kind == "leakage")
        return frozenset(id for leak in leaks for id in leak.items)

    @property
    def train_hashes(self) -> frozenset[str]:
        """Content hashes of the training examples."""
        return frozenset(e.sha256 for e in self.data.examples if e.split != "test")

    def by_key(self, without: frozenset[str] = frozenset()) -> dict[Key, RunAnswer]:
        """The predictions by content and label; those for ids in `without` are left out."""
        content = {example.id: example.sha256 for example in self.data.examples}
        times: Counter[tuple[str, str]] = Counter()
        answers: dict[Key, RunAnswer] = {}
        for answer in sorted(self.answers, key=lambda answer: answer.id):
            if answer.id not in without and answer.id in content:
                pair = (content[answer.id], answer.target)
                answers[(*pair, times[pair])] = answer
                times[pair] += 1
        return answers


@dataclass(frozen=True, slots=True)
class Common:
    """The rows that all runs held out.

    Shapes: hits (M, n) of 0 and 1, is_test (M, n). `links` are rows that depend on each other,
    by the findings of any run. `leaked` and `relabelled` count the rows that were left out.
    """

    rows: ComparedRows
    hits: NDArray[np.float64]
    is_test: NDArray[np.bool_]
    links: tuple[Link, ...]
    leaked: int
    relabelled: int


def common(runs: Sequence[HeldOutAnswers]) -> Common:
    """Examples that every run held out: the test set where all share it, else any such.

    Examples that leaked into the training of some run are left out; so are those with another
    label in another run. There may be none.
    """
    whole = [run.by_key() for run in runs]
    clean = [run.by_key(without=run.leaked) for run in runs]
    contents = {frozenset(key[0] for key in _test_keys(answers)) for answers in whole}
    has_same_test = len(contents) == 1 and contents != {frozenset()}
    keys = _shared(clean, _test_keys) if has_same_test else []
    keys_of: Callable[[Answers], set[Key]] = _test_keys if keys else set
    keys = keys or _shared(clean, set)
    shape = (len(runs), len(keys))
    is_test = np.array([[a[k].is_test for k in keys] for a in clean], dtype=bool).reshape(shape)
    hits = np.array([[a[k].score for k in keys] for a in clean], dtype=float).reshape(shape)
    shared = set.intersection(*({key[0] for key in keys_of(answers)} for answers in clean))
    return Common(
        rows="test" if keys and is_test.all() else "held-out",
        hits=hits,
        is_test=is_test,
        links=_links(runs, clean, keys),
        leaked=len(_shared(whole, keys_of)) - len(keys),
        relabelled=len(shared - {key[0] for key in keys}),
    )


def _test_keys(answers: Answers) -> set[Key]:
    return {key for key, answer in answers.items() if answer.is_test}


def _shared(runs: Iterable[Answers], keys_of: Callable[[Answers], set[Key]]) -> list[Key]:
    return sorted(set.intersection(*(keys_of(answers) for answers in runs)))


def _links(
    runs: Sequence[HeldOutAnswers], by_run: Sequence[Answers], keys: Sequence[Key]
) -> tuple[Link, ...]:
    """Copies of one content, near-duplicates and groups, as pairs of rows."""
    links: set[Link] = set()
    for run, answers in zip(runs, by_run, strict=True):
        row = {answers[key].id: number for number, key in enumerate(keys)}
        links |= {(row[a], row[b]) for a, b in run.data.near_duplicates if a in row and b in row}
        together: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for example in run.data.examples:
            if example.id in row:
                together["bytes", example.sha256].append(row[example.id])
                if example.group is not None:
                    together["group", example.group].append(row[example.id])
        links |= {link for rows in together.values() for link in pairwise(rows)}
    return tuple(sorted(links))


Accuracy = tuple[float, float, float]  # value, low, high
SIGNIFICANT = 0.05


def inflation_of(rows: ComparedRows, estimates: Sequence[Estimate | None]) -> float:
    """Variance of a difference over that of independent hits.

    1 on a test set, or on the user's validation set: there the finished models themselves, or
    ones that differ little from them, are compared. Elsewhere each row was predicted by a model
    trained without it.
    """
    is_holdout = all(one is not None and one.method == "holdout" for one in estimates)
    return 1.0 if rows == "test" or is_holdout else MODEL_VARIANCE


def accuracies(hits: NDArray[np.float64], groups: Groups, inflation: float = 1.0) -> list[Accuracy]:
    """Accuracy of each run with its 95 % interval. Shapes: hits (M, n), groups (n,)."""
    return [accuracy_interval(row, groups, inflation) for row in hits]


def means(credits: NDArray[np.float64], groups: Groups, inflation: float = 1.0) -> list[Accuracy]:
    """The score of each run where rows add other values than 0 and 1 to it.

    Shapes: credits (M, n), groups (n,).
    """
    scores, wider = [], float(np.sqrt(inflation))
    for row in credits:
        value, low, high = mean_interval(row, groups)
        scores.append((value, value - wider * (value - low), value + wider * (high - value)))
    return scores


def pairs(
    names: Sequence[str], hits: NDArray[np.float64], groups: Groups, inflation: float = 1.0
) -> tuple[Pair, ...]:
    """Every pair of runs, in the order of `names`.

    A run wins where the difference is more than chance for all pairs together (Holm).
    Shapes: hits (M, n), groups (n,).

    >>> good, poor = np.ones(60), np.tile([1.0, 0.0, 1.0], 20)
    >>> compared = pairs(["a", "b", "c"], np.stack([good, poor, poor]), np.arange(60))
    >>> [(pair.a, pair.b, pair.winner) for pair in compared]
    [('a', 'b', 'a'), ('a', 'c', 'a'), ('b', 'c', None)]
    """
    both = list(combinations(range(len(names)), 2))
    gaps = [hits_difference(hits[a], hits[b], groups, inflation) for a, b in both]
    compared = []
    for (a, b), gap, p in zip(both, gaps, holm([gap.p for gap in gaps]), strict=True):
        better = names[a] if gap.value > 0 else names[b]
        compared.append(
            Pair(
                a=names[a],
                b=names[b],
                difference=gap.value,
                low=gap.low,
                high=gap.high,
                n=hits.shape[1],
                winner=better if p < SIGNIFICANT else None,
                p=p,
            )
        )
    return tuple(compared)


# ---- How soon a training was nearly as accurate as at its end, from the events of its run.


NEAR = 0.95  # of the accuracy at the end
RESTARTS = ("stuck", "diverged")  # guards after which a training begins anew


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on held-out rows, mean over the trainings that have any.

    `updates` are those of one training; `seconds` passed from the beginning of the run until
    the first of them reached that point, idle time not counted.
    """

    updates: int
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Convergence:
    """The updates of all trainings, and the validation points on the way, in order."""

    updates: int
    points: tuple[Point, ...]

    def near_end(self) -> Point | None:
        """The first point at 95 % of the value of the last; None without any point.

        >>> points = (Point(0, 0.2, 5.0), Point(10, 0.78, 7.0), Point(20, 0.8, 9.0))
        >>> Convergence(40, points).near_end().updates
        10
        """
        if not self.points:
            return None
        enough = NEAR * self.points[-1].value
        return next(point for point in self.points if point.value >= enough)


def convergence(events: Iterable[Event], head_s: float | None) -> Convergence:
    """The convergence of a run's trainings, from its events.

    `head_s`: seconds until the head was fitted that training began with; None where it began
    from scratch.
    """
    log = _Log()
    for event in events:
        log.add(event)
    validations = log.validations.values()
    first = (next(iter(by_updates.values())) for by_updates in validations)
    heads = [one.head for one in first if one.head is not None]
    points = []
    for updates in sorted(set.intersection(*map(set, validations))) if validations else ():
        all_there = [by_updates[updates] for by_updates in validations]
        value = sum(one.value for one in all_there) / len(all_there)
        points.append(Point(updates, value, min(one.seconds for one in all_there)))
    if points and heads and head_s is not None:
        points.insert(0, Point(0, sum(heads) / len(heads), head_s))
    return Convergence(len(log.updates), tuple(points))


@dataclass(frozen=True, slots=True)
class _Validation:
    value: float
    head: float | None  # before the first update
    seconds: float


@dataclass(slots=True)
class _Log:
    """What the events add up to; the log of a resumed run has some updates twice."""

    begins: dict[int, int] = field(default_factory=dict)  # updates before a training's first
    validations: dict[int, dict[int, _Validation]] = field(default_factory=dict)  # by updates
    updates: set[tuple[int, int, int]] = field(default_factory=set)  # training, attempt, update
    _seconds: float = 0.0
    _last: float | None = None
    _at: tuple[int, int] = (0, 0)  # training and update
    _attempt: int = 0
    _restarts: bool = False
    _is_beside: bool = False  # trainings to compare with do not count

    def add(self, event: Event) -> None:
        if "folder" in event.values:  # a process begins: these are its seconds before the folder
            before = (v for k, v in event.values.items() if k != "folder" and isinstance(v, float))
            self._seconds += sum(before)
        elif self._last is not None:
            self._seconds += max(event.t - self._last, 0.0)
        self._last = event.t
        if event.stage != "fine_tune":
            return
        if event.kind == "begin":
            self._is_beside = BESIDE in event.values
        elif event.kind == "guard" and not self._is_beside:
            self._restarts |= event.values.get("guard") in RESTARTS
        elif event.kind == "step" and "job" in event.values and not self._is_beside:
            self._add_step(event, int(event.values["job"]))

    def _add_step(self, event: Event, training: int) -> None:
        # Trainings with held-out rows make fewer updates than the last one.
        updates = event.step - self.begins.setdefault(training, event.step - 1)
        if self._restarts and (training, updates) <= self._at:
            self._attempt += 1
            self.validations.pop(training, None)
        self._restarts, self._at = False, (training, updates)
        self.updates.add((training, self._attempt, updates))
        value, head = event.values.get("val"), event.values.get("head")
        if isinstance(value, (int, float)):
            one = _Validation(value, float(head) if head is not None else None, self._seconds)
            self.validations.setdefault(training, {}).setdefault(updates, one)
