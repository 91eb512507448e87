"""The verdict: the first row of a table that matches the evidence (RECIPE §4).

A test that was not run never matches. Numbers are shares (0.05 = 5 points of accuracy).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from warmstart.nouns import IMAGES, Nouns
from warmstart.records.network import BaseModelRecord
from warmstart.records.summary import Estimate, Evidence, FineTuningGain, VerdictKind
from warmstart.tasks.words import CLASS_WORDS, Words, change_text, points

# ---- What a run stands on, in the verdict's sentences: a start, one's own network, nothing yet.


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Pieces of sentences about what the labels are learnt from."""

    given: str  # after "The labels can be learnt"
    head: str  # what is fitted where no layer is trained
    training: str  # training layers, as a subject at the beginning of a sentence
    did: str  # what was done where the user chose {}
    untried: str  # what was compared where layers were not trained
    is_blank: bool = False  # the layers have learnt nothing yet
    nouns: Nouns = IMAGES  # what the examples are called


BASE = Basis(
    given="from this base model",
    head="The linear probe (a new head on the frozen network)",
    training="Fine-tuning",
    did="{} was fine-tuned",
    untried="only linear probes on the frozen network were compared",
)
OWN = replace(BASE, given="with your network")
# A network that was drawn at random has learnt nothing that labels could be learnt from.
BLANK = Basis(
    given="from these columns",
    head="A linear head on the columns and on untrained layers",
    training="Training the layers",
    did="{} was trained",
    untried="only linear heads on the columns and on untrained layers were compared",
    is_blank=True,
)


def basis_of(base: BaseModelRecord | None, nouns: Nouns = IMAGES) -> Basis:
    """The words for a start; of a network of the user's own nobody knows what it has learnt.

    >>> basis_of(None).given
    'from this base model'
    """
    if base is not None and base.is_random:
        return replace(BLANK, nouns=nouns)
    is_own = base is not None and base.arch.startswith("module:")
    return replace(OWN if is_own else BASE, nouns=nouns)


SIGNAL_P = 0.01
PLAIN_P = 0.005  # the same without a network, asked second: both together err in less than 2 %
# Below so many examples a p above 0.01 says little: of 12 draws of 20 to 39 images from real
# sets that would have been called no-signal, the model beat chance in 10 (bench/verdict).
LEAST_EXAMPLES = 40
NEAR = 0.01  # of accuracy: a difference that nobody would train longer for
LITTLE = 0.02  # of mistakes: tuning deeper cannot bring more, and would hardly show


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLimits:
    """Constants of the table, shares of accuracy, held against outcomes by `bench run calibrate`.

    `blind`: 100 examples of two classes could miss an effect of 24 to 26 points, 66 one of 30.
    """

    blind: float = 0.30  # an effect this large could be missed: too few examples to say anything
    fair: float = 0.10  # knowledge worth less than this, at most, makes scratch fair


LIMITS = VerdictLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFacts:
    """What the table looks at; None where a test was not run."""

    p: float
    mde: float
    n: int = LEAST_EXAMPLES  # examples that the signal test saw
    plain: float = 0.0  # accuracy there without any network, where p shows no signal
    plain_p: float = 1.0
    accuracy: float = 0.0  # of a new output, there
    mistakes: float = 1.0  # of it, at most, with 90 % certainty
    transfer_gain: float | None = None
    transfer_gain_error: float = 0.0
    scratch_gap: float | None = None  # from nothing with twice the examples, less what is there
    scratch_error: float = 0.0
    scratch_later: float = 0.0  # accuracy from nothing with twice the examples
    is_tuned: bool = False  # layers were trained, and compared with the linear probe
    ships_trained: bool = False  # and they ship: it is too late to advise against it


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


def hides_signal(evidence: Iterable[Evidence]) -> bool:
    """The same of the evidence of a check."""
    found = next((one.details for one in evidence if one.name == "permutation_test"), {})
    return is_hidden(float(found.get("p", 0.0)), float(found.get("plain_p", 1.0)))


