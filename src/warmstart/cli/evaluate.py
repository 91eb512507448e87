"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from warmstart.cli.options import GROUP, LABEL, PLAIN, RUN, TEXT, Call, Verb
from warmstart.cli.output import kind_of_run, print_result, watched
from warmstart.events import follow
from warmstart.formatting import percent, printable, short_interval
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.inputs import DEFAULT_KIND
from warmstart.records.summary import ClassScore, Scores, ScoresByClass, TestScores
from warmstart.tasks.registry import other_metrics, task_of_scores, test_estimate
from warmstart.terminal.text import column, table_lines

MOST_CLASSES = 20  # that are listed


def scores_text(scores: TestScores, kind: str = DEFAULT_KIND) -> str:
    """Metrics on labelled data, the main one first."""
    examples = MODALITIES[kind].nouns.count(scores.n)
    title = task_of_scores(scores).words.title
    lines = [column(title, f"{test_estimate(scores).interval} on {examples}.")]
    if not isinstance(scores, Scores):
        return "\n".join([*lines, column("Also", other_metrics(scores))])
    lines += [
        column("", f"{percent(scores.balanced_accuracy, scores.n)} balanced over classes."),
        column(
            "Also",
            f"macro F1 {scores.macro_f1:.2f}, log-loss {abs(scores.log_loss):.2f}, "
            f"calibration error (ECE) {scores.ece:.2f}",
        ),
    ]
    if isinstance(scores, ScoresByClass):
        lines += ["", *_class_lines(scores.classes, scores.n, MODALITIES[kind].nouns.many)]
    return "\n".join(lines)


def _class_lines(classes: Sequence[ClassScore], n: int, many: str) -> list[str]:
    """The weakest classes first, with what each is most often taken for."""
    ordered = sorted(classes, key=lambda one: (one.recall, -one.n))
    rows = [("class", many, "recall", "precision", "most often taken for")]
    for one in ordered[:MOST_CLASSES]:
        recall = short_interval(one.recall, one.low, one.high, n)
        share = "-" if one.precision is None else percent(one.precision, n)
        other = one.confused_with
        mistake = f"{printable(other)} ({one.n_confused:,})" if other else ""
        rows.append((printable(one.label), f"{one.n:,}", recall, share, mistake))
    lines = table_lines(rows, right=(1, 3))
    if more := len(ordered) - MOST_CLASSES:
        lines += [f"and {count(more, 'class')} with a higher recall"] if more > 0 else []
    return lines


def evaluate(call: Call) -> int:
    """Run `warmstart evaluate`: progress on stderr, the metrics on stdout."""
    run, data = Path(call.places[0]), call.places[1]
    columns = {name: call.values.get(f"--{name}") for name in ("label", "group")}
    if text := call.values.get("--text"):
        columns["text"] = text
    with watched(call) as show:
        from warmstart.run.predictor import evaluate as steps

        scores = follow(steps(run, data, **columns), show)
    print_result(call, scores, lambda: scores_text(scores, kind_of_run(run)))
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
