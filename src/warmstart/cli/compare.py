"""`warmstart compare`: runs on the same examples, or strategies that are run first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from warmstart.cli.options import (
    ARCH,
    BASE,
    BUDGET,
    COMMON,
    DEVICE,
    FIX,
    GROUP,
    LABEL,
    READ_ALL,
    RELABEL,
    SEED,
    SET,
    TASK,
    TEST,
    Call,
    Option,
    Verb,
    names_in,
    positive,
    request_of,
)
from warmstart.cli.output import NO_SIGNAL, print_result, settle_imports, watched
from warmstart.cli.stop import stoppable
from warmstart.errors import UsageError
from warmstart.evaluation.readiness import readiness_line
from warmstart.events import follow
from warmstart.formatting import MANY, duration, joined, percent, printable, short_interval
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.comparison import ComparedRun, Comparison, Pair
from warmstart.terminal.text import column, table_lines, wrap

FINE = 0.015  # differences below it are given in tenths of a point
METRICS = {"accuracy": "accuracy", "log_score": "log score", "r2": "R²"}


def comparison_text(comparison: Comparison) -> str:
    """The table of runs, what it was measured on, a line per pair, the worth of the base model."""
    runs = comparison.runs
    names = {run.name: printable(run.name) for run in runs}
    warnings = (
        f"{names[run.name]}: {readiness_line(run.readiness)}"
        for run in runs
        if run.readiness is not None and run.readiness.level == "not-ready"
    )
    groups = [
        (wrap(warning, hanging="  ") for warning in warnings),
        _table(runs, comparison.n, comparison.metric),
        [column("Meaning", _meaning(comparison))],
        (wrap(_pair(pair, names, comparison), hanging="  ") for pair in comparison.pairs),
        _base_worth(comparison, names),
        _notes(comparison),
    ]
    texts = ["\n".join(group) for group in groups]
    return "\n\n".join(text for text in texts if text)


def _table(runs: Sequence[ComparedRun], n: int, metric: str) -> list[str]:
    rows: list[tuple[str, ...]] = [("run", "shipped", METRICS[metric], "time", "95 % after")]
    for run in runs:
        score = short_interval(run.value, run.low, run.high, n)
        near_end = "–"
        if run.updates_to_95 is not None and run.seconds_to_95 is not None:
            near_end = f"{count(run.updates_to_95, 'update')}, {duration(run.seconds_to_95)}"
        names = printable(run.name), printable(run.strategy)
        rows.append((*names, score, duration(run.seconds), near_end))
    if all(run.strategy == run.name for run in runs):
        rows = [row[:1] + row[2:] for row in rows]
    return table_lines(rows)


def _meaning(comparison: Comparison) -> str:
    nouns = MODALITIES[comparison.kind].nouns
    where = "of the test set" if comparison.rows == "test" else "that each held out"
    return (
        f"on the same {nouns.count(comparison.n)} {where}; 95 % intervals in brackets.\n"
        "95 % after: when it first reached 95 % of its final accuracy on held-out "
        f"{nouns.many}: updates of one training, time since the run began."
    )


def _pair(pair: Pair, names: dict[str, str], comparison: Comparison) -> str:
    a, b = names[pair.a], names[pair.b]
    if pair.winner is None:
        is_plain = pair.low <= 0 <= pair.high
        chance = "" if is_plain else "; among so many pairs that can be chance"
        return f"tie: {a} and {b} differ by {_points(pair, comparison.n)}{chance}"
    better, worse = (a, b) if pair.winner == pair.a else (b, a)
    gap = _points(_from_side_of(pair, pair.winner), comparison.n, f"better than {worse}")
    return f"{better} is {gap}"


def _from_side_of(pair: Pair, name: str) -> Pair:
    """The pair with this run first."""
    if pair.a == name:
        return pair
    low, high = -pair.high, -pair.low
    return replace(pair, a=pair.b, b=pair.a, difference=-pair.difference, low=low, high=high)


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


def _base_worth(comparison: Comparison, names: dict[str, str]) -> Iterator[str]:
    """The best run from the base model against the best from scratch."""
    warm = next((run for run in comparison.runs if not run.strategy.startswith("scratch")), None)
    cold = next((run for run in comparison.runs if run.strategy.startswith("scratch")), None)
    if warm is None or cold is None:
        return
    pair = next(pair for pair in comparison.pairs if {pair.a, pair.b} == {warm.name, cold.name})
    gap = _points(_from_side_of(pair, warm.name), comparison.n)
    first, second = names[warm.name], names[cold.name]
    shares = f"accuracy of {first} {percent(warm.value, comparison.n)}, "
    shares += f"of {second} {percent(cold.value, comparison.n)}"
    if pair.winner is None:
        text = f"no gain from the base model could be measured: {gap} between {first} and {second}."
    elif pair.winner == warm.name:
        text = f"the base model is worth {gap}: {shares}."
    else:
        text = f"the base model does harm, {gap}: {shares}."
    if warm.updates_to_95 is not None and cold.updates_to_95 is not None:
        text += f"\nto 95 % of the final accuracy: {first} {count(warm.updates_to_95, 'update')}, "
        text += f"{second} {count(cold.updates_to_95, 'update')}."
    yield column("Base", text)


def _notes(comparison: Comparison) -> Iterator[str]:
    runs, nouns = comparison.runs, MODALITIES[comparison.kind].nouns
    extracted = [run for run in runs if not run.features_cached]
    cached = [run.name for run in runs if run.features_cached]
    if extracted and cached:
        seconds = [f"{run.name} ({duration(run.seconds_features)})" for run in extracted]
        text = f"extracted in the time of {joined(seconds)}; cached for {joined(cached)}."
        yield column("Features", text)
    if any(run.n_train != comparison.n_common_train for run in runs):
        each = ", ".join(f"{run.name} on {nouns.count(run.n_train)}" for run in runs)
        yield column("Trained", f"{each}; {comparison.n_common_train:,} of them are the same.")
    for n, why in (
        (comparison.leaked, "that are in the training data of a run (by its own findings)"),
        (comparison.relabelled, "whose label differs between the runs"),
    ):
        if n:
            yield column("Left out", f"{nouns.count(n)} {why}.")
    for run in runs:
        if run.strategy != run.name and Path(run.path).name != run.name:
            yield column("Shipped", f"{run.name} ended as {run.strategy}: {run.why.rstrip('.')}.")
    for one in comparison.failed:
        yield column("Failed", f"{one.name}: {one.error}")
    if any(Path(run.path).name != run.name and run.path != run.name for run in runs):
        yield column("Runs", "\n".join(run.path for run in runs))


def compare(call: Call) -> int:
    """Run `warmstart compare`; 3 where no run found a signal. Raises: UsageError."""
    comparison = _compare_strategies(call) if "--strategies" in call.values else _compare_runs(call)
    print_result(call, comparison, lambda: comparison_text(comparison))
    return NO_SIGNAL if {run.verdict for run in comparison.runs} == {"no-signal"} else 0


def _compare_strategies(call: Call) -> Comparison:
    with watched(call) as show:
        from warmstart.run.compare import compare_strategies as steps

        settle_imports()
        with stoppable(show) as see:
            strategies = names_in(call.values["--strategies"])
            return follow(steps(call.places, strategies, request_of(call)), see)


def _compare_runs(call: Call) -> Comparison:
    from warmstart.run.compare import compare as compare_finished

    settle_imports()
    options = [*call.values, *call.many, *(call.switches & {"--fix", "--strict"})]
    if options:
        raise UsageError(
            f"{options[0]} says how strategies are run; add --strategies head,full, or omit "
            f"{options[0]} to compare finished runs."
        )
    return compare_finished(*call.places)


VERB = Verb(
    words="compare RUN|DATA...",
    needs=("finished runs, or labelled images and --strategies",),
    short="compare runs, or strategies, on the same images",
    about="""Compares finished runs on the images that all of them held out: the difference of
    each pair with its interval, ties, and how fast each run came near its end. With
    --strategies, each of them is first run on DATA, into a run folder each; a RUN may be named
    beside DATA. The other options say how, as for fit.""",
    options=(
        Option(
            "--strategies A,B",
            "run these on DATA first, such as head,full,scratch (scratch shows what the base "
            "model is worth)",
        ),
        BASE,
        ARCH,
        BUDGET,
        Option("--minutes M", "time for all of them, divided equally", rule=positive("5")),
        DEVICE,
        SET,
        TEST,
        LABEL,
        TASK,
        GROUP,
        RELABEL,
        FIX,
        READ_ALL,
        SEED,
        *COMMON,
    ),
    examples=(
        "warmstart compare runs/photos runs/photos-2",
        "warmstart compare photos/ --strategies head,full,scratch",
    ),
    run=compare,
    settles=True,
)
