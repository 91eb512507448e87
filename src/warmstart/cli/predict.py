"""`warmstart predict RUN PATH…`: one line an example."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.cli.output import dumps, kind_of_run
from warmstart.cli.parse import Call
from warmstart.errors import DataError
from warmstart.records.run_folder import to_plain
from warmstart.terminal import tables

if TYPE_CHECKING:
    from warmstart.records.answer import Answer


LINE_KEYS = ("path", "label", "probability", "confident", "ood", "scores")
OWN_KEYS = ("labels", "value", "low", "high")  # of several labels, and of numbers


def predict(call: Call) -> int:
    """`warmstart predict`: one line an image.

    Raises: DataError if no image could be read.
    """
    from warmstart.nouns import nouns_of
    from warmstart.run.predictor import predict as stream

    run_path, *paths = call.places
    tally: Counter[str] = Counter()
    answers = _counted(stream(Path(run_path), paths), tally)
    kind = kind_of_run(Path(run_path))
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
