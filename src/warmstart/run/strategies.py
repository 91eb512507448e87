"""`warmstart compare DATA --strategies A,B`: run each strategy, then compare the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from warmstart.data.sources import list_source
from warmstart.errors import (
    ModelError,
    PlanError,
    RunFolderError,
    TrainingError,
    UsageError,
    WarmstartError,
)
from warmstart.events import Steps, note
from warmstart.planning.strategy import parse, word
from warmstart.records.comparison import Comparison, FailedRun
from warmstart.records.run_folder import RunFolder
from warmstart.request import Request, columns_of, folder_name
from warmstart.run.compare import HOW, HasPath, OpenRun, compared, named, open_run

Fit = Callable[[Request], Steps[HasPath]]


def compare_strategies(
    places: Sequence[str], strategies: Sequence[str], request: Request, fit: Fit
) -> Steps[Comparison]:
    """Run each strategy on the data among `places`, then compare them, and the runs among them.

    `fit` is the flow. All have the same data, start and seed, and find the first one's look at
    the images in the store; minutes are shared out equally. Each is a run folder of its own,
    runs/<data name>-<strategy>. One that fails is told of, and the others are compared.
    Raises: as `compare` does; UsageError or PlanError for words that are no strategies; what
    the first of them failed from where fewer than two runs are left.
    """
    words = tuple(dict.fromkeys(_parsed(text) for text in strategies))
    data = _data_among(places)
    runs = [open_run(name, path) for name, path in named([Path(p) for p in places if p != data])]
    if len(runs) + len(words) < 2:
        raise UsageError(f"compare needs at least two runs or strategies, such as: {HOW}")
    name = list_source(data, columns_of(request)).name
    request = replace(_shared_out(request, len(words)), data=data, out=None)
    made, failed, kinds = [], [], []
    for number, strategy in enumerate(words, 1):
        yield note("read", "Strategy", f"{strategy}, {number} of {len(words)}")
        try:
            path = yield from _run(replace(request, strategy=strategy), name, fit)
            made.append(open_run(strategy, path))
            yield note("deliver", "Run", str(path))
        except (PlanError, ModelError, TrainingError, RunFolderError) as error:
            failed.append(FailedRun(name=strategy, error=str(error)))
            kinds.append(type(error))
            yield note("read", "Failed", f"{strategy}: {error}")
    _check_enough([*runs, *made], failed, kinds)
    return compared(_renamed([*made, *runs]), failed)


def _parsed(text: str) -> str:
    """Raises: PlanError that names the option of `compare`, not the one of `fit`."""
    try:
        return word(parse(text))
    except PlanError as error:
        raise PlanError(str(error).replace("--strategy ", "--strategies ", 1)) from None


def is_run(place: str | Path) -> bool:
    """Whether a run lies there, finished or not."""
    return any((Path(place) / name).is_file() for name in ("summary.json", "request.json"))


def _data_among(places: Sequence[str]) -> str:
    """The one place that is no run. Raises: UsageError if there is none, or several."""
    data = [place for place in places if not is_run(place)]
    if not data:
        raise UsageError(f"--strategies needs data to run them on, beside runs or alone: {HOW}")
    if len(data) > 1:
        raise UsageError(
            f"--strategies are run on one data set; of {data[0]} and {data[1]}, neither is a run. "
            "Name one of them."
        )
    return data[0]


def _shared_out(request: Request, n_runs: int) -> Request:
    """The minutes that are left, in equal parts; the strategy counts as typed."""
    given = None if request.given is None else request.given | {"strategy"}
    if request.minutes is None:
        return replace(request, given=given)
    left = max(request.minutes - request.elapsed / 60, 0.01)
    return replace(request, given=given, minutes=left / n_runs, elapsed=0.0)


def _run(request: Request, name: str, fit: Fit) -> Steps[Path]:
    """One run in a folder named for its data and strategy; none is left where it never began."""
    folder = RunFolder.create_beside(Path("runs"), folder_name(f"{name}-{request.strategy}"))
    try:
        yield from fit(replace(request, out=folder.path))
    finally:
        with suppress(OSError):
            folder.path.rmdir()  # if it is empty
    folder.point_latest()
    return folder.path


def _check_enough(
    runs: Sequence[OpenRun], failed: Sequence[FailedRun], kinds: Sequence[type[WarmstartError]]
) -> None:
    if len(runs) >= 2:
        return
    if not runs:
        raise kinds[0](failed[0].error)
    raise TrainingError(
        f"only {runs[0].name} came to its end ({runs[0].path}), so nothing can be compared; "
        f"{failed[0].name}: {failed[0].error}"
    )


def _renamed(runs: Sequence[OpenRun]) -> list[OpenRun]:
    """A strategy may have the name of a run's folder: both then go by their paths."""
    times = Counter(run.name for run in runs)
    return [run if times[run.name] == 1 else replace(run, name=str(run.path)) for run in runs]
