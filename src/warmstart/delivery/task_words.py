"""How cards and reports speak of a task's score and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from warmstart.records import (
    Estimate,
    LabelScores,
    NumberScores,
    Scores,
    Task,
    TestScores,
)
from warmstart.records.labels import split_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWords:
    """`tag` is the task on the hub; `metric` and `name` the score there and in words.

    {one} and {an} stand for what an example is called.
    """

    tag: str
    metric: str
    name: str
    right: str  # after a score in percent
    output: str  # how {} outputs are called
    ask: str  # what one asks a model for
    apart: str  # what each layer is tried at
    blind: str  # the best answer that looks at nothing
    naming: str  # the same as a doing
    idle: str  # what it reaches; {} is its score
    before: str  # what the new output alone did; {} is its score
    label: str  # what an example has, in findings


TASK_WORDS: dict[Task, TaskWords] = {
    "classify": TaskWords(
        tag="image-classification", metric="accuracy", name="accuracy", right="right",
        output="{} classes", ask="name the class of {an}",
        apart="tells the classes apart", blind="always answering the largest class",
        naming="always naming the largest class",
        idle="always naming the largest class is right on {}",
        before="was right {} of the time", label="label",
    ),
    "multilabel": TaskWords(
        tag="image-classification", metric="mean_average_precision",
        name="mean average precision", right="mean average precision", output="{} labels",
        ask="name the labels of {an}", apart="tells which labels {an} has",
        blind="ranking at random", naming="ranking at random",
        idle="ranking at random reaches {}", before="reached a mean average precision of {}",
        label="label",
    ),
    "regress": TaskWords(
        tag="image-feature-extraction", metric="r2", name="R²", right="of the variance explained",
        output="{} number", ask="tell the number of {an}",
        apart="tells the number", blind="always answering the mean",
        naming="always answering the mean", idle="always answering the mean explains {}",
        before="explained {} of the variance", label="number",
    ),
}  # fmt: skip


# What was measured, by the name of the evidence; {many} is what examples are called.
EVIDENCE_NAMES = {
    "signal": "permutation test: can it be learnt at all", "knowledge": "transfer gain",
    "depth": "all layers instead of the last", "appetite": "learning curve: twice as many {many}",
    "tail_gain": "fine-tuning gain", "distance": "domain gap", "ceiling": "label-noise ceiling",
    "preprocessing": "another preprocessing", "scratch": "from scratch, with twice the {many}",
}  # fmt: skip


def percent(share: float, digits: int = 0) -> str:
    """A share in percent; never rounded up to a certainty it is not.

    >>> percent(0.8612), percent(0.9996), percent(1.0)
    ('86 %', '99.9 %', '100 %')
    """
    value = 100 * share
    text = f"{value:.{digits}f}"
    if (float(text) == 100 and share < 1) or (float(text) == 0 and share > 0):
        text = f"{min(max(value, 0.1), 99.9):.1f}"
    return f"{text} %".replace("-", "−")


def score_of(scores: TestScores) -> float:
    """The score that the task is known by: accuracy, mean average precision, R²."""
    if isinstance(scores, LabelScores):
        return scores.mAP
    return scores.r2 if isinstance(scores, NumberScores) else scores.accuracy


def test_estimate(scores: TestScores) -> Estimate:
    """The same with its interval."""
    metric = "accuracy" if isinstance(scores, Scores) else ""
    if not metric:
        metric = "mAP" if isinstance(scores, LabelScores) else "r2"
    return Estimate(
        metric=metric, value=score_of(scores), low=scores.low, high=scores.high, n=scores.n,
        method="holdout",
    )  # fmt: skip


def in_words(label: str, task: Task) -> str:
    """What an example is labelled as records hold it, for people.

    >>> in_words("cat|owl", "multilabel"), in_words("", "multilabel"), in_words("a|b", "classify")
    ('cat, owl', 'nothing', 'a|b')
    """
    return ", ".join(split_labels(label)) or "nothing" if task == "multilabel" else label


def contradiction(label: str, suggested: str, task: Task) -> str:
    """A doubted label and what the example looks like instead.

    >>> contradiction("cat|owl", "owl", "multilabel")
    'labelled cat, owl, looks like owl'
    """
    return f"labelled {in_words(label, task)}, looks like {in_words(suggested, task)}"


def further(scores: TestScores) -> str:
    """The other metrics of a test set, as one sentence without its first word."""
    if isinstance(scores, Scores):
        return (
            f"balanced accuracy {percent(scores.balanced_accuracy, 1)}, macro F1 "
            f"{scores.macro_f1:.3f}, log-loss {scores.log_loss:.3f}, calibration error (ECE) "
            f"{scores.ece:.3f}."
        )
    if isinstance(scores, LabelScores):
        return (
            f"macro F1 {scores.macro_f1:.3f}, micro F1 {scores.micro_f1:.3f}, all labels right "
            f"{100 * scores.exact:.1f} %, log-loss {scores.log_loss:.3f}, calibration error (ECE) "
            f"{scores.ece:.3f}."
        )
    inside = "" if scores.coverage is None else (
        f", {100 * scores.coverage:.1f} % inside their intervals ({100 * scores.promised:.0f} % "
        "promised)"
    )  # fmt: skip
    return (
        f"mean absolute error {scores.mae:.4g}, root mean squared error {scores.rmse:.4g}{inside}."
    )
