"""An answer in words, before any number: what the page shows first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from warmstart.nouns import IMAGES, Nouns
from warmstart.records.answer import Answer, LabelAnswer, NumberAnswer
from warmstart.records.summary import Estimate

UNKNOWN = "unlike anything I was shown"
ALMOST = 0.98  # a calibrated probability from which "confident" needs no "fairly"
RIVAL = 0.5  # of the best: a class as probable as that is named beside it
NAMED = 3  # classes, at most
LITTLE = 0.05  # of probability: a part whose loss costs less decides nothing


def own_keys(answer: Answer) -> dict[str, Any]:
    """What answers of several labels, or of a number, say beside others."""
    if isinstance(answer, LabelAnswer):
        return {"labels": list(answer.labels)}
    if isinstance(answer, NumberAnswer):
        return {"value": answer.value, "low": answer.low, "high": answer.high}
    return {}


def _number_words(answer: NumberAnswer) -> str:
    """A number with its interval.

    >>> said = dict(path="", label="7.5", probability=None, sure=None, unknown=False, scores={})
    >>> words(NumberAnswer(value=7.5, low=6.0, high=9.0, **said))
    '7.5 (6 to 9)'
    """
    if answer.low is None or answer.high is None:
        return str(answer.label)
    return f"{answer.label} ({answer.low:.4g} to {answer.high:.4g})"


def _label_words(answer: LabelAnswer) -> str:
    """The labels that are named.

    >>> said = dict(path="", label="a", probability=0.9, unknown=False, scores={"a": 0.9})
    >>> words(LabelAnswer(sure=True, labels=("a", "b"), **said))
    'a, b; sure'
    """
    named = ", ".join(answer.labels) or "none of the labels"
    return f"{named}; sure" if answer.confident else named


def words(answer: Answer, nouns: Nouns = IMAGES) -> str:
    """What one would say to a friend.

    >>> seen = dict(path="", unknown=False, label="shirt", probability=0.9, scores={"shirt": 0.9})
    >>> words(Answer(sure=True, **seen)), words(Answer(sure=None, **seen))
    ('shirt, fairly sure', 'probably shirt')
    >>> words(Answer(confident=False, **(seen | {"scores": {"shirt": 0.4, "dress": 0.3, "hat": 0.1}})))
    'not sure: shirt or dress'
    >>> words(Answer(confident=False, **(seen | {"unknown": True})))
    'unlike anything I was shown'
    """
    if isinstance(answer, NumberAnswer) and answer.label is not None:
        return UNKNOWN if answer.ood else _number_words(answer)
    if answer.label is None or answer.probability is None:
        return f"not {nouns.an}"
    if answer.ood:
        return UNKNOWN
    if isinstance(answer, LabelAnswer):
        return _label_words(answer)
    if answer.confident:
        return f"{answer.label}, {'sure' if answer.probability >= ALMOST else 'fairly sure'}"
    rivals = close_classes(answer)
    if answer.confident is False or len(rivals) > 1:
        return f"not sure: {either(rivals)}"
    return f"probably {answer.label}"


def close_classes(answer: Answer) -> list[str]:
    """The best class and those nearly as probable, the best first."""
    least = RIVAL * max(answer.scores.values(), default=0.0)
    return [label for label, p in answer.scores.items() if p >= least][:NAMED]


def either(names: Sequence[str]) -> str:
    """Names in a row.

    >>> either(["a"]), either(["a", "b"]), either(["a", "b", "c"])
    ('perhaps a', 'a or b', 'a, b or c')
    """
    if len(names) == 1:
        return f"perhaps {names[0]}"
    return f"{', '.join(names[:-1])} or {names[-1]}"


def promise_words(estimate: Estimate | None, nouns: Nouns = IMAGES) -> str:
    """How often the model is right, for a reader who never trained a network.

    >>> said = Estimate(metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="holdout")
    >>> promise_words(said)
    'Right about 86 times in 100 (82 to 89) on images it had not seen.'
    """
    if estimate is None:
        return "How often it is right was not measured."
    value, low, high = (
        f"{100 * share:.0f}".replace("-", "−")
        for share in (estimate.value, estimate.low, estimate.high)
    )
    if estimate.metric == "r2":
        return f"It explains about {value} % of the variance ({low} to {high}) of new numbers."
    if estimate.metric == "mAP":
        on = f"on new {nouns.many}"
        return f"Its mean average precision {on} is about {value} % ({low} to {high})."
    if value == "100":
        return f"Right nearly every time ({low} to {high} in 100) on {nouns.many} it had not seen."
    return f"Right about {value} times in 100 ({low} to {high}) on {nouns.many} it had not seen."


def heat_words(label: str, probability: float, covered: float) -> str:
    """What a heat map says.

    >>> heat_words("shirt", 0.83, 0.41)
    'With the glowing part covered, shirt falls from 83 % to 41 %.'
    >>> heat_words("shirt", 0.83, 0.81)
    'No single part decides: whichever is covered, shirt keeps at least 81 %.'
    >>> heat_words("shirt", 0.999, 0.998)
    'No single part decides: whichever is covered, shirt keeps more than 99 %.'
    """
    before, after = (_percent(share) for share in (probability, covered))
    if probability - covered < LITTLE:
        least = f"more than {after[2:]}" if after.startswith("> ") else f"at least {after}"
        return f"No single part decides: whichever is covered, {label} keeps {least}."
    return f"With the glowing part covered, {label} falls from {before} to {after}."


def _percent(share: float) -> str:
    """As on the page's bars: no single answer is certain."""
    if share >= 0.995:
        return "> 99 %"
    return "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"
