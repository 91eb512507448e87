"""`warmstart predict RUN PATH…`: one line per example."""

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

KEYS = ("path", "label", "probability", "confident", "ood", "scores")
TASK_KEYS = ("labels", "value", "low", "high")  # of multilabel and regression


def predict(call: Call) -> int:
    """Run `warmstart predict`. Raises: DataError if nothing could be read."""
    from warmstart.modalities.registry import MODALITIES
    from warmstart.run.predictor import predict as stream

    run_path, *paths = call.places
    is_json, kind = "--json" in call.switches, kind_of_run(Path(run_path))
    tally: Counter[str] = Counter()
    answers = _counted(stream(Path(run_path), paths), tally)
    for line in map(_json_line, answers) if is_json else tables.predict_lines(answers, kind):
        print(line, flush=True)
    if not tally["answered"]:
        raise DataError(
            f"no {MODALITIES[kind].nouns.one} could be read ({tally['unreadable']} named); nothing "
            "was predicted."
        )
    if not is_json and not tally["guaranteed"]:
        print(tables.NO_GUARANTEE, file=sys.stderr)
    return 0


def _json_line(answer: Answer) -> str:
    plain = to_plain(answer)
    line = {key: plain[key] for key in (*KEYS, *TASK_KEYS) if key in plain}
    if answer.error is not None:
        line["error"] = answer.error
    return dumps(line)


def _counted(answers: Iterable[Answer], tally: Counter[str]) -> Iterator[Answer]:
    for answer in answers:
        is_answer, low = answer.label is not None, getattr(answer, "low", None)  # of an interval
        tally["answered" if is_answer else "unreadable"] += 1
        tally["guaranteed"] += is_answer and (answer.confident is not None or low is not None)
        yield answer
