"""How sentences speak of a task's score."""

from __future__ import annotations

from dataclasses import dataclass

from warmstart.records.data import Task, split_labels
from warmstart.records.summary import Estimate, LabelScores, NumberScores, Scores, TestScores

# ---- How cards and reports speak of a task's score and outputs.


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
        tag="image-classification",
        metric="accuracy",
        name="accuracy",
        right="right",
        output="{} classes",
        ask="name the class of {an}",
        apart="tells the classes apart",
        blind="always answering the largest class",
        naming="always naming the largest class",
        idle="always naming the largest class is right on {}",
        before="was right {} of the time",
        label="label",
    ),
    "multilabel": TaskWords(
        tag="image-classification",
        metric="mean_average_precision",
        name="mean average precision",
        right="mean average precision",
        output="{} labels",
        ask="name the labels of {an}",
        apart="tells which labels {an} has",
        blind="ranking at random",
        naming="ranking at random",
        idle="ranking at random reaches {}",
        before="reached a mean average precision of {}",
        label="label",
    ),
    "regress": TaskWords(
        tag="image-feature-extraction",
        metric="r2",
        name="R²",
        right="of the variance explained",
        output="{} number",
        ask="tell the number of {an}",
        apart="tells the number",
        blind="always answering the mean",
        naming="always answering the mean",
        idle="always answering the mean explains {}",
        before="explained {} of the variance",
        label="number",
    ),
}


# What was measured, by the name of the evidence; {many} is what examples are called.
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
        metric=metric,
        value=score_of(scores),
        low=scores.low,
        high=scores.high,
        n=scores.n,
        method="holdout",
    )


def label_text(label: str, task: Task) -> str:
    """What an example is labelled as records hold it, for people.

    >>> label_text("cat|owl", "multilabel"), label_text("", "multilabel"), label_text("a|b", "classify")
    ('cat, owl', 'nothing', 'a|b')
    """
    return ", ".join(split_labels(label)) or "nothing" if task == "multilabel" else label


def contradiction(label: str, suggested: str, task: Task) -> str:
    """A doubted label and what the example looks like instead.

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
    inside = (
        ""
        if scores.coverage is None
        else (
            f", {100 * scores.coverage:.1f} % inside their intervals "
            f"({100 * scores.promised:.0f} % promised)"
        )
    )
    return (
        f"mean absolute error {scores.mae:.4g}, root mean squared error {scores.rmse:.4g}{inside}."
    )


def points(share: float) -> str:
    """A share as whole points where that says enough.

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
    """What the permutation test found, in words; shares.

    >>> signal_text(NUMBER_WORDS, 0.4, -0.07, 0.1)[-39:]
    'with shuffled numbers it is −7 to 10 %.'
    """
    shown = {"value": 100 * value, "low": 100 * low, "high": 100 * high}
    return words.signal.format(**shown).replace("-", "−")


def change_text(value: float, low: float, high: float, of: str = "") -> str:
    """A difference of scores with its interval; `of` names the score.

    >>> change_text(0.0, -0.021, 0.034), change_text(0.05, 0.01, 0.09, "accuracy")
    ('0 points (95 % CI −2 to +3)', '+5 points of accuracy (95 % CI +1.0 to +9)')
    """
    ends = f"95 % CI {signed_points(low)} to {signed_points(high)}"
    return f"{signed_points(value)} points{f' of {of}' if of else ''} ({ends})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Pieces of sentences; `{…}` stands for a score in percent, or a gain in points."""

    be: str  # after "is expected to"
    does: str  # after "it"
    about: str  # beside what can be learnt
    has: str  # after "a new output on it"
    no_better: str
    ahead: str  # a gain
    than: str  # the same before "than"
    tie: str  # no gain in score, and yet better
    answers: str
    hardly: str  # after "if hardly"
    blindly: str  # after "no better than"
    score: str
    signal: str
    alone: str  # the same without any network
    transfer_gain: str
    ranked: str  # why a start is taken
    more: str  # examples, of which so many more would bring something


CLASS_WORDS = Words(
    be="be {} % right",
    does="is {} % right",
    about="about {} % right",
    has="is about {} % right",
    no_better="it was right no more often",
    ahead="is right {} points more often",
    than="{} points more often right",
    tie=("about as often right as the linear probe, and its probabilities are nearer the truth"),
    answers="probabilities",
    hardly="more right answers",
    blindly="always guessing the largest class",
    score="accuracy",
    signal=(
        "The network's best guess is right {value:.0f} % of the time; "
        "with shuffled labels it is right {low:.0f} to {high:.0f} %."
    ),
    alone="From {plain} alone it is right {value:.0f} % of the time.",
    transfer_gain=(
        "a quick linear probe is right {trained} of the time with the pretrained weights, "
        "{shuffled} with the same weights shuffled, {pixels} from {plain}"
    ),
    ranked="right on {shown} of {n} it had not seen",
    more="more a class",
)
LABEL_WORDS = Words(
    be="reach a mean average precision of {} %",
    does="reaches a mean average precision of {} %",
    about="a mean average precision of about {} %",
    has="has a mean average precision of about {} %",
    no_better="it was no better",
    ahead="gains {} points of mean average precision",
    than="{} points more of mean average precision",
    tie="about as precise as the linear probe, and its probabilities are nearer the truth",
    answers="probabilities",
    hardly="a higher precision",
    blindly="ranking at random",
    score="mean average precision",
    signal=(
        "The network's best guess has a mean average precision of {value:.0f} %; "
        "with shuffled labels it is {low:.0f} to {high:.0f} %."
    ),
    alone="From {plain} alone it has {value:.0f} %.",
    transfer_gain=(
        "a quick linear probe has a mean average precision of {trained} with the pretrained "
        "weights, {shuffled} with the same weights shuffled, {pixels} from {plain}"
    ),
    ranked="mean average precision {shown} on {n} it had not seen",
    more="more a label",
)
NUMBER_WORDS = Words(
    be="explain {} % of the variance (R²)",
    does="explains {} % of the variance (R²)",
    about="about {} % of the variance explained",
    has="explains about {} % of the variance",
    no_better="it explained no more of the variance",
    ahead="explains {} points more of the variance",
    than="{} points more of the variance explained",
    tie="about as near to the truth as the linear probe, and a little nearer",
    answers="numbers",
    hardly="by much",
    blindly="always answering the mean",
    score="variance explained (R²)",
    signal=(
        "The network's best guess explains {value:.0f} % of the numbers' variance (R²); "
        "with shuffled numbers it is {low:.0f} to {high:.0f} %."
    ),
    alone="From {plain} alone it explains {value:.0f} %.",
    transfer_gain=(
        "a quick linear probe explains {trained} of the numbers' variance with the pretrained "
        "weights, {shuffled} with the same weights shuffled, {pixels} from {plain}"
    ),
    ranked="{shown} of the variance explained on {n} it had not seen",
    more="more examples",
)