def verdict_kind(facts: VerdictFacts, limits: VerdictLimits = LIMITS) -> VerdictKind:
    """First match of the table.

    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.4)), verdict_kind(VerdictFacts(p=0.5, mde=0.1))
    ('unclear', 'no-signal')
    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.4, plain_p=0.001))
    'scratch-fair'
    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.1, n=39))
    'unclear'
    >>> verdict_kind(VerdictFacts(p=0.001, mde=0.1))
    'unclear'
    >>> verdict_kind(VerdictFacts(p=0.001, mde=0.1, accuracy=0.99))
    'head'
    """
    if is_hidden(facts.p, facts.plain_p):
        return "no-transfer"
    if not has_signal(facts.p):
        is_blind = facts.mde > limits.blind or facts.n < LEAST_EXAMPLES
        return "inconclusive" if is_blind else "no-signal"
    k, s = facts.transfer_gain, facts.transfer_gain_error
    if k is not None and k - 1.64 * s <= 0:
        return "no-transfer" if k + 1.64 * s < limits.fair else "inconclusive"
    if _reaches(facts):
        return "no-transfer"
    if not facts.is_tuned and leaves_little(facts.accuracy):
        return "linear-probe"
    return "inconclusive"


def leaves_little(accuracy: float) -> bool:
    """Whether a new output is right so often that deeper layers have next to nothing to gain.

    >>> leaves_little(0.985), leaves_little(0.97)
    (True, False)
    """
    return accuracy >= 1 - LITTLE


def _reaches(facts: VerdictFacts) -> bool:
    """Whether, with 90 % certainty, scratch with twice the examples misses a point at most."""
    gap = facts.scratch_gap
    return gap is not None and gap - 1.28 * facts.scratch_error > -NEAR


def sentence(
    kind: VerdictKind,
    facts: VerdictFacts,
    n: int,
    accuracy: float,
    words: Words = CLASS_WORDS,
    basis: Basis = BASE,
) -> str:
    """The verdict of the evidence, for someone who never trained a network.

    What a run then did is said by `outcome_sentence`. `accuracy` is the linear probe's where it
    has been estimated, else that of the signal test.
    """
    if is_hidden(facts.p, facts.plain_p):
        told = (
            f"what is asked can be told from {basis.nouns.plain} "
            f"({words.about.format(_percent(facts.plain))}), but not from "
        )
        against = _against(facts, f"{told}its features", f"{told}the base model's features")
        return f"{against}. {_BETTER.format(basis.nouns.picture)}"
    if not has_signal(facts.p):
        return _without_signal(kind, facts, n)
    if kind == "no-transfer":
        return _scratch_fair(facts, words, basis)
    if kind == "linear-probe":
        return (
            f"{basis.head} is enough: it {words.does.format(_percent(accuracy))}, which leaves at "
            f"most {points(facts.mistakes)} points for {basis.training.lower()}."
        )
    return _unclear(facts, accuracy, words, basis)


_BETTER = (
    "Training from scratch is as good; a base model that knows this kind of {} would be better."
)


def _against(facts: VerdictFacts, advice: str, fact: str) -> str:
    """Why not to fine-tune; only the reason where what was fine-tuned ships all the same."""
    if facts.ships_trained:
        return fact[0].upper() + fact[1:]
    return f"Do not fine-tune this base model: {advice}"


