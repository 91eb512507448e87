"""`warmstart compare`: finished runs on the examples that all of them held out, and strategies."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.data.read import list_source
from warmstart.data.splits import group_numbers
from warmstart.errors import (
    DataError,
    ModelError,
    PlanError,
    RunFolderError,
    TrainingError,
    UsageError,
)
from warmstart.events import BESIDE, Event, Steps, note
from warmstart.modalities.registry import MODALITIES
from warmstart.planning.strategy import parse
from warmstart.records.comparison import ComparedRows, ComparedRun, Comparison, Failed, Pair
from warmstart.records.data import DataRecord, Example
from warmstart.records.run_folder import LOG, RunFolder, earlier_events, read_json
from warmstart.records.summary import Estimate, Summary
from warmstart.request import Request, columns_of, folder_name
from warmstart.stats.intervals import Groups, accuracy_interval
from warmstart.stats.metrics import MODEL_VARIANCE
from warmstart.stats.paired import hits_difference, holm, mean_interval
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Credit

STAGES_TO_HEAD = ("read", "features", "checks", "plan", "head")
USAGE = "warmstart compare DATA --strategies head,full"


def credit_of(data: DataRecord) -> Credit:
    """From a line of predictions.jsonl to what it adds to a run's score."""
    labels = [example.label for example in data.examples if example.split != "test"]
    return TASKS[data.task].line_credits(labels, data.classes)


class HasPath(Protocol):
    """A finished run: `Run` or `Finished`."""

    @property
    def path(self) -> Path: ...


def compare(*runs: str | Path | HasPath) -> Comparison:
    """Compare finished runs on the examples that all of them held out, matched by their bytes.

    On the test set where all have the same one, else on examples that each run held out in
    some way. Every pair has its difference with a 95 % interval, and a winner or none.
    Raises: UsageError for fewer than two runs; RunFolderError for a folder that is no finished
    run with a model; DataError where classes differ, or nothing was held out in common.

    >>> compare("runs/a")
    Traceback (most recent call last):
    warmstart.errors.UsageError: compare needs at least two runs; to run strategies first: \
warmstart compare DATA --strategies head,full
    """
    paths = [run if isinstance(run, (str, Path)) else getattr(run, "path", None) for run in runs]
    if not all(isinstance(path, (str, Path)) for path in paths):
        raise UsageError("compare() wants paths of run folders, or runs as fit() returned them.")
    if len(paths) < 2:
        raise UsageError(f"compare needs at least two runs; to run strategies first: {USAGE}")
    return compared([open_run(name, path) for name, path in named([Path(str(p)) for p in paths])])


@dataclass(frozen=True, slots=True)
class OpenRun:
    """The records of a finished run that a comparison reads, under the run's name in it."""

    name: str
    path: Path
    summary: Summary
    held: HeldOutAnswers
    events: tuple[Event, ...]


