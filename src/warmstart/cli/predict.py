"""`warmstart predict RUN PATH…`: one line per example."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from warmstart.cli.options import DEBUG, HELP, RUN, Call, Option, Verb
from warmstart.cli.output import dumps, kind_of_run
from warmstart.errors import DataError
from warmstart.formatting import printable, probability
from warmstart.modalities.registry import MODALITIES
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.inputs import DEFAULT_KIND
from warmstart.records.run_folder import to_plain

KEYS = ("path", "label", "probability", "confident", "ood", "scores")
TASK_KEYS = ("labels", "value", "low", "high")  # of multilabel and regression


LABEL = "class"  # the header of that column
BATCH = 32  # answers whose columns are aligned together: those of one batch of the network
NO_GUARANTEE = "Too few training examples to guarantee which answers are confident."


def predict_lines(answers: Iterable[Answer], kind: str = DEFAULT_KIND) -> Iterator[str]:
    """A header, then one line per answer as it arrives: path, class, probability, any warning."""
    answers = iter(answers)
    head, widths = MODALITIES[kind].nouns.one, (0, 0)
    while batch := list(islice(answers, BATCH)):
        paths = max(len(head), *(len(printable(answer.path)) for answer in batch))
        labels = max(len(LABEL), *(len(printable(answer.label or "-")) for answer in batch))
        is_first = not widths[0]
        widths = (max(widths[0], min(paths, 60)), max(widths[1], min(labels, 24)))
        if is_first:
            yield _header(batch[0], head, *widths)
        for answer in batch:
            warning = "uncertain" if answer.confident is False else ""
            if answer.ood:
                warning = f"unlike the training {MODALITIES[kind].nouns.many}"
            yield _answer_line(answer, *widths, warning)


def _header(answer: Answer, head: str, path_width: int, label_width: int) -> str:
    if isinstance(answer, LabelAnswer):
        return f"{head:<{path_width}}  labels and their probabilities"
    if isinstance(answer, NumberAnswer):
        return f"{head:<{path_width}}  {'value':<{label_width}}  90 % interval"
    return f"{head:<{path_width}}  {LABEL:<{label_width}}  probability"


def _answer_line(answer: Answer, path_width: int, label_width: int, warning: str) -> str:
    path = f"{printable(answer.path):<{path_width}}"
    if isinstance(answer, NumberAnswer) and answer.value is not None:
        ends = (answer.low, answer.high)  # of an interval that holds the truth 9 times of 10
        between = "" if None in ends else f"{answer.low:.4g} to {answer.high:.4g}"
        return f"{path}  {answer.label:<{label_width}}  {between}  {warning}".rstrip()
    if isinstance(answer, LabelAnswer) and answer.error is None:
        labels = (f"{printable(name)} {probability(answer.scores[name])}" for name in answer.labels)
        return f"{path}  {', '.join(labels) or 'none of the labels'}  {warning}".rstrip()
    if answer.label is None or answer.probability is None:
        why = (answer.error or "it cannot be read").removeprefix(answer.path).strip(" :")
        return f"{path}  {'-':<{label_width}}  {'-':>6}  {printable(why)}"
    label = f"{printable(answer.label):<{label_width}}"
    return f"{path}  {label}  {probability(answer.probability):>6}  {warning}".rstrip()


def predict_summary(tally: Counter[str], kind: str = DEFAULT_KIND) -> str:
    """How many answers there are, by confidence; `tally` counts the keys below, and `answers`.

    >>> predict_summary(Counter(answers=20, confident=9, uncertain=10, ood=1))
    '20 images: 9 confident, 10 uncertain, 1 unlike the training images.'
    """
    nouns = MODALITIES[kind].nouns
    words = {
        "confident": "confident",
        "uncertain": "uncertain",
        "ood": f"unlike the training {nouns.many}",
        "unreadable": "unreadable",
    }
    parts = [f"{tally[key]:,} {text}" for key, text in words.items() if tally[key]]
    return f"{nouns.count(tally['answers'])}: {', '.join(parts)}."


def predict(call: Call) -> int:
    """Run `warmstart predict`. Raises: DataError if nothing could be read."""
    from warmstart.run.predictor import predict as stream

    run_path, *paths = call.places
    kind, tally = kind_of_run(Path(run_path)), Counter[str]()
    answers = _counted(stream(Path(run_path), paths), tally)
    if is_text := not call.switches & {"--json", "--csv"}:
        lines = predict_lines(answers, kind)
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
        print(f"\n{predict_summary(tally, kind)}")
    if is_text and not tally["guaranteed"]:
        print(NO_GUARANTEE, file=sys.stderr)
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
