"""Words for a task's score, outputs and evidence in sentences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Pieces of sentences about a task.

    `tag` and `metric` are the task and its score on the Hugging Face Hub. {} stands for a score,
    a gain in points or a number of outputs, {an} for what an example is called.
    """

    tag: str
    metric: str
    name: str  # the score
    title: str  # the score before its value
    short: str  # the score over a column
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
    one: str  # an output
    many: str
    target: str  # what the model predicts
    unit: str  # of raw outputs
    ask: str  # what the model does
    summary: str  # the same of a model, with {n} outputs
    apart: str  # what each layer is tested for
    blind: str  # the best constant prediction
    idle: str  # its score
    label: str  # what an example has
    more: str  # "twice as many", of what
    crop: str  # why images are cropped as they are
    mirror: str  # why images are mirrored, or not


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
    """The result of the permutation test in words; `value`, `low` and `high` are shares."""
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
