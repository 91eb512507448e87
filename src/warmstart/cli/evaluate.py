"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from pathlib import Path

from warmstart.cli.output import kind_of_run, print_result, watched
from warmstart.cli.parse import Call
from warmstart.events import follow
from warmstart.terminal import tables


def evaluate(call: Call) -> int:
    """Run `warmstart evaluate`: progress on stderr, the metrics on stdout."""
    run, data = Path(call.places[0]), call.places[1]
    columns = {name: call.values.get(f"--{name}") for name in ("label", "group")}
    if text := call.values.get("--text"):
        columns["text"] = text
    with watched(call) as show:
        from warmstart.run.evaluate import evaluate as steps

        scores = follow(steps(run, data, **columns), show)
    print_result(call, scores, lambda: tables.scores_text(scores, kind_of_run(run)))
    return 0
