"""Small tables: answers, metrics, starts, the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from warmstart.formatting import count, interval, percent, percents, printable, size
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.summary import Scores, TestScores
from warmstart.tasks.words import further, test_estimate
from warmstart.terminal.text import WIDTH, column

if TYPE_CHECKING:
    from warmstart.features.cache import CacheInfo
    from warmstart.network.registry import ModelListing


BATCH = 32  # answers whose columns are aligned together: what one look at the network gives
NOTHING_PROMISED = "Too few examples were learnt from to promise when an answer is sure."


def predict_lines(answers: Iterable[Answer], kind: str = "image") -> Iterator[str]:
    """One line an image as answers come: path, class, probability, and what to beware of."""
    answers = iter(answers)
    widths = (0, 0)
    while batch := list(islice(answers, BATCH)):
        paths = max(len(printable(answer.path)) for answer in batch)
        labels = max(len(printable(answer.label or "-")) for answer in batch)
        widths = (max(widths[0], min(paths, 40)), max(widths[1], min(labels, 24)))
        for answer in batch:
            yield _answer_line(answer, *widths, _caveat(answer, nouns_of(kind)))


def _answer_line(answer: Answer, path_width: int, label_width: int, caveat: str) -> str:
    path = f"{printable(answer.path):<{path_width}}"
    if isinstance(answer, NumberAnswer) and answer.value is not None:
        return f"{path}  {answer.label:<{label_width}}  {_range(answer)}  {caveat}".rstrip()
    if isinstance(answer, LabelAnswer) and answer.error is None:
        named = (f"{printable(name)} {probability(answer.scores[name])}" for name in answer.labels)
        return f"{path}  {', '.join(named) or 'none of the labels'}  {caveat}".rstrip()
    if answer.label is None or answer.probability is None:
        why = (answer.error or "it cannot be read").removeprefix(answer.path).strip(" :")
        return f"{path}  {'-':<{label_width}}  {'-':>6}  {printable(why)}"
    label = f"{printable(answer.label):<{label_width}}"
    return f"{path}  {label}  {probability(answer.probability):>6}  {caveat}".rstrip()


def _range(answer: NumberAnswer) -> str:
    """The interval in which the truth lies 9 times of 10."""
    if answer.low is None or answer.high is None:
        return ""
    return f"{answer.low:.4g} to {answer.high:.4g}"


def probability(p: float) -> str:
    """The probability of one answer.

    >>> probability(0.34), probability(0.9999)
    ('34 %', '> 99 %')
    """
    return "> 99 %" if p >= 0.995 else percent(p, n=1)  # no single answer is certain


def _caveat(answer: Answer, nouns: Nouns) -> str:
    if answer.ood:
        return f"unlike the training {nouns.many}"
    return "not sure" if answer.confident is False else ""


def is_promised(answer: Answer) -> bool:
    """Whether it is promised how far an answer can be trusted: by "sure", or by an interval."""
    return answer.confident is not None or (
        isinstance(answer, NumberAnswer) and answer.low is not None
    )


def scores_text(scores: TestScores, kind: str = "image") -> str:
    """Metrics on labelled data, the one that matters first, in the words for what they are of."""
    measured = nouns_of(kind).count(scores.n)
    if not isinstance(scores, Scores):
        claim = test_estimate(scores)
        shown = interval(claim.value, claim.low, claim.high, claim.n)
        title = "mAP" if claim.metric == "mAP" else "R²"
        text = f"{shown} on {measured}."
        return "\n".join([column(title, text), column("Also", further(scores))])
    balanced = percents(scores.balanced_accuracy, n=scores.n)[0]
    shown = interval(scores.accuracy, scores.low, scores.high, scores.n)
    return "\n".join(
        [
            column("Accuracy", f"{shown} on {measured}."),
            column("", f"{balanced} % if every class counts the same, large or small."),
            column(
                "Also",
                f"macro F1 {scores.macro_f1:.2f}, log-loss {abs(scores.log_loss):.2f}, "
                f"calibration error (ECE) {scores.ece:.2f}",
            ),
        ]
    )


def models_text(models: Sequence[ModelListing], word: str = "") -> str:
    """What a run can begin from here without a download; `word` is what was searched for."""
    if not models:
        return (
            f"No start on this computer is called like `{printable(word)}`. All: warmstart models"
        )
    name_width = max(len(base.name) for base in models) + 2
    lines = []
    for base in models:
        facts = [f"{base.parameters / 1e6:.1f} M parameters" if base.parameters else ""]
        facts.append(f"{base.size_px} px" if base.size_px else "")
        tail = ", ".join(fact for fact in facts if fact)
        width = max(WIDTH - name_width - len(tail) - 2, 10)
        title = base.title if len(base.title) <= width else base.title[: width - 1] + "…"
        lines.append(f"{base.name:<{name_width}}{title:<{min(width, 34)}}  {tail}".rstrip())
    return "\n".join([*lines, "", "Begin from one of them: warmstart fit DATA --base NAME"])


def cache_text(info: CacheInfo) -> str:
    """What the cache holds, and how large it may grow."""
    held = f"{size(info.bytes)} of at most {size(info.limit_bytes)}"
    images = f"features of {count(info.rows, 'image')}, {count(info.shelves, 'set')}"
    return "\n".join(
        [
            f"Cache    {info.path}",
            column("Holds", f"{held}: {images}." if info.rows else f"{held}."),
            column("Clear", "warmstart cache clear"),
        ]
    )


def cleared_text(info: CacheInfo) -> str:
    """What was removed from the cache.

    >>> from types import SimpleNamespace as Info
    >>> cleared_text(Info(path="c", shelves=0, rows=0, bytes=0, limit_bytes=0))
    'The cache was empty: nothing was removed from c.'
    """
    if not info.bytes:
        return f"The cache was empty: nothing was removed from {info.path}."
    return f"Removed {size(info.bytes)} from {info.path}."