_CURE = "use --strategy head, or a lower learning rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did and measured, for the verdict to tell.

    `chosen` is the strategy that the user set, nothing where the depth was ours to choose. `blind`
    is the score of always giving the same answer. `given_up` says what was and why, where a
    training was.
    """

    estimate: Estimate
    gain: FineTuningGain | None
    is_fine_tuned: bool  # what ships was trained step by step
    chosen: str = ""
    blind: float = 0.0
    given_up: str = ""


def outcome_kind(outcome: Outcome, kind: VerdictKind) -> VerdictKind:
    """The kind that agrees with what was done; `kind` is that of the evidence before it.

    Where fine-tuning was compared with the linear probe, what ships is the verdict. A strategy of
    the user's own says nothing of which would be better, unless the comparison does.
    """
    if kind in ("no-signal", "no-transfer") or outcome.gain is None:
        return kind
    if not outcome.chosen:
        return "fine-tune" if outcome.is_fine_tuned else "linear-probe"
    if outcome.gain.low > 0:
        return "fine-tune"
    return "linear-probe" if outcome.gain.high < LITTLE else "inconclusive"


def outcome_sentence(outcome: Outcome, words: Words = CLASS_WORDS, basis: Basis = BASE) -> str:
    """What fine-tuning did, as a sentence in the past tense; nothing where it was not tried."""
    gain = outcome.gain
    if gain is None:
        return f"{outcome.given_up}." if outcome.given_up else ""
    change = change_text(gain.value, gain.low, gain.high, words.score)
    than = "over the linear probe" if not basis.is_blank else "over a head on untrained layers"
    against = than.replace("over", "against", 1)
    if outcome.chosen:
        text = f"{_did(outcome.chosen, basis)} as you chose: {change} {against}."
        if outcome.estimate.value <= outcome.blind < outcome.estimate.value - gain.value:
            return f"{text} It is no better than {words.blindly}: {_CURE}."
        return f"{text} The linear probe is better: {_CURE}." if gain.high < 0 else text
    if not outcome.is_fine_tuned:
        since = f", as its {words.answers} are no better" if gain.value > 0 else ""
        return f"{basis.training} was tried and not kept{since}: {change} {against}."
    if gain.low > 0:
        return f"{basis.training} helped: {change} {against}."
    lower = -gain.log_loss_change / max(gain.log_loss, 1e-9)
    if gain.log_loss_high < 0:
        return (
            f"{basis.training} made the {words.answers} better (log-loss {100 * lower:.0f} % "
            f"lower) at about the same {words.score}: {change} {against}."
        )
    return f"{basis.training} was kept for its lower log-loss: {change} {against}."


def _did(strategy: str, basis: Basis) -> str:
    """What was done where the user chose the strategy."""
    if strategy.startswith("scratch"):
        return "The network was trained from scratch"
    return basis.did.format(strategy)


def _percent(share: float) -> str:
    """A score in per cent, without its sign; no certainty that it is not.

    >>> _percent(0.86), _percent(0.997), _percent(1.0)
    ('86', '99.7', '100')
    """
    is_close = 0 < share < 0.005 or 0.995 <= share < 1
    return f"{100 * share:.1f}" if is_close else f"{100 * share:.0f}"


def _scratch_fair(facts: VerdictFacts, words: Words, basis: Basis) -> str:
    if _reaches(facts):
        return (
            "Training from scratch is as good: with twice the examples the same architecture "
            f"from scratch is expected to {words.be.format(_percent(facts.scratch_later))}, which "
            f"is {_more(facts.scratch_gap or 0.0)} than this base model gives with these "
            f"({_interval(facts.scratch_gap or 0.0, facts.scratch_error)})."
        )
    worth = (
        f"pretraining is worth {points(facts.transfer_gain or 0.0)} points here ({_range(facts)}) over "
        f"the same network with shuffled weights, or {basis.nouns.plain}"
    )
    return f"{_against(facts, f'its {worth}', worth)}. {_BETTER.format(basis.nouns.picture)}"


def _without_signal(kind: VerdictKind, facts: VerdictFacts, n: int) -> str:
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


def _unclear(facts: VerdictFacts, accuracy: float, words: Words, basis: Basis) -> str:
    right = f"linear probe: {words.about.format(_percent(accuracy))}"
    untried = "" if facts.is_tuned else _untried(facts, basis)
    if facts.transfer_gain is None:
        return f"The labels can be learnt {basis.given} ({right}).{untried}"
    if facts.transfer_gain - 1.64 * facts.transfer_gain_error <= 0:
        return (
            f"The labels can be learnt ({right}), but it is not clear that pretraining helps: it "
            f"is worth {points(facts.transfer_gain)} points ({_range(facts)})."
        )
    return (
        f"Pretraining is worth {points(facts.transfer_gain)} points here ({_range(facts)}): this base "
        f"model knows this kind of {basis.nouns.picture}.{untried}"
    )


def _untried(facts: VerdictFacts, basis: Basis) -> str:
    """That fine-tuning was not compared."""
    if facts.transfer_gain is None:
        return f" {basis.training} was not tried: {basis.untried}."
    return f" {basis.training} was not tried."


def _range(facts: VerdictFacts) -> str:
    """The 90 % interval of the knowledge."""
    return _interval(facts.transfer_gain or 0.0, facts.transfer_gain_error)


def _more(gap: float) -> str:
    return f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'}"


def _interval(value: float, error: float) -> str:
    return f"{points(value - 1.64 * error)} to {points(value + 1.64 * error)}"
