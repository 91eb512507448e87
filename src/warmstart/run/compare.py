"""`warmstart compare A B…`: finished runs on the examples that all of them held out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from warmstart.data.splits import group_numbers
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.evaluation.compare import (
    HeldOut,
    RunAnswer,
    accuracies,
    common,
    course_of,
    inflation_of,
    means,
    pairs,
)
from warmstart.events import Event
from warmstart.nouns import nouns_of
from warmstart.records.comparison import ComparedRun, Comparison, FailedRun
from warmstart.records.data import DataRecord, Example, Task
from warmstart.records.recording import LOG, earlier_events
from warmstart.records.run_folder import RunFolder, read_json
from warmstart.records.summary import Summary
from warmstart.solve.calibration import log_losses_of
from warmstart.stats.intervals import Groups
from warmstart.tasks.multilabel import MULTILABEL

# ---- What each example held out adds to a run's score, from its line in predictions.jsonl.


Credit = Callable[[Mapping[str, Any]], float | None]
# What the mean of these is called. Of several labels: log-loss against that of a coin, 1 where
# every label is certain and right, 0 where all are called even.
METRICS: dict[Task, str] = {"classify": "accuracy", "multilabel": "log_score", "regress": "r2"}


def _numbers(data: DataRecord) -> Credit:
    values = np.array([float(e.label) for e in data.examples if e.split != "test"])
    variance = max(float(values.var()), 1e-300)
    return lambda told: 1 - (float(told["value"]) - float(told["target"])) ** 2 / variance


def _label_sets(data: DataRecord) -> Credit:
    def credit(told: Mapping[str, Any]) -> float:
        truth = MULTILABEL.read([told["target"]], data.classes)
        said = np.array([[told["scores"][name] for name in data.classes]])
        return 1 - float(log_losses_of(MULTILABEL.scores_of(said), truth)[0]) / math.log(2)

    return credit


_CREDITS: dict[Task, Callable[[DataRecord], Credit]] = {
    "classify": lambda data: lambda told: None,  # the label is the target, or not
    "multilabel": _label_sets,
    "regress": _numbers,
}


def credit_of(data: DataRecord) -> Credit:
    """From a line to its credit; None where label and target say all."""
    return _CREDITS[data.task](data)


STAGES_TO_HEAD = ("read", "features", "checks", "plan", "head")
HOW = "warmstart compare DATA --strategies head,full"


class HasPath(Protocol):
    """A finished run, as `fit` hands it back."""

    @property
    def path(self) -> Path:
        """Its folder."""


def compare(*runs: str | Path | HasPath) -> Comparison:
    """Compare finished runs on the examples that all of them held out, told by their bytes.

    On the test set where all have the same one, else on examples that each run held out in
    some way. Every pair has its difference with a 95 % interval, and a winner or none.
    Raises: UsageError for fewer than two runs; RunFolderError for a folder that is no finished
    run with a model; DataError where classes differ, or nothing was held out in common.

    >>> compare("runs/a")
    Traceback (most recent call last):
    warmstart.errors.UsageError: compare needs at least two runs; to run strategies first: \
warmstart compare DATA --strategies head,full
    """
    paths = [_path_of(run) for run in runs]
    if len(paths) < 2:
        raise UsageError(f"compare needs at least two runs; to run strategies first: {HOW}")
    return compared([open_run(name, path) for name, path in named(paths)])


def _path_of(run: object) -> Path:
    place = run if isinstance(run, (str, Path)) else getattr(run, "path", None)
    if not isinstance(place, (str, Path)):
        raise UsageError("compare() wants paths of run folders, or runs as fit() returned them.")
    return Path(place)


# ---- a finished run ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A finished run, as far as a comparison needs it; `name` is what it is called in it."""

    name: str
    path: Path
    summary: Summary
    held: HeldOut
    events: tuple[Event, ...]


