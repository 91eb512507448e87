"""`warmstart predict RUN PATH…`: one line per example."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.cli.options import DEBUG, HELP, RUN, Call, Option, Verb
from warmstart.cli.output import dumps, kind_of_run
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
    kind, tally = kind_of_run(Path(run_path)), Counter[str]()
    answers = _counted(stream(Path(run_path), paths), tally)
    if is_text := not call.switches & {"--json", "--csv"}:
        lines = tables.predict_lines(answers, kind)
    else:
        lines = map(_json_line, answers) if "--json" in call.switches else _csv_lines(answers)
    for line in lines:
        print(line, flush=True)
    if not tally["answers"] - tally["unreadable"]:
        raise DataError(
            f"no {MODALITIES[kind].nouns.one} could be read ({tally['unreadable']} named); nothing "
            "was predicted."
        )
    if is_text and tally["guaranteed"] and tally["answers"] > 1:
        print(f"\n{tables.predict_summary(tally, kind)}")
    if is_text and not tally["guaranteed"]:
        print(tables.NO_GUARANTEE, file=sys.stderr)
    return 0


def _record(answer: Answer) -> dict[str, Any]:
    plain = to_plain(answer)
    record = {key: plain[key] for key in (*KEYS, *TASK_KEYS) if key in plain}
    return record if answer.error is None else record | {"error": answer.error}


def _json_line(answer: Answer) -> str:
    return dumps(_record(answer))


def _csv_lines(answers: Iterable[Answer]) -> Iterator[str]:
    """A table with a column for each key but the scores, several labels with `|` between."""
    line = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for answer in answers:
        record = {"error": None, **_record(answer)}
        del record["scores"]
        if "labels" in record:
            record["label"] = "|".join(record.pop("labels"))
        if writer is None:
            names = [*(name for name in record if name != "error"), "error"]
            writer = csv.DictWriter(line, names, lineterminator="")
            writer.writeheader()
            yield line.getvalue()
        line.seek(0)
        line.truncate()
        writer.writerow(record)
        yield line.getvalue()


def _counted(answers: Iterable[Answer], tally: Counter[str]) -> Iterator[Answer]:
    for answer in answers:
        tally["answers"] += 1
        tally[_certainty(answer)] += 1
        is_answer, low = answer.label is not None, getattr(answer, "low", None)  # of an interval
        tally["guaranteed"] += is_answer and (answer.confident is not None or low is not None)
        yield answer


def _certainty(answer: Answer) -> str:
    if answer.label is None:
        return "unreadable"
    if answer.ood:
        return "ood"
    return {True: "confident", False: "uncertain", None: "unknown"}[answer.confident]


VERB = Verb(
    words="predict RUN PATH...",
    needs=(RUN, "the images to classify"),
    short="classify new images",
    about="""Prints the class of each image and its probability. A folder stands for the images
    in and below it. The model may also be uncertain, or report that an image is unlike the
    training images (out of distribution).""",
    options=(
        Option("--csv", "a table: path, label, probability, confident, ood"),
        Option("--json", "JSON Lines: one document per image"),
        DEBUG,
        HELP,
    ),
    examples=(
        "warmstart predict runs/photos new.jpg  # one image",
        "warmstart predict runs/photos inbox/ --csv > labels.csv",
        'warmstart predict runs/mails "Where is it?"  # a text',
    ),
    run=predict,
)
