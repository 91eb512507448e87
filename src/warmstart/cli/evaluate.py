"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from pathlib import Path

from warmstart.cli.output import dumps, kind_of_run, watcher
from warmstart.cli.parse import Call
from warmstart.events import Event, follow
from warmstart.terminal import tables


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
        print(tables.scores_text(scores, kind_of_run(Path(run_path))))
    return 0