def named(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each run by the name of its folder, or by its path where that is not enough.

    Raises: UsageError for a run that is named twice.
    """
    places = [path.resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            first = paths[places.index(place)]
            raise UsageError(f"{first} and {paths[number]} are the same run; name another one.")
    times = Counter(place.name for place in places)
    for path, place in zip(paths, places, strict=True):
        own = _own_path(path)
        yield (place.name if times[place.name] == 1 else str(own)), own


def _own_path(path: Path) -> Path:
    """As typed; of `runs/latest`, or a folder given as `.`, what it is called by itself."""
    if path.is_symlink():
        return path.parent / path.readlink()
    return path if path.name else path.resolve()


def open_run(name: str, path: Path) -> OpenRun:
    """Read a finished run. Raises: RunFolderError if it is none, or has no model."""
    _check_finished(path)
    summary = read_json(path / "summary.json", Summary)
    if summary.shipped.strategy == "none":
        raise RunFolderError(
            f"{path} shipped no model ({summary.shipped.why.rstrip('.')}); a --strategy of your "
            "own would have one all the same."
        )
    data = read_json(path / "data.json", DataRecord)
    held = HeldOut(data, tuple(_said(path, credit_of(data))))
    events = tuple(earlier_events(path / LOG)) if (path / LOG).is_file() else ()
    return OpenRun(name, path, summary, held, events)


def _check_finished(path: Path) -> None:
    if (path / "summary.json").is_file():
        return
    if not path.exists():
        raise RunFolderError(f"{path} does not exist; name folders of runs, such as runs/photos.")
    if (path / "FAILED").is_file():
        why = (path / "FAILED").read_text("utf-8", errors="replace").strip().rstrip(".")
        raise RunFolderError(f"{path} failed ({why or 'unknown'}); mend that, then fit again.")
    if RunFolder(path).can_go_on:
        way = RunFolder(path).way_on
        raise RunFolderError(f"{path} has not come to its end; go on with it first: {way}")
    raise RunFolderError(
        f"{path} holds no summary.json, so it is no finished run; if it is data, add what to run "
        f"on it: warmstart compare {path} --strategies head,full"
    )


def _said(path: Path, credit: Credit) -> Iterator[RunAnswer]:
    """The lines of predictions.jsonl. Raises: RunFolderError if there are none to be read."""
    file = path / "predictions.jsonl"
    try:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                yield RunAnswer(
                    told["id"],
                    told["split"] == "test",
                    told["target"],
                    told["label"],
                    credit(told),
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error}), and a comparison rests on it; restore it, or make "
            "the run again."
        ) from error


# ---- all of them ---------------------------------------------------------------------------


def compared(runs: Sequence[OpenRun], failed: Sequence[FailedRun] = ()) -> Comparison:
    """The runs from best to worst. Raises: DataError where they cannot be compared."""
    _check_classes(runs)
    shared = common([run.held for run in runs])
    n = shared.hits.shape[1]
    if not n:
        raise DataError(_nothing_common(runs, shared.seen_before, shared.relabelled))
    hits = shared.hits
    order = np.argsort(-hits.mean(axis=1), kind="stable")
    block, inflation = (
        _blocks(n, shared.links),
        inflation_of(shared.rows, [run.summary.estimate for run in runs]),
    )
    ranked = [runs[place] for place in order]
    task, kind = runs[0].summary.task, runs[0].held.data.kind
    values = (accuracies if task == "classify" else means)(hits[order], block, inflation)
    return Comparison(
        metric=METRICS[task],
        rows=shared.rows,
        n=n,
        runs=tuple(_record(run, value) for run, value in zip(ranked, values, strict=True)),
        pairs=pairs([run.name for run in ranked], hits[order], block, inflation),
        n_common_train=len(frozenset.intersection(*(run.held.learnt for run in runs))),
        seen_before=shared.seen_before,
        relabelled=shared.relabelled,
        failed=tuple(failed),
        kind=None if kind == "image" else kind,
    )


def _blocks(n: int, links: Sequence[tuple[int, int]]) -> Groups:
    rows = [Example(id=f"{i}", label="", split="test", sha256=f"{i}") for i in range(n)]
    return group_numbers(rows, [(f"{a}", f"{b}") for a, b in links])


def _check_classes(runs: Sequence[OpenRun]) -> None:
    first = runs[0]
    for other in runs[1:]:
        a, b = set(first.held.data.classes), set(other.held.data.classes)
        if a != b:
            only = [f"{min(a - b)!r} only in {first.path}"] if a - b else []
            only += [f"{min(b - a)!r} only in {other.path}"] if b - a else []
            raise DataError(
                f"{first.path} and {other.path} have other classes ({', '.join(only)}); "
                "compare runs that name the same ones."
            )


def _nothing_common(runs: Sequence[OpenRun], seen_before: int, relabelled: int) -> str:
    names = " and ".join(str(run.path) for run in runs)
    nouns = nouns_of(runs[0].held.data.kind)
    if seen_before:
        return (
            f"{names} held out {nouns.count(seen_before)} in common, all of which one of them had "
            "seen "
            f"before (its findings call it a leak); give all the same --test of other {nouns.many}."
        )
    if relabelled:
        return (
            f"{names} held out {nouns.count(relabelled)} in common, all with other labels; fit "
            "them with the same labels."
        )
    return (
        f"{names} held out no {nouns.one} in common, so nothing can be compared; fit them on the "
        "same data, or give all the same --test."
    )


def _record(run: OpenRun, value: tuple[float, float, float]) -> ComparedRun:
    summary = run.summary
    strategy, seconds = summary.shipped.strategy, summary.seconds
    fitted = sum(seconds.get(stage, 0.0) for stage in STAGES_TO_HEAD)
    course = course_of(run.events, None if strategy.startswith("scratch") else fitted)
    near = course.near_end()
    soon = (near.updates, near.seconds) if near else (None, None)
    updates, after = (0, fitted) if strategy == "head" else soon
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
        n_train=len(run.held.learnt),
        seconds=seconds.get("total", 0.0),
        seconds_features=seconds.get("features", 0.0),
        features_cached=_found_kept(run.events),
        updates=course.updates,
        updates_to_95=updates,
        seconds_to_95=None if after is None else round(after, 3),
        readiness=summary.readiness,
    )


def _found_kept(events: Sequence[Event]) -> bool:
    """Whether the look at the images had been made before, and was in the store."""
    begun = [e.values["missing"] for e in events if e.stage == "features" and "missing" in e.values]
    return bool(begun) and begun[0] == 0
