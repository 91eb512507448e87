"""The verdict: the first row of a table that matches the evidence (RECIPE §4).

A test that was not run never matches. Numbers are shares (0.05 = 5 points of accuracy).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from warmstart.planning.basis import START, Basis
from warmstart.records import Evidence, VerdictKind
from warmstart.tasks.words import CLASS_WORDS, Words

SIGNAL_P = 0.01
PLAIN_P = 0.005  # the same without a network, asked second: both together err in less than 2 %
# Below so many examples a p above 0.01 says little: of 12 draws of 20 to 39 images from real
# sets that would have been called no-signal, the model beat chance in 10 (bench/verdict).
LEAST_EXAMPLES = 40
NEAR = 0.01  # of accuracy: a difference that nobody would train longer for
LITTLE = 0.02  # of mistakes: tuning deeper cannot bring more, and would hardly show


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Constants of the table, shares of accuracy, held against outcomes by `bench run calibrate`.

    `blind`: 100 examples of two classes could miss an effect of 24 to 26 points, 66 one of 30.
    """

    blind: float = 0.30  # an effect this large could be missed: too few examples to say anything
    fair: float = 0.10  # knowledge worth less than this, at most, makes scratch fair
    enough: float = LITTLE  # what tuning may bring at most where a new output is called enough


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the table looks at; None where a test was not run."""

    p: float
    mde: float
    n: int = LEAST_EXAMPLES  # examples that the signal test saw
    plain: float = 0.0  # accuracy there without any network, where p shows no signal
    plain_p: float = 1.0
    accuracy: float = 0.0  # of a new output, there
    mistakes: float = 1.0  # of it, at most, with 90 % certainty
    knowledge: float | None = None
    knowledge_error: float = 0.0
    tail_gain: float | None = None
    tail_error: float = 0.0
    scratch_gap: float | None = None  # from nothing with twice the examples, less what is there
    scratch_error: float = 0.0
    scratch_later: float = 0.0  # accuracy from nothing with twice the examples
    is_tuned: bool = False  # layers were trained because the user said so


def has_signal(p: float) -> bool:
    """Whether the labels can be told from shuffled ones.

    >>> has_signal(0.01), has_signal(0.02)
    (True, False)
    """
    return p <= SIGNAL_P


def is_hidden(p: float, plain_p: float) -> bool:
    """Whether the labels can be learnt, but not from what this start sees.

    >>> is_hidden(0.3, 0.005), is_hidden(0.3, 0.01), is_hidden(0.01, 0.005)
    (True, False, False)
    """
    return not has_signal(p) and plain_p <= PLAIN_P


def hides(evidence: Iterable[Evidence]) -> bool:
    """The same of the evidence of a check."""
    found = next((one.details for one in evidence if one.name == "signal"), {})
    return is_hidden(float(found.get("p", 0.0)), float(found.get("plain_p", 1.0)))


def verdict_kind(facts: Facts, limits: Limits = LIMITS) -> VerdictKind:
    """First match of the table.

    >>> verdict_kind(Facts(p=0.5, mde=0.4)), verdict_kind(Facts(p=0.5, mde=0.1))
    ('unclear', 'no-signal')
    >>> verdict_kind(Facts(p=0.5, mde=0.4, plain_p=0.001))
    'scratch-fair'
    >>> verdict_kind(Facts(p=0.5, mde=0.1, n=39))
    'unclear'
    >>> verdict_kind(Facts(p=0.001, mde=0.1))
    'unclear'
    >>> verdict_kind(Facts(p=0.001, mde=0.1, tail_gain=0.05, tail_error=0.01))
    'deeper'
    """
    if is_hidden(facts.p, facts.plain_p):
        return "scratch-fair"
    if not has_signal(facts.p):
        is_blind = facts.mde > limits.blind or facts.n < LEAST_EXAMPLES
        return "unclear" if is_blind else "no-signal"
    k, s = facts.knowledge, facts.knowledge_error
    if k is not None and k - 1.64 * s <= 0:
        return "scratch-fair" if k + 1.64 * s < limits.fair else "unclear"
    if _reaches(facts):
        return "scratch-fair"
    gain, error = facts.tail_gain, facts.tail_error
    if gain is None and not facts.is_tuned and leaves_little(facts.accuracy):
        return "head"
    if gain is not None and gain - 1.28 * error > 0:
        return "deeper"
    if gain is not None and gain + 1.28 * error < max(limits.enough, 2 * error):
        return "head"
    return "unclear"


def leaves_little(accuracy: float) -> bool:
    """Whether a new output is right so often that deeper layers have next to nothing to gain.

    >>> leaves_little(0.985), leaves_little(0.97)
    (True, False)
    """
    return accuracy >= 1 - LITTLE


def _reaches(facts: Facts) -> bool:
    """Whether, with 90 % certainty, scratch with twice the examples misses a point at most."""
    gap = facts.scratch_gap
    return gap is not None and gap - 1.28 * facts.scratch_error > -NEAR


def points(share: float) -> str:
    """A share as whole points where that says enough.

    >>> points(0.124), points(0.004), points(-0.0001)
    ('12', '0.4', '0')
    """
    value = round(100 * share, 1)
    if not value:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1.5 else f"{value:.1f}"


def sentence(
    kind: VerdictKind, facts: Facts, n: int, accuracy: float, words: Words = CLASS_WORDS,
    basis: Basis = START,
) -> str:  # fmt: skip
    """The verdict for someone who never trained a network."""
    if is_hidden(facts.p, facts.plain_p):
        return (
            f"Do not fine-tune from this start: what is asked can be told from "
            f"{basis.nouns.plain} ({words.about.format(points(facts.plain))}), but not from what "
            f"this start sees. Training from scratch is as fair; a start that knows this kind of "
            f"{basis.nouns.picture} would be better."
        )
    if not has_signal(facts.p):
        return _without_signal(kind, facts, n)
    if kind == "scratch-fair":
        return _scratch_fair(facts, words, basis)
    if kind == "deeper":
        return (
            f"{basis.train} brings about {points(facts.tail_gain or 0.0)} points ({_gain(facts)})."
        )
    if kind == "head":
        return _head(facts, words, basis)
    return _unclear(facts, accuracy, words, basis)


def _scratch_fair(facts: Facts, words: Words, basis: Basis) -> str:
    if _reaches(facts):
        return (
            "Training from scratch is as fair: with twice the examples the same design from "
            f"nothing is expected to {words.be.format(points(facts.scratch_later))}, which is "
            f"{_more(facts.scratch_gap or 0.0)} than what this start gives with these "
            f"({_interval(facts.scratch_gap or 0.0, facts.scratch_error)})."
        )
    return (
        "Do not fine-tune from this start: what it has learnt is worth "
        f"{points(facts.knowledge or 0.0)} points here ({_range(facts)}) beyond what the same "
        f"network scrambled, or {basis.nouns.plain}, give. Training from scratch is as fair; a "
        f"start that knows this kind of {basis.nouns.picture} would be better."
    )


def _head(facts: Facts, words: Words, basis: Basis) -> str:
    if facts.tail_gain is None:
        return (
            f"{basis.output} is enough: in the signal test it "
            f"{words.does.format(points(facts.accuracy))}, which leaves "
            f"{points(facts.mistakes)} points at most for {basis.training}."
        )
    most = facts.tail_gain + 1.28 * facts.tail_error
    if points(most) == "0" or most < 0:
        return (
            f"{basis.output} is enough: {basis.training} was tried, and on "
            f"examples held out {words.no_better} ({_gain(facts)} points)."
        )
    return (
        f"{basis.output} is enough; a gain of up to "
        f"{points(most)} points from {basis.training} cannot be excluded."
    )


def _without_signal(kind: VerdictKind, facts: Facts, n: int) -> str:
    if kind == "no-signal":
        return (
            f"No signal found in {n:,} examples; an effect of about {points(facts.mde)} points "
            "would have been. Training longer will not help."
        )
    if facts.mde >= 1:
        return (
            f"The groups among the {n:,} examples leave too little to shuffle: whether the labels "
            "can be learnt was not tested. Add examples of other groups."
        )
    if facts.mde <= LIMITS.blind:
        return (
            f"{n:,} examples are too few to tell a weak signal from none. Add examples and "
            "measure again."
        )
    return (
        f"{n:,} examples are too few to tell: even an effect of {points(facts.mde)} points "
        "could have been missed. Add examples and measure again."
    )


def _unclear(facts: Facts, accuracy: float, words: Words, basis: Basis) -> str:
    right = words.about.format(points(accuracy))
    if facts.knowledge is None:
        untried = f"Whether {basis.training} would pay was not measured: {basis.untried}."
        return (
            f"The labels can be learnt {basis.given} ({right} in the signal test). "
            f"{_deeper(facts, untried, basis)}"
        )
    if facts.knowledge - 1.64 * facts.knowledge_error <= 0:
        return (
            f"The labels can be learnt ({right}), but it is not clear that the start's own "
            f"knowledge helps: it is worth {points(facts.knowledge)} points ({_range(facts)})."
        )
    has = words.has.format(points(accuracy))
    return (
        f"This start knows this kind of {basis.nouns.picture}: a new output on it {has}, and what "
        f"it has learnt is worth {points(facts.knowledge)} points of that ({_range(facts)}). "
    ) + _deeper(facts, "Whether tuning deeper would bring more was not measured.", basis)


def _deeper(facts: Facts, untried: str, basis: Basis) -> str:
    """What is known of tuning deeper where that decides nothing."""
    if facts.tail_gain is None and facts.is_tuned:
        return f"Layers were {basis.trained} as you chose, whatever these tests say of it."
    if facts.tail_gain is None:
        return untried
    return (
        f"Whether {basis.training} pays is open: on examples held out it brings "
        f"{points(facts.tail_gain or 0.0)} points ({_gain(facts)})."
    )


def _range(facts: Facts) -> str:
    """The 90 % interval of the knowledge."""
    return _interval(facts.knowledge or 0.0, facts.knowledge_error)


def _gain(facts: Facts) -> str:
    """The 90 % interval of what tuning deeper brings."""
    return _interval(facts.tail_gain or 0.0, facts.tail_error)


def _more(gap: float) -> str:
    return f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'}"


def _interval(value: float, error: float) -> str:
    return f"{points(value - 1.64 * error)} to {points(value + 1.64 * error)}"
