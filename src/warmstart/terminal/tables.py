"""Predictions, metrics, base models and the feature cache as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from warmstart.formatting import interval, percent, printable, short_interval, size
from warmstart.modalities.nouns import IMAGES
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.inputs import DEFAULT_KIND
from warmstart.records.summary import ClassScore, Scores, ScoresByClass, TestScores
from warmstart.tasks.registry import other_metrics, task_of_scores, test_estimate
from warmstart.terminal.text import column, lead, shortened, table_lines, window

if TYPE_CHECKING:
    from warmstart.features.cache import CacheInfo
    from warmstart.network.registry import ModelListing


LABEL = "class"  # the header of that column
MOST_CLASSES = 20  # that are listed
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


def probability(p: float) -> str:
    """The probability of one answer, which is never certain.

    >>> probability(0.34), probability(0.9999)
    ('34 %', '> 99 %')
    """
    return "> 99 %" if p >= 0.995 else percent(p, n=1)


def scores_text(scores: TestScores, kind: str = DEFAULT_KIND) -> str:
    """Metrics on labelled data, the main one first."""
    examples = MODALITIES[kind].nouns.count(scores.n)
    if not isinstance(scores, Scores):
        claim = test_estimate(scores)
        score = interval(claim.value, claim.low, claim.high, claim.n)
        title = task_of_scores(scores).words.title
        return "\n".join(
            [column(title, f"{score} on {examples}."), column("Also", other_metrics(scores))]
        )
    score = interval(scores.accuracy, scores.low, scores.high, scores.n)
    lines = [
        column("Accuracy", f"{score} on {examples}."),
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


def models_text(models: Sequence[ModelListing], word: str = "") -> str:
    """Base models available without a download; `word` is what the user searched for."""
    if not models:
        return (
            f"No base model on this computer matches `{printable(word)}`. List all: "
            "warmstart models"
        )
    name_width = max(len(base.name) for base in models) + 2
    lines = []
    for base in models:
        facts = [f"{base.parameters / 1e6:.1f} M parameters" if base.parameters else ""]
        facts.append(f"{base.size_px} px" if base.size_px else "")
        end = ", ".join(fact for fact in facts if fact)
        width = max(window() - name_width - len(end) - 2, 10)
        title = shortened(base.title, width)
        lines.append(f"{base.name:<{name_width}}{title:<{min(width, 34)}}  {end}".rstrip())
    return "\n".join([*lines, "", "Fine-tune one of them: warmstart fit DATA --base NAME"])


def cache_text(info: CacheInfo) -> str:
    """Size and content of the feature cache."""
    total = f"{size(info.bytes)} of at most {size(info.limit_bytes)}"
    rows = f"features of {IMAGES.count(info.rows)}, {count(info.feature_sets, 'set')}"
    lines = [lead("Cache") + str(info.path)]
    lines.append(column("Size", f"{total}: {rows}." if info.rows else f"{total}."))
    return "\n".join([*lines, column("Clear", "warmstart cache clear")])


def cleared_text(info: CacheInfo) -> str:
    if not info.bytes:
        return f"The cache was empty: nothing was removed from {info.path}."
    return f"Removed {size(info.bytes)} from {info.path}."
