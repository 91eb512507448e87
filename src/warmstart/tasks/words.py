"""Words for a task's score, outputs and evidence in sentences."""

from __future__ import annotations

from dataclasses import dataclass

from warmstart.records.data import Task, split_labels
from warmstart.records.summary import Estimate, LabelScores, NumberScores, Scores, TestScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Pieces of sentences about a task.

    `tag` and `metric` are the task and its score on the Hugging Face Hub. {} stands for a score,
    a gain in points or a number of outputs, {an} for what an example is called.
    """

    tag: str
    metric: str
    name: str  # the score
    score: str  # the score in a sentence
    right: str  # after a score in per cent
    be: str  # after "is expected to"
    does: str  # after "it"
    before: str  # after "the linear probe", in the past
    than: str  # a gain, before "than"
    tie: str  # no gain in score, and yet better
    hardly: str  # after "if hardly"
    answers: str
    output: str
    ask: str  # what the model does
    apart: str  # what each layer is tested for
    blind: str  # the best constant prediction
    idle: str  # its score
    label: str  # what an example has
    more: str  # "twice as many", of what


CLASS_WORDS = Words(
    tag="image-classification",
    metric="accuracy",
    name="accuracy",
    score="accuracy",
    right="right",
    be="reach an accuracy of {}",
    does="has an accuracy of {}",
    before="had an accuracy of {}",
    than="{} points more accurate",
    tie="about as accurate as the linear probe, with better calibrated probabilities",
    hardly="more accurate",
    answers="probabilities",
    output="{} classes",
    ask="predict the class of {an}",
    apart="separates the classes",
    blind="always predicting the largest class",
    idle="always predicting the largest class is right on {}",
    label="label",
    more="more a class",
)
LABEL_WORDS = Words(
    tag="image-classification",
    metric="mean_average_precision",
    name="mean average precision",
    score="mean average precision",
    right="mean average precision",
    be="reach a mean average precision of {}",
    does="has a mean average precision of {}",
    before="had a mean average precision of {}",
    than="{} points of mean average precision better",
    tie="about as precise as the linear probe, with better calibrated probabilities",
    hardly="more precise",
    answers="probabilities",
    output="{} labels",
    ask="predict the labels of {an}",
    apart="predicts the labels of {an}",
    blind="a random ranking",
    idle="a random ranking has {}",
    label="label",
    more="more a label",
)
NUMBER_WORDS = Words(
    tag="image-feature-extraction",
    metric="r2",
    name="R²",
    score="variance explained (R²)",
    right="of the variance explained",
    be="explain {} of the variance (R²)",
    does="explains {} of the variance (R²)",
    before="explained {} of the variance",
    than="{} points of explained variance better",
    tie="about as accurate as the linear probe, with slightly smaller errors",
    hardly="by much",
    answers="numbers",
    output="{} number",
    ask="predict the number of {an}",
    apart="predicts the number",
    blind="always predicting the mean",
    idle="always predicting the mean explains {}",
    label="number",
    more="more examples",
)
TASK_WORDS: dict[Task, Words] = {
    "classify": CLASS_WORDS,
    "multilabel": LABEL_WORDS,
    "regress": NUMBER_WORDS,
}
_MAIN_METRICS = {Scores: "accuracy", LabelScores: "mAP", NumberScores: "r2"}

# Titles of evidence; {many} is what examples are called.
EVIDENCE_NAMES = {
    "permutation_test": "permutation test: can it be learnt at all",
    "transfer_gain": "transfer gain",
    "depth": "all layers instead of the last",
    "learning_curve": "learning curve: twice as many {many}",
    "fine_tuning_gain": "fine-tuning gain",
    "domain_gap": "domain gap",
    "label_noise_ceiling": "label-noise ceiling",
    "preprocessing": "another preprocessing",
    "scratch": "from scratch, with twice the {many}",
}


def percent(share: float, digits: int = 0) -> str:
    """A share in per cent; 0 and 100 only where they are exact.

    >>> percent(0.8612), percent(0.9996), percent(1.0)
    ('86 %', '99.9 %', '100 %')
    """
    value = 100 * share
    text = f"{value:.{digits}f}"
    if (float(text) == 100 and share < 1) or (float(text) == 0 and share > 0):
        text = f"{min(max(value, 0.1), 99.9):.1f}"
    return f"{text} %".replace("-", "−")


def score_of(scores: TestScores) -> float:
    """The main score of the task: accuracy, mean average precision or R²."""
    return float(getattr(scores, _MAIN_METRICS[type(scores)]))


def test_estimate(scores: TestScores) -> Estimate:
    """The main score of a test set, with its interval."""
    return Estimate(
        metric=_MAIN_METRICS[type(scores)],
        value=score_of(scores),
        low=scores.low,
        high=scores.high,
        n=scores.n,
        method="holdout",
    )


def label_text(label: str, task: Task) -> str:
    """A label in a record, for people.

    >>> label_text("cat|owl", "multilabel"), label_text("", "multilabel")
    ('cat, owl', 'nothing')
    """
    return ", ".join(split_labels(label)) or "nothing" if task == "multilabel" else label


def contradiction(label: str, suggested: str, task: Task) -> str:
    """A label issue: the label, and what the example looks like instead.

    >>> contradiction("cat|owl", "owl", "multilabel")
    'labelled cat, owl, looks like owl'
    """
    return f"labelled {label_text(label, task)}, looks like {label_text(suggested, task)}"


def other_metrics(scores: TestScores) -> str:
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
    inside = ""
    if scores.coverage is not None:
        inside = (
            f", {100 * scores.coverage:.1f} % inside their intervals "
            f"({100 * scores.promised:.0f} % promised)"
        )
    return (
        f"mean absolute error {scores.mae:.4g}, root mean squared error {scores.rmse:.4g}{inside}."
    )


def points(share: float) -> str:
    """A share in percentage points, whole ones from 1.5 on.

    >>> points(0.124), points(0.004), points(-0.0001), points(-0.02)
    ('12', '0.4', '0', '−2')
    """
    value = abs(100 * share)
    text = f"{value:.0f}" if value >= 1.5 else f"{value:.1f}"
    if not float(text):
        return "0"
    return f"−{text}" if share < 0 else text


def signed_points(share: float) -> str:
    """A difference of shares in points, with its sign.

    >>> signed_points(0.031), signed_points(-0.004), signed_points(0.0)
    ('+3', '−0.4', '0')
    """
    text = points(share)
    return f"+{text}" if share > 0 and text != "0" else text


def signal_text(words: Words, value: float, low: float, high: float) -> str:
    """The result of the permutation test in words; `value`, `low` and `high` are shares.

    >>> signal_text(CLASS_WORDS, 0.996, 0.05, 0.11)
    'A linear probe has an accuracy of 99.6 %; with shuffled labels it is 5 to 11 %.'
    >>> signal_text(NUMBER_WORDS, 0.4, -0.07, 0.1)[-39:]
    'with shuffled numbers it is −7 to 10 %.'
    """
    score = words.does.format(percent(value))
    shuffled = f"with shuffled {words.label}s it is {100 * low:.0f} to {100 * high:.0f} %"
    return f"A linear probe {score}; {shuffled}.".replace("-", "−")


def change_text(value: float, low: float, high: float, of: str = "") -> str:
    """A difference of scores with its interval; `of` names the score.

    >>> change_text(0.0, -0.021, 0.034), change_text(0.05, 0.01, 0.09, "accuracy")
    ('0 points (95 % CI −2 to +3)', '+5 points of accuracy (95 % CI +1.0 to +9)')
    """
    ends = f"95 % CI {signed_points(low)} to {signed_points(high)}"
    return f"{signed_points(value)} points{f' of {of}' if of else ''} ({ends})"
