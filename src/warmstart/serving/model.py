"""The model behind a server as plain functions, the server's limits, and an answer in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.formatting import joined
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.inputs import Kind
from warmstart.records.summary import Estimate

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ServedPicture:
    """One input as the network takes it.

    `pixels` (H, W, C) uint8 of an image. `box` is their region of the original: left, top, right,
    bottom as shares of its width and height.
    """

    name: str
    pixels: NDArray[np.uint8]
    box: Box


@dataclass(frozen=True, slots=True)
class UnreadableInput:
    """One input that could not be read, and why; `is_too_large`: it has too many pixels."""

    name: str
    why: str
    is_too_large: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """An occlusion heat map: cover a region of the picture, and see how the answer changes.

    `grid` (rows, columns) is 0 where covering changed nothing (or helped) and 1 where it changed
    most, less where even that was little. `covered` is the label's probability with the most
    important region covered.
    """

    label: str
    probability: float
    covered: float
    grid: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The functions that a server calls.

    `decode` turns bytes and a name into an input of the network; it is called from several threads
    and never raises on bad bytes. `answer` and `explain` are called from one thread, with at most
    `ServerLimits.batch` inputs; `no_heat` says why there is no `explain`. `index_of` is the
    position of a training example by its id, `label_of` its label by position, `thumbnail` a
    small JPEG of it, None where it is missing.
    """

    title: str
    labels: tuple[str, ...]
    metadata: Mapping[str, Any]
    decode: Callable[[bytes, str], ServedPicture | UnreadableInput]
    answer: Callable[[Sequence[ServedPicture]], Sequence[Answer]]
    explain: Callable[[ServedPicture], Heat] | None
    index_of: Callable[[str], int | None]
    label_of: Callable[[int], str]
    thumbnail: Callable[[int], bytes | None]
    no_heat: str = ""
    kind: Kind = IMAGE.kind  # of the inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits beyond which a request is refused.

    Seconds end in `_s`. `queue` counts inputs being decoded, waiting, or in work. `held_bytes`
    bounds the memory of all request bodies together.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    images: int = 32  # in one request
    rows: int = 200  # of a table, in one request
    queue: int = 256
    batch: int = 32
    explaining: int = 4  # heat maps at a time: each takes up to a second
    connections: int = 512
    gather_s: float = 0.004  # how long the first image of a batch waits for others
    idle_s: float = 10.0  # between two requests on one connection
    head_s: float = 10.0  # for the head of a request
    body_s: float = 30.0  # for its body
    answer_s: float = 60.0  # for its answer
    stop_s: float = 60.0  # for pending requests when the server is stopped


# ---- An answer in words, which the page shows before any number.


CERTAIN = 0.98  # a calibrated probability from which "confident" needs no "fairly"
RIVAL = 0.5  # of the best: classes of at least this probability are named too
MOST_NAMED = 3  # classes
LITTLE = 0.05  # loss of probability below which a region decides nothing


def own_keys(answer: Answer) -> dict[str, Any]:
    """The further keys of an answer with several labels, or of a number."""
    if isinstance(answer, LabelAnswer):
        return {"labels": list(answer.labels)}
    if isinstance(answer, NumberAnswer):
        return {"value": answer.value, "low": answer.low, "high": answer.high}
    return {}


def words(answer: Answer, nouns: Nouns = IMAGE.nouns) -> str:
    """An answer as one would say it to a friend.

    >>> one = dict(path="", ood=False, label="shirt", probability=0.9, scores={"shirt": 0.9})
    >>> words(Answer(confident=True, **one)), words(Answer(confident=None, **one))
    ('shirt, fairly confident', 'probably shirt')
    >>> rivals = one | {"scores": {"shirt": 0.4, "dress": 0.3, "hat": 0.1}}
    >>> words(Answer(confident=False, **rivals))
    'uncertain: shirt or dress'
    >>> words(Answer(confident=False, **(one | {"ood": True})))
    'unlike the training images'
    >>> words(LabelAnswer(confident=True, labels=("shirt", "hat"), **one))
    'shirt, hat; confident'
    >>> number = one | {"label": "7.5", "probability": None, "scores": {}}
    >>> words(NumberAnswer(confident=None, value=7.5, low=6.0, high=9.0, **number))
    '7.5 (6 to 9)'
    """
    is_number = isinstance(answer, NumberAnswer)
    if answer.label is None or (answer.probability is None and not is_number):
        return f"not {nouns.an}"
    if answer.ood:
        return f"unlike the training {nouns.many}"
    if isinstance(answer, NumberAnswer):
        if answer.low is None or answer.high is None:
            return str(answer.label)
        return f"{answer.label} ({answer.low:.4g} to {answer.high:.4g})"
    if isinstance(answer, LabelAnswer):
        labels = ", ".join(answer.labels) or "none of the labels"
        return f"{labels}; confident" if answer.confident else labels
    if answer.confident:
        is_certain = (answer.probability or 0.0) >= CERTAIN
        return f"{answer.label}, {'confident' if is_certain else 'fairly confident'}"
    rivals = close_classes(answer)
    if answer.confident is False or len(rivals) > 1:
        return f"uncertain: {either(rivals)}"
    return f"probably {answer.label}"


def close_classes(answer: Answer) -> list[str]:
    """The best class and those nearly as probable, the best first."""
    least = RIVAL * max(answer.scores.values(), default=0.0)
    return [label for label, p in answer.scores.items() if p >= least][:MOST_NAMED]


def either(names: Sequence[str]) -> str:
    """Names as alternatives."""
    if len(names) == 1:
        return f"perhaps {names[0]}"
    return joined(names, "or")


def promise_words(estimate: Estimate | None, nouns: Nouns = IMAGE.nouns) -> str:
    """How accurate the model is, for a reader who never trained a network."""
    if estimate is None:
        return "Its accuracy was not measured."
    value, low, high = (
        f"{100 * share:.0f}".replace("-", "−")
        for share in (estimate.value, estimate.low, estimate.high)
    )
    ci = f"(95 % CI {low} to {high})" if estimate.low < 0 else f"(95 % CI {low}–{high})"
    if estimate.metric == "r2":
        return f"It explains about {value} % of the variance {ci} of new numbers."
    if estimate.metric == "mAP":
        return f"Its mean average precision on new {nouns.many} is about {value} % {ci}."
    if value == "100":
        return f"Right nearly every time {ci} on new {nouns.many}."
    return f"Right about {value} times in 100 {ci} on new {nouns.many}."


def heat_words(label: str, probability: float, covered: float) -> str:
    """What a heat map shows."""
    # As on the page's bars: no single answer is certain.
    before, after = (
        "> 99 %" if p >= 0.995 else "< 1 %" if p < 0.005 else f"{100 * p:.0f} %"
        for p in (probability, covered)
    )
    if probability - covered < LITTLE:
        least = f"more than {after[2:]}" if after.startswith("> ") else f"at least {after}"
        return f"No single region decides: whichever is covered, {label} keeps {least}."
    return f"With the highlighted region covered, {label} falls from {before} to {after}."
