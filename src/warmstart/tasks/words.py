"""How sentences speak of a task's score."""

from __future__ import annotations

from dataclasses import dataclass


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
    knowledge: str
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
    knowledge=(
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
    knowledge=(
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
    knowledge=(
        "a quick linear probe explains {trained} of the numbers' variance with the pretrained "
        "weights, {shuffled} with the same weights shuffled, {pixels} from {plain}"
    ),
    ranked="{shown} of the variance explained on {n} it had not seen",
    more="more examples",
)
