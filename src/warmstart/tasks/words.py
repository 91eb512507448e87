"""How sentences speak of a task's score."""

from __future__ import annotations

from dataclasses import dataclass


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
    tie=(
        "about as often right as the new output alone, and its probabilities are nearer the truth"
    ),
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
        "right {trained} of the time with the start's knowledge, {shuffled} with "
        "the same network scrambled, {pixels} from {plain}"
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
    tie="about as precise as the new output alone, and its probabilities are nearer the truth",
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
        "a mean average precision of {trained} with the start's knowledge, {shuffled} with "
        "the same network scrambled, {pixels} from {plain}"
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
    tie="about as near to the truth as the new output alone, and a little nearer",
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
        "{trained} of the numbers' variance explained with the start's knowledge, {shuffled} "
        "with the same network scrambled, {pixels} from {plain}"
    ),
    ranked="{shown} of the variance explained on {n} it had not seen",
    more="more examples",
)
