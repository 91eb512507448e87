"""`warmstart compare`: runs on the same examples, or strategies that are run first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.cli.output import NO_SIGNAL, dumps, settle_imports, watcher
from warmstart.cli.parse import Call
from warmstart.cli.parse import names_in, request_of
from warmstart.cli.stop import stoppable
from warmstart.errors import UsageError
from warmstart.evaluation.readiness import readiness_line
from warmstart.events import Event, follow
from warmstart.formatting import MANY, count, duration, interval, percent, printable
from warmstart.nouns import nouns_of
from warmstart.records.comparison import ComparedRun, Comparison, Pair
from warmstart.terminal.text import WIDTH, column, wrap

# ---- What `compare` found: a table of runs, a line for each pair, what the start was worth.


GAP = "  "
LEAST = 10  # columns that a name keeps
FINE = 0.015  # differences below it are shown in tenths of a point
HEADER = ("run", "shipped", "accuracy", "time", "95 % after")
CALLED = {"accuracy": "accuracy", "log_score": "log score", "r2": "R²"}


def comparison_text(found: Comparison) -> str:
    """The table, on what it was measured, and who is better than whom."""
    shown = [printable(run.name) for run in found.runs]
    names = dict(zip((run.name for run in found.runs), shown, strict=True))
    groups = [
        "\n".join(_unfit(found, names)),
        "\n".join(_table(found.runs, found.n, found.metric)),
        "\n".join(_meaning(found)),
        "\n".join(wrap(_pair(pair, names, found), hanging="  ") for pair in found.pairs),
        "\n".join(_worth(found, names)),
        "\n".join(_rest(found)),
    ]
    return "\n\n".join(block for block in groups if block)


def _unfit(found: Comparison, names: dict[str, str]) -> Iterator[str]:
    """Runs that are not ready, which is more than a difference between them says."""
    for run in found.runs:
        if run.readiness is not None and run.readiness.level == "not-ready":
            yield wrap(f"{names[run.name]}: {readiness_line(run.readiness)}", hanging="  ")


# ---- the table -----------------------------------------------------------------------------


def _table(runs: Sequence[ComparedRun], n: int, metric: str = "accuracy") -> Iterator[str]:
    head = tuple(CALLED[metric] if cell == "accuracy" else cell for cell in HEADER)
    rows = [head, *(_row(run, n) for run in runs)]
    if all(run.strategy == run.name for run in runs):
        rows = [row[:1] + row[2:] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    space = max(WIDTH - sum(widths[1:]) - len(GAP) * (len(widths) - 1), LEAST)
    widths[0] = min(widths[0], space)
    for name, *rest in rows:
        first = name if len(name) <= widths[0] else "…" + name[len(name) - widths[0] + 1 :]
        cells = zip((first, *rest), widths, strict=True)
        yield GAP.join(f"{cell:<{width}}" for cell, width in cells).rstrip()


def _row(run: ComparedRun, n: int) -> tuple[str, ...]:
    return (
        printable(run.name),
        printable(run.strategy),
        interval(run.value, run.low, run.high, n),
        duration(run.seconds),
        _near_end(run),
    )


def _near_end(run: ComparedRun) -> str:
    """`0 updates, 12 s`, or a dash where nobody looked."""
    if run.updates_to_95 is None or run.seconds_to_95 is None:
        return "–"
    return f"{count(run.updates_to_95, 'update')}, {duration(run.seconds_to_95)}"


def _meaning(found: Comparison) -> Iterator[str]:
    where = "of the test set" if found.rows == "test" else "that each held out"
    nouns = nouns_of(found.kind)
    texts = [
        f"on the same {nouns.count(found.n)} {where}; 95 % intervals in brackets.",
        f"95 % after: when it first had 95 % of its final accuracy, by {nouns.many} held out: "
        "updates of one training, time since the run began.",
    ]
    yield column("Meaning", "\n".join(texts))


# ---- pairs ---------------------------------------------------------------------------------


def _pair(pair: Pair, names: dict[str, str], found: Comparison) -> str:
    a, b = names[pair.a], names[pair.b]
    if pair.winner is None:
        gap = _points(pair, found.n)
        is_alone = pair.low <= 0 <= pair.high
        chance = "" if is_alone else "; among so many pairs that can be chance"
        return f"tie: {a} and {b} differ by {gap}{chance}"
    better, worse = (a, b) if pair.winner == pair.a else (b, a)
    return f"{better} is {_points(_seen_from(pair, pair.winner), found.n, f'better than {worse}')}"


def _seen_from(pair: Pair, name: str) -> Pair:
    """The same pair with this run first."""
    if pair.a == name:
        return pair
    return Pair(
        a=pair.b,
        b=pair.a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        n=pair.n,
        winner=pair.winner,
        p=pair.p,
    )


def _points(pair: Pair, n: int, word: str = "") -> str:
    """`3 points (1 to 5, n = 200)`; tenths where whole points would say too little."""
    digits = 1 if n >= MANY or abs(pair.difference) < FINE else 0
    value, low, high = (_signed(x, digits) for x in (pair.difference, pair.low, pair.high))
    unit = "point" if value == "1" else "points"
    return f"{value} {unit}{' ' + word if word else ''} ({low} to {high}, n = {pair.n:,})"


def _signed(share: float, digits: int) -> str:
    text = f"{abs(100 * share):.{digits}f}"
    if float(text) == 0:
        return "0"
    return f"−{text}" if share < 0 else text


# ---- warm against scratch ------------------------------------------------------------------


def _worth(found: Comparison, names: dict[str, str]) -> Iterator[str]:
    """What the start was worth: the best run that began from it, against the best from nothing."""
    warm = next((run for run in found.runs if not _is_scratch(run)), None)
    cold = next((run for run in found.runs if _is_scratch(run)), None)
    if warm is None or cold is None:
        return
    pair = next(pair for pair in found.pairs if {pair.a, pair.b} == {warm.name, cold.name})
    gap = _points(_seen_from(pair, warm.name), found.n)
    shares = f"{names[warm.name]} is right on {percent(warm.value, found.n)}, "
    shares += f"{names[cold.name]} on {percent(cold.value, found.n)}"
    if pair.winner is None:
        text = f"no worth of the base model could be measured: {gap} between "
        text += f"{names[warm.name]} and {names[cold.name]}."
    elif pair.winner == warm.name:
        text = f"the base model was worth {gap}: {shares}."
    else:
        text = f"the base model did harm, {gap}: {shares}."
    yield column("Base", f"{text}\n{_needed(warm, cold, names)}")


def _is_scratch(run: ComparedRun) -> bool:
    return run.strategy.startswith("scratch")


def _needed(warm: ComparedRun, cold: ComparedRun, names: dict[str, str]) -> str:
    told = [
        f"{names[run.name]} {count(run.updates_to_95, 'update')}"
        for run in (warm, cold)
        if run.updates_to_95 is not None
    ]
    return f"to 95 % of the end: {', '.join(told)}." if len(told) == 2 else ""


# ---- what else there is to know ------------------------------------------------------------


def _rest(found: Comparison) -> Iterator[str]:
    runs, nouns = found.runs, nouns_of(found.kind)
    looked, features_cached = (
        [r for r in runs if not r.features_cached],
        [r for r in runs if r.features_cached],
    )
    if looked and features_cached:
        took = [f"{run.name} ({duration(run.seconds_features)})" for run in looked]
        others = _list([run.name for run in features_cached])
        yield column("Look", f"in the time of {_list(took)}; {others} found it in the cache.")
    if any(run.n_train != found.n_common_train for run in runs):
        each = ", ".join(f"{run.name} from {nouns.count(run.n_train)}" for run in runs)
        yield column("Learnt", f"{each}; {found.n_common_train:,} of them are the same.")
    left = [
        (found.seen_before, "that one of the runs had seen before (by its own findings)"),
        (found.relabelled, "whose label is another one in another run"),
    ]
    for n, why in left:
        if n:
            yield column("Left out", f"{nouns.count(n)} {why}.")
    for run in runs:
        if run.strategy != run.name and Path(run.path).name != run.name:
            yield column("Shipped", f"{run.name} ended as {run.strategy}: {run.why.rstrip('.')}.")
    for one in found.failed:
        yield column("Failed", f"{one.name}: {one.error}")
    if any(Path(run.path).name != run.name and run.path != run.name for run in runs):
        yield column("Runs", "\n".join(run.path for run in runs))


def _list(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def compare(call: Call) -> int:
    """`warmstart compare`: progress on stderr; 3 where the data of all runs have no signal.

    Raises: UsageError for options that say how to run what is not run.
    """
    found = _run_first(call) if "--strategies" in call.values else _as_they_are(call)
    print(dumps(found, indent=2) if "--json" in call.switches else comparison_text(found))
    return NO_SIGNAL if {run.verdict for run in found.runs} == {"no-signal"} else 0


def _run_first(call: Call) -> Comparison:
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.fit import fit
        from warmstart.run.strategies import compare_strategies as steps

        settle_imports()
        with stoppable(watch.show) as see:
            strategies = names_in(call.values["--strategies"])
            return follow(steps(call.places, strategies, request_of(call), fit), see)


def _as_they_are(call: Call) -> Comparison:
    from warmstart.run.compare import compare as compared

    settle_imports()
    idle = [*call.values, *call.many, *(call.switches & {"--fix", "--strict"})]
    if idle:
        raise UsageError(
            f"{idle[0]} says how strategies are run; add --strategies head,full, or leave "
            f"{idle[0]} away to compare runs that are finished."
        )
    return compared(*call.places)