def named(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each run by the name of its folder, or by its path where names are equal.

    `runs/latest`, and a folder given as `.`, go by what they stand for.
    """
    resolved = [path.resolve() for path in paths]
    for number, place in enumerate(resolved):
        if place in resolved[:number]:
            first = paths[resolved.index(place)]
            raise UsageError(f"{first} and {paths[number]} are the same run; name another one.")
    times = Counter(place.name for place in resolved)
    for path, place in zip(paths, resolved, strict=True):
        actual = path if path.name else place
        if path.is_symlink():
            actual = path.parent / path.readlink()
        yield (place.name if times[place.name] == 1 else str(actual)), actual


def open_run(name: str, path: Path) -> OpenRun:
    """Read a finished run. Raises: RunFolderError if it is none, or has no model."""
    _check_finished(path)
    summary = read_json(path / "summary.json", Summary)
    if summary.shipped.strategy == "none":
        raise RunFolderError(
            f"{path} shipped no model ({summary.shipped.why.rstrip('.')}); with a --strategy that "
            "you name, it would."
        )
    data = read_json(path / "data.json", DataRecord)
    held = HeldOutAnswers(data, tuple(_read_predictions(path, credit_of(data))))
    events = tuple(earlier_events(path / LOG)) if (path / LOG).is_file() else ()
    return OpenRun(name, path, summary, held, events)


def _check_finished(path: Path) -> None:
    if (path / "summary.json").is_file():
        return
    if not path.exists():
        raise RunFolderError(f"{path} does not exist; name folders of runs, such as runs/photos.")
    if (path / "FAILED").is_file():
        why = (path / "FAILED").read_text("utf-8", errors="replace").strip().rstrip(".")
        raise RunFolderError(f"{path} failed ({why or 'unknown'}); fix that, then fit again.")
    if RunFolder(path).is_resumable:
        command = RunFolder(path).resume_command
        raise RunFolderError(f"{path} has not finished; resume it first: {command}")
    raise RunFolderError(
        f"{path} holds no summary.json, so it is no finished run; if it is data, add what to run "
        f"on it: warmstart compare {path} --strategies head,full"
    )


def _read_predictions(path: Path, credit: Credit) -> Iterator[RunAnswer]:
    """The lines of predictions.jsonl. Raises: RunFolderError if they cannot be read."""
    file = path / "predictions.jsonl"
    try:
        with open(file, encoding="utf-8") as lines:
            for text in lines:
                line = json.loads(text)
                is_test = line["split"] == "test"
                yield RunAnswer(line["id"], is_test, line["target"], line["label"], credit(line))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error}), and a comparison needs it; restore it, or make the "
            "run again."
        ) from error


def compared(runs: Sequence[OpenRun], failed: Sequence[Failed] = ()) -> Comparison:
    """The runs from best to worst. Raises: DataError where they cannot be compared."""
    _check_classes(runs)
    shared = common([run.held for run in runs])
    hits, n = shared.hits, shared.hits.shape[1]
    if not n:
        raise DataError(_nothing_common(runs, shared.leaked, shared.relabelled))
    order = np.argsort(-hits.mean(axis=1), kind="stable")
    rows = [Example(id=f"{i}", label="", split="test", sha256=f"{i}") for i in range(n)]
    groups = group_numbers(rows, [(f"{a}", f"{b}") for a, b in shared.links])
    inflation = inflation_of(shared.rows, [run.summary.estimate for run in runs])
    ranked = [runs[place] for place in order]
    target, kind = TASKS[runs[0].summary.task], runs[0].held.data.kind
    values = (accuracies if target.has_classes else means)(hits[order], groups, inflation)
    return Comparison(
        metric=target.line_metric,
        rows=shared.rows,
        n=n,
        runs=tuple(_record(run, value) for run, value in zip(ranked, values, strict=True)),
        pairs=pairs([run.name for run in ranked], hits[order], groups, inflation),
        n_common_train=len(frozenset.intersection(*(run.held.train_hashes for run in runs))),
        leaked=shared.leaked,
        relabelled=shared.relabelled,
        failed=tuple(failed),
        kind=kind,
    )


def _check_classes(runs: Sequence[OpenRun]) -> None:
    one = runs[0]
    for other in runs[1:]:
        a, b = set(one.held.data.classes), set(other.held.data.classes)
        if a != b:
            differences = (a - b, one.path), (b - a, other.path)
            only = ", ".join(
                f"{min(names)!r} only in {path}" for names, path in differences if names
            )
            raise DataError(
                f"{one.path} and {other.path} have different classes ({only}); compare runs that "
                "name the same ones."
            )


def _nothing_common(runs: Sequence[OpenRun], leaked: int, relabelled: int) -> str:
    nouns = MODALITIES[runs[0].held.data.kind].nouns
    held = f"{' and '.join(str(run.path) for run in runs)} held out"
    if leaked:
        return (
            f"{held} {nouns.count(leaked)} in common, but one of them was trained on all of these "
            f"(data leakage in its findings); give all the same --test of other {nouns.many}."
        )
    if relabelled:
        n = nouns.count(relabelled)
        return f"{held} {n} in common, all with other labels; fit them with the same labels."
    return (
        f"{held} no {nouns.one} in common, so nothing can be compared; fit them on the same data, "
        "or give all the same --test."
    )


def _record(run: OpenRun, value: tuple[float, float, float]) -> ComparedRun:
    summary = run.summary
    strategy, seconds = summary.shipped.strategy, summary.seconds
    fitted = sum(seconds.get(stage, 0.0) for stage in STAGES_TO_HEAD)
    course = convergence(run.events, None if strategy.startswith("scratch") else fitted)
    near = course.near_end()
    updates, after = (near.updates, near.seconds) if near else (None, None)
    if strategy == "head":
        updates, after = 0, fitted
    begins = (e.values for e in run.events if e.stage == "features" and "missing" in e.values)
    return ComparedRun(
        name=run.name,
        path=str(run.path),
        strategy=strategy,
        why=summary.shipped.why,
        base=summary.base.name,
        verdict=summary.verdict.kind,
        value=value[0],
        low=value[1],
        high=value[2],
        n_train=len(run.held.train_hashes),
        seconds=seconds.get("total", 0.0),
        seconds_features=seconds.get("features", 0.0),
        # Whether all features were in the cache when extraction began.
        features_cached=next((values["missing"] == 0 for values in begins), False),
        updates=course.updates,
        updates_to_95=updates,
        seconds_to_95=None if after is None else round(after, 3),
        readiness=summary.readiness,
    )


# ---- `warmstart compare DATA --strategies A,B`: run each strategy, then compare the runs.


def compare_strategies(
    places: Sequence[str], strategies: Sequence[str], request: Request
) -> Steps[Comparison]:
    """Run each strategy on the data among `places`, then compare them, and the runs among them.

    All share data, base model and seed, and find the features of the first
    in the cache; minutes are divided equally. Each has a run folder, runs/<data name>-<strategy>.
    One that fails is reported, and the others are compared.
    Raises: as `compare` does; UsageError or PlanError for words that are no strategies; the first
    error of a strategy where fewer than two runs are left.
    """
    try:
        depths = list(dict.fromkeys(map(parse, strategies)))
    except PlanError as error:  # name the option of `compare`, not the one of `fit`
        raise PlanError(str(error).replace("--strategy ", "--strategies ", 1)) from None
    data = _find_data(places)
    runs = [open_run(name, path) for name, path in named([Path(p) for p in places if p != data])]
    if len(runs) + len(depths) < 2:
        raise UsageError(f"compare needs at least two runs or strategies, such as: {USAGE}")
    name = list_source(data, columns_of(request)).name
    request = replace(_divide_minutes(request, len(depths)), data=data, out=None)
    finished, failed, kinds = [], [], []
    for number, depth in enumerate(depths, 1):
        strategy = str(depth)
        yield note("read", "Strategy", f"{strategy}, {number} of {len(depths)}")
        try:
            path = yield from _run(replace(request, strategy=depth), name)
            finished.append(open_run(strategy, path))
            yield note("deliver", "Run", str(path))
        except (PlanError, ModelError, TrainingError, RunFolderError) as error:
            failed.append(Failed(name=strategy, error=str(error)))
            kinds.append(type(error))
            yield note("read", "Failed", f"{strategy}: {error}")
    runs = [*finished, *runs]
    if not runs:
        raise kinds[0](failed[0].error)
    if len(runs) < 2:
        raise TrainingError(
            f"only {runs[0].name} has finished ({runs[0].path}), so nothing can be compared; "
            f"{failed[0].name}: {failed[0].error}"
        )
    # A strategy may be called like the folder of a run: both then go by their paths.
    times = Counter(run.name for run in runs)
    runs = [run if times[run.name] == 1 else replace(run, name=str(run.path)) for run in runs]
    return compared(runs, failed)


def is_run(place: str | Path) -> bool:
    """Whether a folder is a run, finished or not."""
    return any((Path(place) / name).is_file() for name in ("summary.json", "request.json"))


def _find_data(places: Sequence[str]) -> str:
    """The one place that is no run. Raises: UsageError if there is none, or several."""
    data = [place for place in places if not is_run(place)]
    if not data:
        raise UsageError(f"--strategies needs data to run them on, beside runs or alone: {USAGE}")
    if len(data) > 1:
        raise UsageError(
            f"--strategies are run on one data set; of {data[0]} and {data[1]}, neither is a run. "
            "Name one of them."
        )
    return data[0]


def _divide_minutes(request: Request, n_runs: int) -> Request:
    """The remaining minutes in equal parts; the strategy counts as set by the user."""
    given = None if request.given is None else request.given | {"strategy"}
    if request.minutes is None:
        return replace(request, given=given)
    left = max(request.minutes - request.elapsed / 60, 0.01)
    return replace(request, given=given, minutes=left / n_runs, elapsed=0.0)


def _run(request: Request, name: str) -> Steps[Path]:
    """One run in a folder named for its data and strategy; no folder is left if it never began."""
    from warmstart.run.fit import fit  # here: comparing finished runs needs no torch

    folder = RunFolder.create_beside(Path("runs"), folder_name(f"{name}-{request.strategy}"))
    try:
        yield from fit(replace(request, out=folder.path))
    finally:
        with suppress(OSError):
            folder.path.rmdir()  # if it is empty
    folder.point_latest()
    return folder.path


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
