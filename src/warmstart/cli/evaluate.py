"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from pathlib import Path

from warmstart.cli.options import GROUP, LABEL, PLAIN, RUN, TEXT, Call, Verb
from warmstart.cli.output import kind_of_run, print_result, watched
from warmstart.events import follow
from warmstart.terminal import tables


def evaluate(call: Call) -> int:
    """Run `warmstart evaluate`: progress on stderr, the metrics on stdout."""
    run, data = Path(call.places[0]), call.places[1]
    columns = {name: call.values.get(f"--{name}") for name in ("label", "group")}
    if text := call.values.get("--text"):
        columns["text"] = text
    with watched(call) as show:
        from warmstart.run.predictor import evaluate as steps

        scores = follow(steps(run, data, **columns), show)
    print_result(call, scores, lambda: tables.scores_text(scores, kind_of_run(run)))
    return 0


VERB = Verb(
    words="evaluate RUN DATA",
    needs=(RUN, "other labelled images"),
    short="evaluate a finished model on other labelled images",
    about="""Measures the accuracy of a finished model on labelled images that it was not
    trained on. DATA is laid out as for fit, with the same class names; if it has a test/
    folder, only that is used.""",
    options=(LABEL, GROUP, TEXT, *PLAIN),
    examples=(
        "warmstart evaluate runs/photos later-photos/",
        "warmstart evaluate runs/photos later.csv --label species --json",
    ),
    run=evaluate,
)
