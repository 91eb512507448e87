"""An answer in words, which the page shows before any number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from warmstart.formatting import joined
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.summary import Estimate

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
