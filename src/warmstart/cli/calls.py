"""What each verb does once its words are understood: call the work, print its result."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from warmstart.cli.compare import compare
from warmstart.cli.export import export
from warmstart.cli.output import (
    NO_SIGNAL,
    check_processes,
    dumps,
    fit_along,
    print_run,
    settle_imports,
    watcher,
)
from warmstart.cli.parse import Call
from warmstart.cli.request import names_in, request_of
from warmstart.cli.resume import resume
from warmstart.cli.serve import serve
from warmstart.cli.stop import stoppable
from warmstart.cli.studio import studio
from warmstart.distributed import is_called, joined, told_world
from warmstart.errors import DataError
from warmstart.events import Event, follow
from warmstart.records.codec import to_plain
from warmstart.terminal import (
    audit_text,
    check_text,
    judged_text,
    plan_text,
    ranking_text,
    suggestions_text,
    tables,
)

if TYPE_CHECKING:
    from warmstart.data.labels import AskedTask
    from warmstart.records.answer import Answer


KEPT = (
    "--start",
    "--arch",
    "--test",
    "--label",
    "--task",
    "--group",
    "--relabel",
)  # for `fit` as well
LINE_KEYS = ("path", "label", "probability", "sure", "unknown", "scores")
OWN_KEYS = ("labels", "value", "low", "high")  # of several labels, and of numbers


def run(call: Call) -> int:
    """Do what a call asks for and print the result; returns the exit code.

    Of several processes the first alone does what is not shared: all but `fit` and `resume`.
    """
    is_shared = call.verb in ("fit", "resume") and "--dry-run" not in call.switches
    if is_called() and not is_shared and not told_world().is_first:
        return 0
    if call.verb not in ("fit", "resume", "compare"):  # only their imports are worth the trouble
        settle_imports()
    return _CALLS[call.verb](call)


def fit(call: Call) -> int:
    """`warmstart fit`: progress on stderr, the result on stdout; 3 without a signal.

    Of several processes the first alone shows, prints and writes; what a launcher would take for
    a failure, that there is no signal, is 0 then.
    """
    if "--dry-run" in call.switches:
        return dry_run(call)
    with joined() as world:
        check_processes(call, world)
        if not world.is_first:
            return fit_along(call)
        code = _fit(call)
    return code if world.size == 1 else 0


def _fit(call: Call) -> int:
    with watcher(call) as watch:
        # The libraries take seconds to load: say first that work has begun.
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.fit import fit as steps

        settle_imports()
        with stoppable(watch.show) as see:
            finished = follow(steps(request_of(call)), see)
    return print_run(call, finished, (call.values.get("--test"), call.places[0]))


def dry_run(call: Call) -> int:
    """`warmstart fit --dry-run`: the plan and its forecast on stdout."""
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.dry_run import dry_run as steps

        settle_imports()
        found = follow(steps(request_of(call)), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        print(plan_text.plan_text(found, call.places[0]))
    return 0


def check(call: Call) -> int:
    """`warmstart check`: problems and verdict, progress on stderr; 3 without a signal."""
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.check import check as steps

        found = follow(steps(request_of(call)), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        same = [word for pair in call.values.items() if pair[0] in KEPT for word in pair]
        same += [switch for switch in ("--fix", "--strict") if switch in call.switches]
        print(check_text.check_text(found, [call.places[0], *same]))
    return NO_SIGNAL if found.verdict.kind == "no-signal" else 0


def predict(call: Call) -> int:
    """`warmstart predict`: one line an image.

    Raises: DataError if no image could be read.
    """
    from warmstart.nouns import nouns_of
    from warmstart.run.predict import predict as stream

    run_path, *paths = call.places
    tally: Counter[str] = Counter()
    answers = _counted(stream(Path(run_path), paths), tally)
    kind = _kind_of(Path(run_path))
    if "--json" in call.switches:
        lines: Iterator[str] = map(_json_line, answers)
    else:
        lines = tables.predict_lines(answers, kind)
    for line in lines:
        print(line, flush=True)
    if not tally["answered"]:
        raise DataError(
            f"no {nouns_of(kind).one} could be read ({tally['unread']} named); nothing was "
            "answered."
        )
    if "--json" not in call.switches and tally["unpromised"] == tally["answered"]:
        print(tables.NOTHING_PROMISED, file=sys.stderr)
    return 0


def evaluate(call: Call) -> int:
    """`warmstart evaluate`: metrics of a finished model."""
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.evaluate import evaluate as steps

        run_path, data = call.places
        names = {name: call.values.get(f"--{name}") for name in ("label", "group", "text")}
        given = {name: value for name, value in names.items() if value or name != "text"}
        scores = follow(steps(Path(run_path), data, **given), watch.show)
    if "--json" in call.switches:
        print(dumps(scores, indent=2))
    else:
        print(tables.scores_text(scores, _kind_of(Path(run_path))))
    return 0


def _kind_of(run: Path) -> str:
    """What a run answers about, for the words of its figures."""
    from warmstart.records.answer import ModelRecord
    from warmstart.records.inputs import kind_of
    from warmstart.records.run_folder import read_json

    path = run / "model" / "config.json"
    return kind_of(read_json(path, ModelRecord).preprocessing) if path.is_file() else "image"


def rank(call: Call) -> int:
    """`warmstart rank`: which start suits the data, progress on stderr."""
    values = call.values
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.rank import rank as steps

        ranking = follow(
            steps(
                call.places[0],
                names_in(values.get("--starts", "")),
                label=values.get("--label"),
                group=values.get("--group"),
                task=cast("AskedTask", values.get("--task", "auto")),
                seed=int(values.get("--seed", "0")),
                strict="--strict" in call.switches,
            ),
            watch.show,
        )
    if "--json" in call.switches:
        print(dumps(ranking, indent=2))
    else:
        same = [word for pair in values.items() if pair[0] != "--starts" for word in pair]
        print(ranking_text.ranking_text(ranking, [call.places[0], *same]))
    return 0


def audit(call: Call) -> int:
    """`warmstart audit`: a model on images, against its start, or both.

    Raises: UsageError with neither.
    """
    from warmstart.cli.audit import audit as work

    moved, judged = work(call)
    found = [record for record in (moved, judged) if record is not None]
    if "--json" in call.switches:
        print(dumps({k: v for record in found for k, v in to_plain(record).items()}, indent=2))
    else:
        texts = [judged_text.judged_text(judged)] if judged else []
        print("\n\n".join([*texts, *([audit_text.audit_text(moved)] if moved else [])]))
    return 0


def suggest(call: Call) -> int:
    """`warmstart suggest`: images to label next, progress on stderr."""
    run_path, *paths = call.places
    wanted = int(call.values.get("--count", "20"))
    sheet = Path(call.values["--out"]) if "--out" in call.values else None
    with watcher(call) as watch:
        watch.show(Event(stage="look", kind="begin"))
        from warmstart.run.suggest import suggest as steps

        found = follow(steps(Path(run_path), paths, count=wanted, out=sheet), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        print(suggestions_text.suggestions_text(found, wanted, sheet))
    return 0


def report(call: Call) -> int:
    """`warmstart report`: writes the report of a run again; `--open` shows it in the browser."""
    from warmstart.reporting.report import report as write

    path = write(Path(call.places[0]))
    print(dumps({"path": str(path)}) if "--json" in call.switches else path)
    if "--open" in call.switches:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            print("No browser was found; open that file in one.", file=sys.stderr)
    return 0


def starts(call: Call) -> int:
    """`warmstart starts`: what a run can begin from here."""
    from warmstart.network.registry import starts as listed

    word = call.places[0] if call.places else ""
    found = listed(word)
    print(dumps(found, indent=2) if "--json" in call.switches else tables.starts_text(found, word))
    return 0


def cache(call: Call) -> int:
    """`warmstart cache info|clear`."""
    from warmstart.run import cache as store

    clears = call.places[0] == "clear"
    info = store.clear() if clears else store.info()
    if "--json" in call.switches:
        print(dumps(info, indent=2))
    else:
        print(tables.cleared_text(info) if clears else tables.cache_text(info))
    return 0


_CALLS: dict[str, Callable[[Call], int]] = {
    "fit": fit,
    "resume": resume,
    "check": check,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "rank": rank,
    "audit": audit,
    "export": export,
    "suggest": suggest,
    "serve": serve,
    "studio": studio,
    "report": report,
    "starts": starts,
    "cache": cache,
}


def _json_line(answer: Answer) -> str:
    plain = to_plain(answer)
    line = {key: plain[key] for key in (*LINE_KEYS, *OWN_KEYS) if key in plain}
    if answer.error is not None:
        line["error"] = answer.error
    return dumps(line)


def _counted(answers: Iterable[Answer], tally: Counter[str]) -> Iterator[Answer]:
    for answer in answers:
        tally["unread" if answer.label is None else "answered"] += 1
        tally["unpromised"] += answer.label is not None and not tables.is_promised(answer)
        yield answer
